"""A program that was started over SSH ends when whoever started it is gone, also in the middle of a long wait.

An installer that is interrupted or killed closes its end of our output. Without a look at that we would only notice
at the next line we say: a unit's slow restart later, the machine's lock held all the while.
"""

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import Iterator, Optional

SIGNAL = signal.SIGUSR1


def end_with_the_caller(output: int) -> None:
    """Raise BrokenPipeError in the main thread as soon as nobody can read from `output` any more.

    Call it in the main thread. An exception, not an exit: what must not outlive a run (a credential) is cleaned up.
    """
    signal.signal(SIGNAL, _gone)
    main = threading.main_thread().ident
    poller = select.poll()
    # Its own descriptor: ours may be closed, and its number given to another file, while it is watched.
    poller.register(os.dup(output), 0)

    def watch() -> None:
        poller.poll()
        if main is not None:
            signal.pthread_kill(main, SIGNAL)

    threading.Thread(target=watch, name="caller", daemon=True).start()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let a short piece of work end first: a `useradd` killed half-way leaves locks beside the machine's passwd file.

    In the main thread; in others nothing is ever interrupted.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _gone(_number: int, _frame: Optional[FrameType]) -> None:
    # Once is enough: what is cleaned up now must not be interrupted again.
    signal.signal(SIGNAL, signal.SIG_IGN)
    raise BrokenPipeError("the caller is gone")
