"""A lane that works with what another told it ends when that other fails: nobody waits for a machine that is lost."""

import time
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from freehold_installer.engine.lanes import Lane, Outcome, Phase, run_phases
from freehold_installer.errors import StepError

READY = "files are there"


def lanes_of(*names: str) -> list[Lane]:
    run: Any = SimpleNamespace()
    machine: Any = SimpleNamespace()
    return [Lane(name, SimpleNamespace(name=name), machine, run) for name in names]


def phases(give: Any, take: Any, *later: Phase) -> list[Phase]:
    return [
        Phase("give", "gives", give, concerns=lambda host: host.name.startswith("cp"), signals=(READY,)),
        Phase("take", "takes", take, concerns=lambda host: not host.name.startswith("cp")),
        *later,
    ]


def give_then_fail(lane: Lane) -> None:
    lane.signal(READY, lane.name)
    gevent.sleep(0.01)
    raise StepError(lane.name, "stream", "the bundle is damaged")


def take_for_ever(lane: Lane) -> None:
    lane.wait_for(READY)
    gevent.sleep(60)


def test_who_relies_on_a_failed_machine_stops_at_once() -> None:
    """A node that fetches from a control plane does not wait out its patience once that has failed."""
    outcome = Outcome()
    began = time.monotonic()
    with pytest.raises(StepError, match="the bundle is damaged"):
        run_phases(phases(give_then_fail, take_for_ever), lanes_of("cp1", "w1", "w2"), print, outcome=outcome)
    assert time.monotonic() - began < 10
    assert outcome.blocked == {"w1": "take", "w2": "take"}
    assert list(outcome.failures) == ["cp1"]


def test_work_beside_it_stops_too() -> None:
    """What the stopped lane had started beside itself ends with it, and what comes later does not begin."""
    ended: list[str] = []
    begun: list[str] = []

    def beside() -> None:
        try:
            gevent.sleep(60)
        finally:
            ended.append("beside")

    def take(lane: Lane) -> None:
        lane.wait_for(READY)
        lane.beside("beside", beside)
        gevent.sleep(60)

    later = Phase("later", "later", lambda lane: begun.append(lane.name), needs=("take",))
    with pytest.raises(StepError):
        run_phases(phases(give_then_fail, take, later), lanes_of("cp1", "w1"), print)
    assert ended == ["beside"]
    assert begun == []


def test_who_relies_on_another_goes_on() -> None:
    """With two givers, a lane that goes by the first is not disturbed when the second fails."""
    done: list[str] = []

    def give(lane: Lane) -> None:
        if lane.name == "cp1":
            lane.signal(READY, lane.name)
            return
        gevent.sleep(0.01)
        raise StepError(lane.name, "stream", "lost")

    def take(lane: Lane) -> None:
        assert lane.wait_for(READY) == "cp1"
        gevent.sleep(0.05)
        done.append(lane.name)

    with pytest.raises(StepError, match="lost"):
        run_phases(phases(give, take), lanes_of("cp1", "cp2", "w1"), print)
    assert done == ["w1"]


def test_a_signal_of_a_phase_that_has_failed_since_is_not_taken() -> None:
    """Who asks late learns that the giver is gone, not what it once said."""
    outcome = Outcome()

    def take(lane: Lane) -> None:
        gevent.sleep(0.05)
        lane.wait_for(READY)
        raise AssertionError("not reached")

    with pytest.raises(StepError):
        run_phases(phases(give_then_fail, take), lanes_of("cp1", "w1"), print, outcome=outcome)
    assert outcome.blocked == {"w1": "take"}


def test_a_phase_that_is_over_is_not_stopped() -> None:
    """A lane that is done with what it was told stays done; its next phase is judged by its own needs."""
    outcome = Outcome()

    def take(lane: Lane) -> None:
        lane.wait_for(READY)

    later = Phase("later", "later", lambda _lane: gevent.sleep(0.05), concerns=lambda host: host.name == "w1")
    with pytest.raises(StepError):
        run_phases(phases(give_then_fail, take, later), lanes_of("cp1", "w1"), print, outcome=outcome)
    assert [(t.machine, t.phase, t.outcome) for t in outcome.timings if t.machine == "w1"] == [
        ("w1", "take", "done"),
        ("w1", "later", "done"),
    ]
