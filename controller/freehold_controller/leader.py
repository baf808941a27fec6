"""Leader election by a Lease, with upstream's rules and timings: whoever renews leads, others wait it out.

A lease left by our own identity is ours at once: one process per machine runs, so a restarted controller
need not wait for itself. Must not know what a leader does. Writes of an old leader that has not noticed yet
are made harmless elsewhere: every one of them is a compare-and-swap.
"""

import datetime
import time
from dataclasses import dataclass
from threading import Event
from typing import Any, Callable, Dict, Optional, Tuple

from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi, NotFound
from freehold_bootstrap import journal
from freehold_bootstrap.identities import NAMESPACE
from freehold_controller.backoff import Backoff

_COLLECTION = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


@dataclass(frozen=True)
class Timings:
    """Seconds, as in Kubernetes' own components."""

    lease: float = 15.0
    """A holder that has not renewed for so long has lost it."""
    renew: float = 10.0
    """A leader that could not renew for so long steps down."""
    retry: float = 2.0


class Leader:
    """This process' claim to lead."""

    def __init__(
        self,
        api: KubernetesApi,
        identity: str,
        *,
        name: str = "freehold-controller",
        namespace: str = NAMESPACE,
        timings: Optional[Timings] = None,
        single: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`single`: no other control plane exists, so a lease under any name is taken at once.

        `clock` counts seconds and never goes back; `now` is Unix time, only written, never compared.
        """
        self._api = api
        self._identity = identity
        self._collection = _COLLECTION.format(namespace)
        self._metadata = {"name": name, "namespace": namespace}
        self._path = self._collection + "/" + name
        self._timings = timings or Timings()
        self._single = single
        self._clock = clock
        self._now = now
        self._seen: Optional[Tuple[str, str]] = None
        self._seen_at = 0.0

    def attempt(self) -> bool:
        """Take or renew the lease in one try; False when another holds it. Raises ApiError, OSError."""
        try:
            lease = self._api.get(self._path)
        except NotFound:
            return self._write(self._lease({}, 0))
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        transitions = int(spec.get("leaseTransitions") or 0)
        if holder == self._identity:
            return self._write(self._lease(lease, transitions, since=str(spec.get("acquireTime") or "")))
        if holder and not self._single and not self._expired(holder, spec):
            return False
        return self._write(self._lease(lease, transitions + 1))

    def release(self) -> None:
        """Give the lease back, so that the next leader need not wait; failing to is no error."""
        try:
            lease = self._api.get(self._path)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"].update(holderIdentity="", leaseDurationSeconds=1, renewTime=self._timestamp())
                self._api.replace(self._path, lease)
        except (ApiError, OSError) as error:
            journal.warning("lease not released", error=str(error))

    def run(
        self, stop: Event, lead: Callable[[Event], None], beat: Callable[[], None] = lambda: None
    ) -> None:
        """Campaign and lead by turns until `stop`; then release.

        `lead(term)` starts the leader's work and returns; the work ends when `term` is set. `beat` is called
        at each step, as a sign of life.
        """
        backoff = Backoff(stop, longest=0.5)  # a first node may be waiting for us
        said = ""
        while not stop.is_set():
            beat()
            try:
                leading = self.attempt()
            except (ApiError, OSError) as error:
                if str(error) != said:  # not up yet, its roles not there yet: each news once
                    said = str(error)
                    journal.info("waiting for the API server", error=said)
                backoff.pause()
                continue
            backoff.reset()
            said = ""
            if not leading:
                stop.wait(self._timings.retry)
                continue
            journal.info("leading", identity=self._identity)
            term = Event()
            try:
                lead(term)
                self._keep(stop, beat)
            finally:
                term.set()
            if stop.is_set():
                self.release()
            else:
                journal.warning("lease lost", identity=self._identity)

    def _keep(self, stop: Event, beat: Callable[[], None]) -> None:
        """Renew until stopped, until another holds the lease, or until renewing failed for too long."""
        renewed = self._clock()
        while not stop.wait(self._timings.retry):
            beat()
            try:
                if not self.attempt():
                    if self._seen is not None and self._seen[0] not in ("", self._identity):
                        return
                else:
                    renewed = self._clock()
            except (ApiError, OSError) as error:
                journal.warning("lease not renewed", error=str(error))
            if self._clock() - renewed >= self._timings.renew:
                return

    def _expired(self, holder: str, spec: Dict[str, Any]) -> bool:
        """Say whether nothing changed for the lease's duration by our own clock: clocks may differ."""
        seen = (holder, str(spec.get("renewTime") or ""))
        if seen != self._seen:
            self._seen = seen
            self._seen_at = self._clock()
        duration = float(spec.get("leaseDurationSeconds") or self._timings.lease)
        return self._clock() - self._seen_at >= duration

    def _write(self, lease: Dict[str, Any]) -> bool:
        try:
            if lease["metadata"].get("resourceVersion"):
                self._api.replace(self._path, lease)
            else:
                self._api.create(self._collection, lease)
        except Conflict:
            return False
        self._seen = (self._identity, lease["spec"]["renewTime"])
        return True

    def _lease(self, lease: Dict[str, Any], transitions: int, since: str = "") -> Dict[str, Any]:
        now = self._timestamp()
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or dict(self._metadata),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, int(self._timings.lease)),
                "acquireTime": since or now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    def _timestamp(self) -> str:
        moment = datetime.datetime.fromtimestamp(self._now(), datetime.timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
