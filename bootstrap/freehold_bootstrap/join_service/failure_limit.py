"""Few wrong tokens per address and minute: guessing 256 bits is hopeless anyway, this keeps it cheap for us."""

import threading
import time
from collections import OrderedDict
from typing import Callable, Dict, Tuple

FAILURES = 20
WINDOW = 60.0
"""Seconds."""
PAUSE = 1.0
"""Seconds between two attempts of an address that failed too often: an honest machine may stand beside a thief."""
_SOURCES = 4096


class FailureLimit:
    """Counts failures only: an honest machine behind a busy address is not slowed down by its successes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, Tuple[float, int]] = OrderedDict()
        self._attempts: Dict[str, float] = {}
        """Address -> when it may try again; of those that failed too often only."""

    def exceeded(self, source: str) -> bool:
        """Tell whether this address has failed too often in the last minute, and has just had its next try."""
        with self._lock:
            now = self._clock()
            began, count = self._failures.get(source, (0.0, 0))
            if count < FAILURES or now - began >= WINDOW:
                self._attempts.pop(source, None)
                return False
            if now < self._attempts.get(source, now):
                return True
            self._attempts[source] = now + PAUSE
            return False

    def failed(self, source: str) -> None:
        """Note one failure."""
        with self._lock:
            now = self._clock()
            began, count = self._failures.pop(source, (now, 0))
            if now - began >= WINDOW:
                began, count = now, 0
            self._failures[source] = (began, count + 1)
            if count + 1 == FAILURES:
                self._attempts[source] = now + PAUSE
            if len(self._failures) > _SOURCES:
                gone, _ = self._failures.popitem(last=False)
                self._attempts.pop(gone, None)
