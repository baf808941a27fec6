"""Places for joins: first come, first served, by threads that stay; who waits too long is told."""

import threading
from typing import List

import pytest

from freehold_bootstrap.errors import AdmissionTimeout, Refused
from freehold_bootstrap.join_service.turns import Turns


def test_work_is_done_by_few_threads_that_stay() -> None:
    """However many ask, the work is done by so many threads as there are places."""
    turns, seen = Turns(3, 10.0), set()
    askers = [threading.Thread(target=lambda: seen.add(turns.run(threading.get_ident))) for _ in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert 1 <= len(seen) <= 3


def test_what_the_work_raises_is_raised() -> None:
    """A refusal reaches who asked, and the place is free again; so with a timeout of the work itself."""
    turns = Turns(1, 10.0)

    def refuse() -> None:
        raise Refused("x", "no")

    def late() -> None:
        raise TimeoutError("the API server")

    for work, error in ((refuse, Refused), (late, TimeoutError)):
        with pytest.raises(error):
            turns.run(work)
    assert turns.run(lambda: 5) == 5


def test_who_waits_too_long_is_told_and_nothing_is_done_for_it() -> None:
    """A request that gave up waiting is not worked on later, when nobody wants its answer any more."""
    turns, busy, free = Turns(1, 0.05), threading.Event(), threading.Event()
    done: List[str] = []

    def long() -> None:
        busy.set()
        free.wait(10)

    first = threading.Thread(target=lambda: turns.run(long))
    first.start()
    assert busy.wait(10)
    with pytest.raises(AdmissionTimeout, match="too many machines"):
        turns.run(lambda: done.append("late"))
    free.set()
    first.join(10)
    turns.run(lambda: done.append("next"))
    assert done == ["next"]
