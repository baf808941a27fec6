"""Events about claims and volumes: what `kubectl describe` shows to whoever waits for a pod."""

import hashlib
from typing import Any, Callable, Dict, Set

from freehold_agent.contract import moments
from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi
from freehold_bootstrap import journal
from freehold_controller.volume_provisioner.volume_objects import Claim, Persistent


class Events:
    """Each news is said once; a second leader that repeats it adds nothing. Never raises."""

    def __init__(self, api: KubernetesApi, identity: str, now: Callable[[], float]) -> None:
        self._api = api
        self._identity = identity
        self._now = now
        self._said: Set[str] = set()

    def about_claim(self, claim: Claim, reason: str, message: str, occasion: str = "") -> None:
        """Write a warning about a claim; another occasion makes the same words news."""
        self._write(claim.reference, occasion, reason, message)

    def about_volume(self, volume: Persistent, reason: str, message: str) -> None:
        """Write a warning about a PersistentVolume."""
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "name": volume.name,
            "uid": volume.uid,
        }
        self._write(reference, "", reason, message)

    def _write(self, about: Dict[str, str], occasion: str, reason: str, message: str) -> None:
        said = "\0".join((about["uid"], occasion, reason, message))
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        if digest in self._said:
            return
        if len(self._said) > 10000:
            self._said.clear()
        self._said.add(digest)
        journal.warning(message, about=about["kind"], name=about["name"], reason=reason)
        # Events of objects without a namespace belong to `default`; the API server insists on it.
        namespace = about.get("namespace", "default")
        when = moments.written(self._now())
        event: Dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "{}.{}".format(about["name"][:200], digest), "namespace": namespace},
            "involvedObject": about,
            "type": "Warning",
            "reason": reason,
            "action": "Provision",
            "message": message,
            "source": {"component": "freehold-controller"},
            "reportingComponent": "freehold.io/controller",
            "reportingInstance": self._identity,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
        try:
            self._api.create("/api/v1/namespaces/{}/events".format(namespace), event)
        except Conflict:
            pass
        except (ApiError, OSError) as error:
            journal.warning("event not written", name=about["name"], error=str(error))
