"""Few wrong tokens per address and minute: guessing 256 bits is hopeless anyway, this keeps it cheap for us."""

import threading
import time
from collections import OrderedDict
from typing import Callable, Tuple

FAILURES = 20
WINDOW = 60.0
"""Seconds."""
_SOURCES = 4096


class FailureLimit:
    """Counts failures only: an honest machine behind a busy address is not slowed down by its successes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, Tuple[float, int]] = OrderedDict()

    def exceeded(self, source: str) -> bool:
        """Tell whether this address has failed too often in the last minute."""
        with self._lock:
            began, count = self._failures.get(source, (0.0, 0))
            return count >= FAILURES and self._clock() - began < WINDOW

    def failed(self, source: str) -> None:
        """Note one failure."""
        with self._lock:
            now = self._clock()
            began, count = self._failures.pop(source, (now, 0))
            if now - began >= WINDOW:
                began, count = now, 0
            self._failures[source] = (began, count + 1)
            if len(self._failures) > _SOURCES:
                self._failures.popitem(last=False)
