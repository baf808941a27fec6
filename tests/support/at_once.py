"""Many machines that do the same in the same moment."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def all_at_once(
    machines: Sequence[T], work: Callable[[T], object], name: Callable[[T], str]
) -> tuple[list[float], list[str]]:
    """Have each machine work in a thread of its own, from one moment on, and wait for all.

    Returns the seconds after which those that succeeded were done, least first, and `NAME: ERROR` of the others.
    """
    start = threading.Barrier(len(machines) + 1)
    begun = 0.0
    times: list[float] = []
    failed: list[str] = []

    def one(machine: T) -> None:
        start.wait()
        try:
            work(machine)
            times.append(time.monotonic() - begun)
        except BaseException as error:
            failed.append(f"{name(machine)}: {error!r}")

    threads = [threading.Thread(target=one, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    start.wait()
    for thread in threads:
        thread.join()
    return sorted(times), failed
