"""SIGINT and SIGTERM reach the greenlet that waits for all others, wherever the process happens to be."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import gevent


@contextlib.contextmanager
def interrupts_reach_us() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM to this greenlet. Python raises KeyboardInterrupt in whichever greenlet
    happens to run, where it would look like a failure of that lane."""
    main = gevent.getcurrent()

    def interrupt(_number: int, _frame: Any) -> None:
        if gevent.getcurrent() is main:
            raise KeyboardInterrupt
        gevent.kill(main, KeyboardInterrupt)

    try:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody sends us signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
