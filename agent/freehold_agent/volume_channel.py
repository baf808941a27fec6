"""Volumes in the node's one channel: what a list that came asks for is done, and reported to freehold-join.

`channel` asks and hands lists in; its thread acts and reports, in that order, so nothing is reported that is not so. A
thread of its own removes data, which may take long. While the control plane is away all that is there stays as it is.
"""

import http.client
import json
import threading
from typing import Any, Callable, Dict, Optional

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.volumes import DELETE, MAKE, VolumeList, VolumeReport
from freehold_agent.errors import AgentError
from freehold_agent.join_client import Reply, ask
from freehold_agent.journal import NOTICE, WARNING, Log
from freehold_agent.volumes import VolumeKeeper

PATIENCE = 20.0
"""Seconds for a report to be taken."""
RETRY = 60.0
"""Seconds until what could not be removed is tried again."""

_FAULTS = (OSError, ValueError, http.client.HTTPException, AgentError)


class ServiceError(OSError):
    """freehold-join answered with something else than what was asked for."""


class JoinService:
    """Requests to freehold-join as this node: endpoints, CA and certificate are read again for each."""

    def __init__(self, document: Callable[[], JoinDocument], root: str = "") -> None:
        self._document = document
        self._certificate = root + paths.KUBELET_CLIENT_CERTIFICATE

    def ask(self, method: str, path: str, body: Optional[bytes] = None) -> Reply:
        """Send one request to the first endpoint that answers. Raises OSError, DocumentError, AgentError."""
        document = self._document()
        if not document.join_endpoints:
            raise ServiceError("the document names no join service")
        failure: Optional[Exception] = None
        for endpoint in document.join_endpoints:
            try:
                return ask(
                    endpoint,
                    document.ca_pem,
                    method,
                    path,
                    body=body,
                    certificate=self._certificate,
                    timeout=PATIENCE,
                )
            except (OSError, http.client.HTTPException) as error:
                failure = error
        raise ServiceError("{}: {}".format(document.join_endpoints[-1], failure))


class VolumeChannel:
    """One node's volumes; `ready` and `receive` are for one thread, and never raise."""

    def __init__(self, service: JoinService, volumes: VolumeKeeper, log: Log) -> None:
        self._service = service
        self._volumes = volumes
        self._log = log
        self._stop = threading.Event()
        self._lock = threading.RLock()
        """Held while volumes are changed or looked at, and not while data is removed."""
        self._remove = threading.Event()
        self._begun = False
        self._owed = False
        """The list at hand was not acted on, or not reported, to its end."""
        self._refused = False
        """The list that came last could not be taken: asked again at once, it would come at once."""
        self._said = ""
        self._troubles: Dict[str, str] = {}

    def start(self) -> None:
        """Remove what is to be removed in a thread of its own, until the process ends."""
        threading.Thread(target=self.run_removals, name="volumes", daemon=True).start()

    def stop(self) -> None:
        """Let that thread end at its next step."""
        self._stop.set()
        self._remove.set()

    def ready(self) -> Optional[int]:
        """Finish what is owed; return the generation above which a list is wanted, None while there is trouble.

        The first time it takes up where the last process ended.
        """
        if self._refused:
            self._refused = False
            return None
        try:
            if not self._begun:
                wanted = self._volumes.load()
                self._owed = any(volume.state in (MAKE, DELETE) for volume in wanted.volumes)
                self._begun = True
            if self._owed:
                self._act()
        except _FAULTS as error:
            self._complain(error)
            return None
        return self._volumes.wanted.generation

    def receive(self, data: Dict[str, Any]) -> None:
        """Act on a list of volumes and report; what goes wrong is said, and tried again by `ready`."""
        try:
            wanted = VolumeList.from_json(data)
            with self._lock:
                self._volumes.accept(wanted)
        except _FAULTS as error:
            self._refused = True
            self._complain(error)
            return
        self._owed = True
        try:
            self._act()
        except _FAULTS as error:
            self._complain(error)

    def run_removals(self) -> None:
        """Remove data until stopped, whenever there is some to remove."""
        done = True
        while not self._stop.is_set():
            self._remove.wait(None if done else RETRY)
            self._remove.clear()
            try:
                done = self.remove_all()
            except _FAULTS as error:
                done = False
                self._complain(error)

    def remove_all(self) -> bool:
        """Remove every volume that is to go, and report; False when one could not be. Raises OSError."""
        removed = []
        self._volumes.try_again()
        while True:
            path = self._volumes.remove_next()
            if path is None:
                break
            removed.append(path)
        if removed:
            self._log(NOTICE, "volumes removed: " + " ".join(removed))
        report = self.send()
        return not any(
            volume.name in report.failed for volume in self._volumes.wanted.volumes if volume.state == DELETE
        )

    def send(self) -> VolumeReport:
        """Report what is there now; return the report. Raises OSError."""
        with self._lock:
            report = self._volumes.report()
        reply = self._service.ask("POST", "/v1/volumes", json.dumps(report.to_json()).encode())
        if reply.status != 200:
            raise ServiceError(_refusal(reply.status, reply.body))
        return report

    def _act(self) -> None:
        with self._lock:
            made = self._volumes.perform()
        if made:
            self._log(NOTICE, "volumes made: " + " ".join(made))
        report = self.send()
        self._owed, self._said = False, ""
        troubles = {name: "not made: " + refusal.message for name, refusal in report.refused.items()}
        troubles.update(report.failed)
        for name, why in troubles.items():
            if self._troubles.get(name) != why:
                self._log(WARNING, "volume {}: {}".format(name, why))
        self._troubles = troubles
        if any(volume.state == DELETE for volume in self._volumes.wanted.volumes):
            self._remove.set()

    def _complain(self, error: Exception) -> None:
        """Log each news once: a control plane that is away for an hour is one line."""
        said = "volumes: {}".format(error)
        if said != self._said:
            self._said = said
            self._log(WARNING, said)


def _refusal(status: int, body: bytes) -> str:
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = body[:200].decode("utf-8", "replace")
    return "freehold-join refused ({}): {}".format(status, said)
