"""The agent's line to the control plane: a long poll at freehold-join with the node's certificate, and reports back.

Volumes travel here. One thread waits, acts and reports, in that order, so nothing is reported that is not so; a second
one removes data, which may take long. While the control plane is away this waits, longer each time, and all that is
there stays as it is.
"""

import http.client
import json
import random
import socket
import threading
import urllib.parse
from typing import Any, Callable, Dict, Optional, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.volumes import DELETE, MAKE, VolumeList, VolumeReport
from freehold_agent.errors import AgentError
from freehold_agent.machine.https import pinned_context
from freehold_agent.volumes import VolumeKeeper

WAIT = 240.0
"""Seconds of one poll."""
PATIENCE = 20.0
"""Seconds beyond it until a silent service is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
RETRY = 60.0
"""Seconds until what could not be removed is tried again."""
LONGEST_ANSWER = 4 << 20

Log = Callable[[int, str], None]
WARNING, NOTICE = 4, 5
_FAULTS = (OSError, ValueError, http.client.HTTPException, AgentError)


class ServiceError(OSError):
    """freehold-join answered with something else than what was asked for."""


class JoinService:
    """Requests to freehold-join as this node: endpoints, CA and certificate are read again for each connection."""

    def __init__(self, document: Callable[[], JoinDocument], root: str = "") -> None:
        self._document = document
        self._certificate = root + paths.KUBELET_CLIENT_CERTIFICATE

    def node(self) -> str:
        """Return this node's name. Raises OSError, DocumentError, AgentError without a document."""
        return self._document().node

    def ask(
        self, method: str, path: str, body: Optional[bytes] = None, timeout: float = PATIENCE
    ) -> Tuple[int, bytes]:
        """Send one request to the first endpoint that answers; return status and body. `timeout` in seconds.

        Raises OSError, DocumentError.
        """
        document = self._document()
        if not document.join_endpoints:
            raise ServiceError("the document names no join service")
        failure: Optional[Exception] = None
        for endpoint in document.join_endpoints:
            parts = urllib.parse.urlsplit(endpoint)
            context = pinned_context(document.ca_pem, self._certificate)
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port or paths.JOIN_PORT, timeout=PATIENCE, context=context
            )
            try:
                connection.connect()
                _watch_for_death(connection.sock, timeout)
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                response = connection.getresponse()
                return response.status, response.read(LONGEST_ANSWER)
            except (OSError, http.client.HTTPException) as error:
                failure = error
            finally:
                connection.close()
        raise ServiceError("{}: {}".format(document.join_endpoints[-1], failure))


def _watch_for_death(stream: socket.socket, timeout: float) -> None:
    """Notice a peer that died without a word long before a poll would end."""
    stream.settimeout(timeout)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        stream.setsockopt(socket.IPPROTO_TCP, option, value)


class VolumeChannel:
    """One node's follower. `start` returns at once; it ends with the process."""

    def __init__(self, service: JoinService, volumes: VolumeKeeper, log: Log) -> None:
        self._service = service
        self._volumes = volumes
        self._log = log
        self._stop = threading.Event()
        self._lock = threading.RLock()
        """Held while volumes are changed or looked at, and not while data is removed."""
        self._remove = threading.Event()
        self._said = ""
        self._troubles: Dict[str, str] = {}

    def start(self) -> None:
        """Follow in threads of their own."""
        for name, work in (("channel", self.run), ("volumes", self.run_removals)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self) -> None:
        """Let both threads end at their next step."""
        self._stop.set()
        self._remove.set()

    def run(self) -> None:
        """Follow until stopped; what goes wrong is said once and tried again."""
        pause = FIRST_PAUSE
        begun = False
        while not self._stop.is_set():
            try:
                if not begun:
                    self.begin()
                    begun = True
                self.step()
                pause = FIRST_PAUSE
                self._said = ""
            except _FAULTS as error:
                self._complain(error)
                self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 no secret
                pause = min(pause * 2, LONGEST_PAUSE)

    def begin(self) -> None:
        """Take up where the last process ended: what is unfinished is done and reported. Raises OSError."""
        wanted = self._volumes.load()
        if any(volume.state in (MAKE, DELETE) for volume in wanted.volumes):
            self._act()

    def step(self, wait: float = WAIT) -> bool:
        """Wait for one newer list and act on it; False when none came. Raises OSError, VolumesError, DocumentError."""
        query = urllib.parse.urlencode({"volumes": self._volumes.wanted.generation, "wait": int(wait)})
        path = "/v1/document/{}?{}".format(urllib.parse.quote(self._service.node(), safe=""), query)
        status, body = self._service.ask("GET", path, timeout=wait + PATIENCE)
        if status == 204:
            return False
        if status != 200:
            raise ServiceError(_refusal(status, body))
        self.receive(json.loads(body))
        return True

    def receive(self, data: Dict[str, Any]) -> None:
        """Act on a list of volumes and report. Raises OSError, VolumesError."""
        wanted = VolumeList.from_json(data)
        with self._lock:
            self._volumes.accept(wanted)
        self._act()

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
        status, body = self._service.ask("POST", "/v1/volumes", json.dumps(report.to_json()).encode())
        if status != 200:
            raise ServiceError(_refusal(status, body))
        return report

    def _act(self) -> None:
        with self._lock:
            made = self._volumes.perform()
        if made:
            self._log(NOTICE, "volumes made: " + " ".join(made))
        report = self.send()
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
        said = "control plane: {}".format(error)
        if said != self._said:
            self._said = said
            self._log(WARNING, said)


def open_channel(document: Callable[[], JoinDocument], log: Log, root: str = "") -> VolumeChannel:
    """Return the channel of this machine, not yet started."""
    return VolumeChannel(JoinService(document, root), VolumeKeeper(root), log)


def _refusal(status: int, body: bytes) -> str:
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = body[:200].decode("utf-8", "replace")
    return "freehold-join refused ({}): {}".format(status, said)
