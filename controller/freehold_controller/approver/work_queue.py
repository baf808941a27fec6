"""Names waiting for a worker: each at most once, in order, some only after a pause."""

import heapq
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple


class WorkQueue:
    """A thread-safe queue of names. A name taken is given to no one else until it is `done`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._heap: List[Tuple[float, int, str]] = []
        self._due: Dict[str, float] = {}
        self._taken: Dict[str, Optional[float]] = {}
        """Names at work, with the time they were asked for again meanwhile."""
        self._count = 0
        self._closed = False

    def add(self, name: str, after: float = 0.0) -> None:
        """Ask for work on `name` in `after` seconds; sooner wins over later."""
        with self._changed:
            due = self._clock() + after
            if name in self._taken:
                again = self._taken[name]
                self._taken[name] = due if again is None else min(due, again)
                return
            self._push(name, due)

    def take(self) -> Optional[str]:
        """Return the next name, waiting for one; None when the queue is closed."""
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                    continue
                due, _, name = self._heap[0]
                pause = due - self._clock()
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                heapq.heappop(self._heap)
                if self._due.get(name) != due:
                    continue  # asked for sooner since, or done
                del self._due[name]
                self._taken[name] = None
                return name
            return None

    def done(self, name: str) -> None:
        """Hand a taken name back; it is due again if it was asked for meanwhile."""
        with self._changed:
            again = self._taken.pop(name, None)
            if again is not None:
                self._push(name, again)
            self._changed.notify_all()

    def close(self) -> None:
        """Let every waiting worker go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def idle(self) -> bool:
        """Say whether nothing waits and nothing is at work."""
        with self._changed:
            return not self._due and not self._taken

    def _push(self, name: str, due: float) -> None:
        if name in self._due and self._due[name] <= due:
            return
        self._due[name] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, name))
        self._changed.notify()
