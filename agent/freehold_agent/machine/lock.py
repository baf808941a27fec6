"""One run at a time on a machine: the resident agent, a join, an installer's run over SSH.

The lock lies on a directory that every machine with systemd has, so nothing is written and nothing is left
behind; the kernel drops it when its holder dies. It may be taken again by a holder in the same process.
"""

import contextlib
import fcntl
import os
import time
from typing import Dict, Iterator

PLACE = "/run/systemd/system"

_held: Dict[str, int] = {}


class LockBusyError(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def converge_lock(timeout: float = 60.0, place: str = PLACE) -> Iterator[None]:
    """Hold the right to change this machine. Raises LockBusyError after `timeout` seconds, OSError."""
    if _held.get(place):
        _held[place] += 1
        try:
            yield
        finally:
            _held[place] -= 1
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait(descriptor, timeout)
        _held[place] = 1
        try:
            yield
        finally:
            _held[place] = 0
    finally:
        os.close(descriptor)


def _wait(descriptor: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockBusyError("another run of freehold is changing this machine") from None
            time.sleep(0.05)
