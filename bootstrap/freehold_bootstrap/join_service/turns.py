"""A few places where joins are worked on, first come, first served.

The work is done by threads that stay, because each keeps its connection to the API server; who asks waits. Knows
nothing of joins.
"""

import queue
import threading
from typing import Any, Callable, Generic, List, Optional, TypeVar

from freehold_bootstrap.errors import AdmissionTimeout

T = TypeVar("T")


class Turns:
    """Thread-safe."""

    def __init__(self, places: int, patience: float) -> None:
        """`patience`: seconds that somebody waits for a place."""
        self._places = places
        self._patience = patience
        self._waiting: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self._workers: List[threading.Thread] = []
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns, or raise what it raises; AdmissionTimeout when no place is free in time."""
        with self._lock:
            if len(self._workers) < self._places:
                worker = threading.Thread(target=self._work, name="joins", daemon=True)
                self._workers.append(worker)
                worker.start()
        job = _Job(work)
        self._waiting.put(job)
        return job.outcome(self._patience)

    def _work(self) -> None:
        while True:
            self._waiting.get().do()


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._taken = False
        self._begun, self._done = threading.Event(), threading.Event()
        self._result: List[T] = []
        self._error: Optional[BaseException] = None

    def do(self) -> None:
        if not self._take():
            return
        self._begun.set()
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 it is raised where it is waited for
            self._error = error
        finally:
            self._done.set()

    def outcome(self, patience: float) -> T:
        if not self._begun.wait(patience) and self._take():
            raise AdmissionTimeout("too many machines join at this moment")
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _take(self) -> bool:
        """Tell whether we are the first: who does it, or who gives up waiting for it."""
        with self._lock:
            first = not self._taken
            self._taken = True
            return first
