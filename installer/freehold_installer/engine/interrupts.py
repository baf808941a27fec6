"""SIGINT and SIGTERM reach the greenlet that waits for all others, wherever the process happens to be."""

import signal
from typing import Any

import gevent


def interrupts_reach_us() -> None:
    """Deliver SIGINT and SIGTERM to this greenlet from now on, as KeyboardInterrupt. Call it in the main thread.

    Python raises it in whichever greenlet happens to run: in a lane it would look like that lane's failure, and a
    thread of an SSH connection would print a traceback and lose it.
    """
    main = gevent.getcurrent()

    def interrupt(_number: int, _frame: Any) -> None:
        if gevent.getcurrent() is main:
            raise KeyboardInterrupt
        gevent.kill(main, KeyboardInterrupt)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
