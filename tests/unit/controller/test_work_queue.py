"""The queue gives each name to one worker at a time, and loses none."""

from threading import Thread
from typing import List, Optional

from freehold_controller.approver.work_queue import WorkQueue


def test_names_come_in_order_and_once() -> None:
    """A name asked for twice before it is taken is worked on once."""
    queue = WorkQueue(clock=lambda: 0.0)
    for name in ("a", "b", "a", "c"):
        queue.add(name)
    assert [queue.take(), queue.take(), queue.take()] == ["a", "b", "c"]


def test_a_name_at_work_is_given_again_when_it_is_done() -> None:
    """Two workers never hold the same name, and what changed meanwhile is looked at again."""
    queue = WorkQueue(clock=lambda: 0.0)
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.take() == "b"
    queue.done("a")
    assert queue.take() == "a"
    queue.done("a")
    queue.done("b")
    assert queue.idle()


def test_later_gives_way_to_sooner() -> None:
    """A name that waits for its pause is given at once when it is asked for at once, and only once."""
    queue = WorkQueue(clock=lambda: 0.0)
    queue.add("a", 1000.0)
    queue.add("b")
    queue.add("a")
    assert [queue.take(), queue.take()] == ["b", "a"]
    queue.done("a")
    queue.done("b")
    assert queue.idle()


def test_a_pause_is_kept() -> None:
    """A name whose time has not come is given after those whose time has."""
    queue = WorkQueue()
    queue.add("a", 0.02)
    queue.add("b")
    assert [queue.take(), queue.take()] == ["b", "a"]


def test_closing_lets_the_workers_go() -> None:
    """A worker that waits for nothing ends."""
    queue = WorkQueue()
    got: List[Optional[str]] = []
    worker = Thread(target=lambda: got.append(queue.take()))
    worker.start()
    queue.close()
    worker.join(5)
    assert got == [None]
