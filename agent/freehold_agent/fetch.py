"""Deliverers: how artifacts get into the store of this machine.

`Fetcher` takes them from the artifact services over HTTPS, `Waiter` waits for someone else to put them there,
and `receive` is that someone: it reads them from a stream that the installer sends.
"""

import http.client
import itertools
import json
import os
import queue
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Sequence

from freehold_agent.contract.resources import Artifact
from freehold_agent.errors import BadRequest, DeliveryFailed, DigestMismatch
from freehold_agent.machine import files
from freehold_agent.machine.https import connect_pinned
from freehold_agent.store import CHUNK, HashCache, Incoming, has, hash_file, path_of
from freehold_agent.this_machine import ThisMachine

PATH = "/v1/artifacts/"
_LONGEST_PAUSE = 5.0


class Waiter:
    """Waits until the installer's stream has put an artifact into the store."""

    def __init__(
        self,
        timeout: float = 120.0,
        *,
        machine: Optional[ThisMachine] = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """`timeout`: seconds without any new byte. `alive` is called each second and may raise to end it."""
        self._timeout = timeout
        self._store = (machine or ThisMachine()).store
        self._alive = alive

    def __call__(self, artifact: Artifact) -> None:
        """Return when the artifact is in place. Raises DeliveryFailed when nothing moves any more."""
        seen, moved = -1, time.monotonic()
        for turn in itertools.count():
            if has(artifact.sha256, artifact.size, self._store):
                return
            if turn % 100 == 99:
                self._alive()
                size = self._size()
                if size != seen:
                    seen, moved = size, time.monotonic()
                if time.monotonic() - moved > self._timeout:
                    raise DeliveryFailed(
                        "{}: no byte came for {:g} s".format(artifact.title, self._timeout),
                        hint="run apply again; what arrived is kept",
                    )
            time.sleep(0.01)

    def _size(self) -> int:
        try:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(self._store))
        except FileNotFoundError:
            return 0


class _Job:
    """One artifact on its way. The standard library's futures load a megabyte of modules into the resident agent."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.done = threading.Event()
        self.error: Optional[BaseException] = None


class Fetcher:
    """Fetches artifacts from artifact services: several at once, resumed, digests verified as bytes flow."""

    def __init__(
        self,
        endpoints: Sequence[str],
        ca_pem: str,
        parallel: int = 4,
        *,
        timeout: float = 15.0,
        patience: float = 120.0,
        machine: Optional[ThisMachine] = None,
    ) -> None:
        """`timeout`: seconds for one network step; `patience`: seconds without progress until giving up."""
        if not endpoints:
            raise BadRequest("no artifact service is known to fetch from")
        self._endpoints = list(endpoints)
        self._ca_pem = ca_pem
        self._timeout = timeout
        self._patience = patience
        self._machine = machine or ThisMachine()
        self._arrived: Dict[str, str] = {}
        self._parallel = parallel
        self._workers: List[threading.Thread] = []
        self._queue: queue.SimpleQueue[Optional[_Job]] = queue.SimpleQueue()
        self._local = threading.local()
        self._jobs: Dict[str, _Job] = {}
        self._stopped = threading.Event()
        self._open: List[http.client.HTTPSConnection] = []

    def announce(self, artifacts: Sequence[Artifact]) -> None:
        """Begin to fetch, in this order."""
        for artifact in artifacts:
            if artifact.sha256 not in self._jobs:
                job = self._jobs[artifact.sha256] = _Job(artifact)
                self._queue.put(job)
                if len(self._workers) < self._parallel:
                    self._workers.append(threading.Thread(target=self._work, name="fetch", daemon=True))
                    self._workers[-1].start()

    def __call__(self, artifact: Artifact) -> None:
        """Return when the artifact is in the store. Raises DeliveryFailed, DigestMismatch, OSError."""
        self.announce([artifact])
        job = self._jobs[artifact.sha256]
        job.done.wait()
        if job.error is not None:
            raise job.error

    def close(self) -> None:
        """End transfers; what arrived stays for the next try."""
        self._stopped.set()
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join()
        HashCache(self._machine.hashes).remember(self._arrived)
        for connection in self._open:
            connection.close()

    def _work(self) -> None:
        """Fetch one after the other; what is left when we are told to end is not begun."""
        for job in iter(self._queue.get, None):
            try:
                if not self._stopped.is_set():
                    self._fetch(job.artifact)
            except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
                job.error = error
            finally:
                job.done.set()

    def _fetch(self, artifact: Artifact) -> None:
        directory = self._machine.store
        os.makedirs(directory, 0o755, exist_ok=True)
        if has(artifact.sha256, artifact.size, directory):
            return
        incoming = Incoming(artifact, directory)
        try:
            resumed = incoming.resume() > 0
            problems: List[str] = []
            moved = time.monotonic()
            for turn in itertools.count():
                endpoint = self._endpoints[turn % len(self._endpoints)]
                before = incoming.offset
                pause = 0.0
                if before < artifact.size:
                    pause = self._try(endpoint, incoming, problems)
                if incoming.offset == artifact.size:
                    try:
                        path = incoming.finish(endpoint)
                    except DigestMismatch:
                        if not resumed:
                            raise
                        # The part that an earlier run left was damaged: once more from the start.
                        resumed, incoming = False, Incoming(artifact, directory)
                        continue
                    self._arrived[path] = artifact.sha256
                    return
                if incoming.offset > before:
                    moved = time.monotonic()
                if self._stopped.is_set() or time.monotonic() - moved > self._patience:
                    raise DeliveryFailed(
                        "{} cannot be fetched: {}".format(artifact.title, "; ".join(problems[-3:])),
                        hint="is freehold-artifacts running on the control plane?",
                    )
                if turn % len(self._endpoints) == len(self._endpoints) - 1 or pause:
                    self._stopped.wait(pause or min(0.2 * (1 + turn), _LONGEST_PAUSE))
        finally:
            incoming.close()

    def _try(self, endpoint: str, incoming: Incoming, problems: List[str]) -> float:
        """Take what one endpoint gives; return the seconds it asks us to wait. Raises no network error."""
        try:
            connection = self._connection(endpoint)
            headers = {"Range": "bytes={}-".format(incoming.offset)} if incoming.offset else {}
            connection.request("GET", PATH + incoming.artifact.sha256, headers=headers)
            response = connection.getresponse()
            if response.status not in {200, 206}:
                response.read()
                problems.append("{} answered {} {}".format(endpoint, response.status, response.reason))
                return _retry_after(response)
            if response.status == 200:
                incoming.restart()
            buffer = bytearray(CHUNK)
            view = memoryview(buffer)
            while not self._stopped.is_set():
                count = response.readinto(view)
                if not count:
                    return 0.0
                incoming.write(view[:count])
            self._forget(endpoint)
        except (OSError, http.client.HTTPException) as error:
            self._forget(endpoint)
            if isinstance(error, OSError) and error.errno == 28:  # disk full: no endpoint helps
                raise
            problems.append("{}: {}".format(endpoint, error))
        return 0.0

    def _connection(self, endpoint: str) -> http.client.HTTPSConnection:
        kept: Dict[str, http.client.HTTPSConnection] = self._local.__dict__.setdefault("kept", {})
        if endpoint not in kept:
            kept[endpoint] = connect_pinned(endpoint, self._ca_pem, self._timeout)
            self._open.append(kept[endpoint])
        return kept[endpoint]

    def _forget(self, endpoint: str) -> None:
        connection = self._local.__dict__.get("kept", {}).pop(endpoint, None)
        if connection is not None:
            connection.close()


def receive(
    stream: BinaryIO, tell: Callable[[Mapping[str, Any]], None], machine: Optional[ThisMachine] = None
) -> Dict[str, Any]:
    """Take artifacts from a stream into the store; return what was received.

    The stream begins with a line of JSON, [{"sha256", "size", "title"}]. We answer {"event": "missing",
    "artifacts": [sha256, ...]}, and then the bytes of just these come, one after the other in that order,
    nothing between. Each is told by {"event": "received", "sha256", "size", "seconds"} once it is in place.
    Raises BadRequest, DeliveryFailed, DigestMismatch, OSError.
    """
    machine = machine or ThisMachine()
    wanted = _header(stream.readline())
    os.makedirs(machine.store, 0o755, exist_ok=True)
    cache = HashCache(machine.hashes)
    missing = [artifact for artifact in wanted if not _present(artifact, machine, cache)]
    tell({"event": "missing", "artifacts": [artifact.sha256 for artifact in missing]})
    # Remembered once, at the end: each writing would have the disk settle what came so far.
    arrived: Dict[str, str] = {}
    buffer = memoryview(bytearray(CHUNK))
    total = 0
    try:
        for artifact in missing:
            begun = time.monotonic()
            incoming = Incoming(artifact, machine.store)
            try:
                incoming.restart()
                while incoming.offset < artifact.size:
                    count = stream.readinto(buffer[: artifact.size - incoming.offset])  # type: ignore[attr-defined]
                    if not count:
                        raise DeliveryFailed(
                            "{}: the stream ended after {} of {} bytes".format(
                                artifact.title, incoming.offset, artifact.size
                            )
                        )
                    incoming.write(buffer[:count])
                incoming.finish("the stream")
            finally:
                incoming.close()
            total += artifact.size
            arrived[path_of(artifact.sha256, machine.store)] = artifact.sha256
            seconds = round(time.monotonic() - begun, 3)
            tell({"event": "received", "sha256": artifact.sha256, "size": artifact.size, "seconds": seconds})
    finally:
        cache.remember(arrived)
    return {"received": len(missing), "bytes": total}


def _present(artifact: Artifact, machine: ThisMachine, cache: HashCache) -> bool:
    """Say whether the right bytes are there; wrong ones are removed."""
    if not has(artifact.sha256, artifact.size, machine.store):
        return False
    path = path_of(artifact.sha256, machine.store)
    known = cache.digest(path)
    if known is None:
        known = hash_file(path)
        if known == artifact.sha256:
            cache.remember({path: known})
    if known != artifact.sha256:
        files.remove(path)
        return False
    return True


def _header(line: bytes) -> List[Artifact]:
    try:
        entries = json.loads(line)
        return [
            Artifact(entry.get("title", entry["sha256"]), entry["sha256"], int(entry["size"]))
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest("the stream's first line names no artifacts: {}".format(error)) from error


def _retry_after(response: http.client.HTTPResponse) -> float:
    """Return the seconds to wait before asking again.

    `Retry-After` knows whole seconds; our own service says in its own header when a file that is on its way to it
    will be there.
    """
    try:
        milliseconds = response.getheader("X-Freehold-Retry-Milliseconds")
        if milliseconds is not None:
            return min(max(int(milliseconds), 10), 30000) / 1000
        return min(max(float(response.getheader("Retry-After") or 0), 0.0), 30.0)
    except ValueError:
        return 1.0
