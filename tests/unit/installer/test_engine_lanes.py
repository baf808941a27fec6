"""Lanes: who waits for whom, who is blocked, and that no failure is lost."""

from types import SimpleNamespace

import gevent
import pytest
from gevent.event import Event

from freehold_installer.engine import events
from freehold_installer.engine.lanes import InternalError, Lane, Outcome, Phase, check, run_phases
from freehold_installer.errors import CombinedError, StepError, UnreachableError


def lanes(*names):
    return [Lane(name, SimpleNamespace(name=name), None, None) for name in names]


def only(*names):
    return lambda host: host.name in names


def run(phases, *names, outcome=None):
    seen = []
    try:
        run_phases(phases, lanes(*names), seen.append, outcome=outcome)
    finally:
        run.events = seen
    return seen


def log_of(log, name):
    return lambda lane: log.append(f"{name} {lane.name}")


def test_phases_run_in_the_order_of_the_list_on_each_machine():
    """A lane runs its phases in reading order, and only those that concern its machine."""
    log = []
    run([Phase("a", "A", log_of(log, "a")), Phase("b", "B", log_of(log, "b"), only("w1"))], "cp1", "w1")
    assert sorted(log) == ["a cp1", "a w1", "b w1"]
    assert log.index("a w1") < log.index("b w1")


def test_a_phase_waits_for_what_it_needs_on_other_machines():
    """The node phase starts only after the control plane phase has finished on its machine."""
    log, gate = [], Event()

    def control(lane):
        gate.wait(5)
        log.append("control")

    def early(lane):
        log.append("early")
        gate.set()

    phases = [
        Phase("control", "", control, only("cp1")),
        Phase("early", "", early, only("w1")),
        Phase("node", "", lambda lane: log.append("node"), only("w1"), needs=("control",)),
    ]
    run(phases, "cp1", "w1")
    assert log == ["early", "control", "node"]
    assert any(isinstance(event, events.Waiting) and event.what == "control on cp1" for event in run.events)


def test_a_failure_blocks_who_needs_it_and_nobody_else():
    """A failed control plane stops its dependants as blocked; a lane that needs nothing goes on."""
    log, outcome = [], Outcome()

    def fail(lane):
        raise StepError(lane.name, "etcd", "port 2379 is taken")

    phases = [
        Phase("control", "", fail, only("cp1")),
        Phase("node", "", log_of(log, "node"), only("w1"), needs=("control",)),
        Phase("after", "", log_of(log, "after"), only("w1")),
        Phase("other", "", log_of(log, "other"), only("w2")),
    ]
    with pytest.raises(StepError, match="cp1: etcd failed: port 2379 is taken"):
        run(phases, "cp1", "w1", "w2", outcome=outcome)
    assert log == ["other w2"]
    assert outcome.blocked == {"w1": "node"}
    assert list(outcome.failures) == ["cp1"]


def test_every_failure_is_reported_and_the_worst_decides():
    """Two machines fail differently: both are in the message, a failed step outweighs an unreachable one."""

    def fail(lane):
        if lane.name == "w1":
            raise UnreachableError("w1 is gone", hint="look at w1")
        raise StepError("w2", "kubelet", "no")

    with pytest.raises(CombinedError) as caught:
        run([Phase("node", "", fail)], "w1", "w2")
    assert caught.value.message == "w1 is gone\nw2: kubelet failed: no"
    assert caught.value.exit_code == 1
    assert caught.value.hint == "look at w1"


def test_a_defect_in_a_phase_names_machine_and_phase():
    """An exception nobody expected becomes a failure of that machine, with its cause kept."""
    with pytest.raises(InternalError, match="w1: node failed: KeyError: 'x'") as caught:
        run([Phase("node", "", lambda lane: {}["x"])], "w1")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_signal_is_enough_to_go_on():
    """A lane goes on at the signal, before the phase that gives it is over."""
    log, gate = [], Event()

    def control(lane):
        lane.signal("artifacts", "https://cp1:6445")
        assert gate.wait(5)
        log.append("control done")

    def node(lane):
        log.append(lane.wait_for("artifacts"))
        gate.set()

    phases = [
        Phase("control", "", control, only("cp1"), signals=("artifacts",)),
        Phase("node", "", node, only("w1")),
    ]
    run(phases, "cp1", "w1")
    assert log == ["https://cp1:6445", "control done"]


def test_a_signal_that_will_not_come_blocks():
    """When the giver fails before it signalled, the waiting lane stops instead of waiting for ever."""
    outcome = Outcome()

    def fail(lane):
        raise StepError(lane.name, "etcd", "no")

    phases = [
        Phase("control", "", fail, only("cp1"), signals=("api",)),
        Phase("node", "", lambda lane: lane.wait_for("api"), only("w1")),
    ]
    with pytest.raises(StepError, match="cp1"):
        run(phases, "cp1", "w1", outcome=outcome)
    assert outcome.blocked == {"w1": "node"}


def test_wait_for_all_collects_each_giver():
    """All members' values arrive, however late the last one is."""
    got = {}

    def member(lane):
        gevent.sleep(0)
        lane.signal("member", f"peer-{lane.name}")
        got[lane.name] = lane.wait_for_all("member")

    run([Phase("etcd", "", member, signals=("member",))], "a", "b")
    assert got == {"a": {"a": "peer-a", "b": "peer-b"}, "b": {"a": "peer-a", "b": "peer-b"}}


def test_a_signal_must_be_declared():
    """An undeclared signal is a defect that shows at once, not a wait for ever."""
    with pytest.raises(InternalError, match="does not list the signal"):
        run([Phase("a", "", lambda lane: lane.signal("x"))], "m")


def test_needs_must_name_earlier_phases():
    """A list in which lanes could wait for each other for ever is refused."""
    with pytest.raises(ValueError, match="not among earlier phases"):
        check([Phase("a", "", print, needs=("b",)), Phase("b", "", print)])


def test_failure_beside_a_phase_ends_it_at_once():
    """When the stream of files fails, the phase that waits for them does not wait on."""
    ended = []

    def phase(lane):
        def stream():
            raise StepError(lane.name, "receive", "disk full")

        lane.beside("stream", stream)
        try:
            Event().wait(30)
        finally:
            ended.append(True)

    with pytest.raises(StepError, match="disk full"):
        run([Phase("control", "", phase)], "cp1")
    assert ended == [True]


def test_two_failures_at_once_are_one_end(capsys):
    """A lost connection fails the phase and what runs beside it: the first is told, the second breaks nothing."""

    def phase(lane):
        def stream():
            try:
                Event().wait(30)
            finally:
                raise StepError(lane.name, "receive", "the connection was lost, too")

        lane.beside("one", stream)
        lane.beside("other", stream)
        gevent.sleep(0)
        raise StepError(lane.name, "converge", "the connection was lost")

    with pytest.raises(StepError, match=r"was lost$"):
        run([Phase("control", "", phase)], "cp1")
    assert "Traceback" not in capsys.readouterr().err


def test_what_ended_a_phase_is_told():
    """What goes wrong while a phase is left because something failed beside it does not hide that."""

    def phase(lane):
        def stream():
            raise StepError(lane.name, "receive", "the connection was lost")

        lane.beside("stream", stream)
        try:
            Event().wait(30)
        finally:
            raise RuntimeError("released too many times")

    with pytest.raises(StepError, match=r"was lost$"):
        run([Phase("control", "", phase)], "cp1")


def test_a_phase_is_not_over_before_what_runs_beside_it():
    """The phase's end waits for its background work, and its value can be had."""
    log = []

    def phase(lane):
        task = lane.beside("slow", lambda: (gevent.sleep(0.01), log.append("beside"), 42)[2])
        assert task.wait() == 42
        lane.beside("more", lambda: (gevent.sleep(0.01), log.append("more")))

    run([Phase("a", "", phase), Phase("b", "", lambda lane: log.append("next"))], "m")
    assert log == ["beside", "more", "next"]


def test_an_interruption_stops_all_lanes():
    """KeyboardInterrupt in the waiting greenlet ends each lane, whose clean-up runs, and passes on."""
    stopped = []
    main = gevent.getcurrent()

    def phase(lane):
        try:
            Event().wait(30)
        finally:
            stopped.append(lane.name)

    gevent.spawn_later(0.05, gevent.kill, main, KeyboardInterrupt)
    outcome = Outcome()
    with pytest.raises(KeyboardInterrupt):
        run_phases([Phase("a", "", phase)], lanes("x", "y"), lambda event: None, outcome=outcome)
    assert sorted(stopped) == ["x", "y"]
    assert [timing.outcome for timing in outcome.timings] == ["interrupted", "interrupted"]


def test_timings_are_kept_for_every_phase():
    """Each phase on each machine leaves one timing with its outcome."""
    outcome = Outcome()
    run([Phase("a", "", lambda lane: None)], "x", "y", outcome=outcome)
    assert {(timing.machine, timing.phase, timing.outcome) for timing in outcome.timings} == {
        ("x", "a", "done"),
        ("y", "a", "done"),
    }
