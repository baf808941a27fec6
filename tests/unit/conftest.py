"""For unit tests: what keeps one of them from disturbing those after it."""

import threading
from typing import Iterator, List

import pytest

PATIENCE = 20.0
"""Seconds that a thread may take to notice that its test has ended."""


@pytest.fixture(autouse=True)
def no_thread_of_the_agent_is_left() -> Iterator[None]:
    """A test leaves no thread of the agent behind.

    Their pauses are drawn from the process's one `random`; hypothesis, in a later test, takes a draw that is not its
    own for a mistake of that test.
    """
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _of_the_agent(thread)]
    for thread in left:
        thread.join(PATIENCE)
    names: List[str] = [thread.name for thread in left if thread.is_alive()]
    assert not names, "threads of the agent are left behind"


def _of_the_agent(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "").startswith("freehold_agent.")
