"""Phases on machines: one lane per machine, all at once, waiting for each other only where a phase says so.

The list of phases is the reading order. Within a lane phases run in that order; before a phase the lane
waits until each phase it needs has finished on every machine that phase concerns. Where a whole phase is too
coarse, lanes tell each other by named signals. When a needed phase fails elsewhere, a lane stops as
`blocked`, which is no failure of its own; so does, at once, one that works with what a signal told it.
No failure is ever lost.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult, Event

from freehold_installer.engine import events
from freehold_installer.errors import FreeholdError, StepError, joined

if TYPE_CHECKING:
    from freehold_installer.engine.journal import Journal
    from freehold_installer.engine.machine import Machine
    from freehold_installer.engine.run import Run


def everyone(_host: Any) -> bool:
    return True


@dataclass(frozen=True)
class Phase:
    name: str
    title: str
    run: Callable[["Lane"], None]
    concerns: Callable[[Any], bool] = everyone
    """Of an inventory host: does this phase run there?"""
    needs: tuple[str, ...] = ()
    """Earlier phases that must have finished on every machine they concern."""
    signals: tuple[str, ...] = ()
    """What it may tell other lanes before it is over (`Lane.signal`)."""


@dataclass(frozen=True)
class Timing:
    machine: str
    phase: str
    started: float
    """Seconds since the run's start."""
    seconds: float
    outcome: str


class Blocked(Exception):  # noqa: N818 - not an error: another lane's failure stops this one
    """What this lane waits for will not come, because another lane failed."""


class InternalError(StepError):
    """A phase raised something that nobody expected: a defect of ours."""

    def __init__(self, machine: str, step: str, error: BaseException) -> None:
        super().__init__(
            machine, step, f"{type(error).__name__}: {error}", hint="this is a defect of freehold"
        )
        self.__cause__ = error


class Lane:
    """One machine's way through the phases; what a phase's function gets."""

    def __init__(self, name: str, host: Any, machine: "Machine", run: "Run") -> None:
        self.name = name
        self.host = host
        self.machine = machine
        self.run = run
        self.phase = ""
        self._board: Board
        self._beside: list[Beside] = []
        self._runner: Any = None
        self._in_phase = False
        self._ended_by: Exception | None = None
        self._relies_on: set[tuple[str, str]] = set()  # (phase, machine) that gave us a signal

    def step(self, text: str, done: int = 0, total: int = 0) -> None:
        """Say what happens now; `done` of `total` bytes where something is counted."""
        self._board.emit(events.Step(self.name, self.phase, text, done, total))

    def changed(self, program: str, key: str, outcome: str, seconds: float) -> None:
        """Record that a program on the machine is done with one change."""
        self._board.emit(events.Changed(self.name, self.phase, program, key, outcome, seconds))

    def note(self, text: str, level: str = "info") -> None:
        """Say something that stays on the screen; level `info` or `warning`."""
        self._board.emit(events.Note(text, self.name, level))

    def signal(self, name: str, value: Any = True) -> None:
        """Tell all lanes something (an address, a manifest). The phase must list the name in `signals`."""
        self._board.signal(self, name, value)

    def wait_for(self, name: str) -> Any:
        """Return the value of a signal, the first that any machine gave. Raises Blocked if none will come."""
        giver, value = next(iter(self._board.await_signal(self, name, every=False).items()))
        self._board.rely(self, name, [giver])
        return value

    def wait_for_all(self, name: str) -> dict[str, Any]:
        """Return a signal's values by machine, once every machine that gives it has. Raises Blocked."""
        values = self._board.await_signal(self, name, every=True)
        self._board.rely(self, name, list(values))
        return values

    def interrupt(self, error: Exception) -> None:
        """End the present phase with what went wrong beside it or elsewhere; one that has ended is past it."""
        gevent.get_hub().loop.run_callback(self._throw, error)

    def _throw(self, error: Exception) -> None:
        # Asked only here: while it ends, what else fails would break its way out.
        if self._in_phase and self._ended_by is None:
            self._ended_by = error
            self._runner.throw(error)

    def beside(self, title: str, work: Callable[[], Any]) -> "Beside":
        """Start work that goes on while the phase does; the phase is not over before it. If it fails, the
        phase fails at once, wherever it is."""
        task = Beside(self, title, work)
        self._beside.append(task)
        return task


class Beside:
    """Work of a lane that runs at the same time as its phase."""

    def __init__(self, lane: Lane, title: str, work: Callable[[], Any]) -> None:
        self.title = title
        self._result: AsyncResult = AsyncResult()
        self._greenlet = gevent.spawn(self._run, lane, work)

    def wait(self) -> Any:
        """Return what the work returned. Its failure is raised in the lane."""
        return self._result.get()

    def cancel(self) -> None:
        self._greenlet.kill()

    def _run(self, lane: Lane, work: Callable[[], Any]) -> None:
        try:
            self._result.set(work())
        except (FreeholdError, Blocked) as error:
            lane.interrupt(error)
        except Exception as error:  # noqa: BLE001 - reported through the lane with its traceback
            lane.interrupt(InternalError(lane.name, self.title, error))


@dataclass
class Outcome:
    """What a run of phases did."""

    timings: list[Timing] = field(default_factory=list)
    failures: dict[str, FreeholdError] = field(default_factory=dict)
    """By machine."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Machine -> the phase it did not get to."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "timings": [{**vars(timing), "seconds": round(timing.seconds, 3)} for timing in self.timings],
            "failed": {name: error.message for name, error in self.failures.items()},
            "blocked": dict(self.blocked),
        }


class Board:
    """What all lanes know of each other."""

    def __init__(
        self,
        phases: Sequence[Phase],
        lanes: Sequence[Lane],
        emit: events.Emit,
        journal: "Journal | None",
        outcome: "Outcome",
    ) -> None:
        self.begin = time.monotonic()
        self.emit = emit
        self.journal = journal
        self.outcome = outcome
        self.phases = phases
        self.lanes = lanes
        self.position = {phase.name: index for index, phase in enumerate(phases)}
        self.states: dict[tuple[str, str], str] = {}
        """(phase, machine) -> done, failed or blocked; absent while it is to come."""
        self.values: dict[str, dict[str, Any]] = {}
        self._changed = Event()

    def record(self, what: str, **facts: str) -> None:
        if self.journal is not None:
            self.journal.write(what, **facts)

    def concerned(self, phase: Phase) -> list[Lane]:
        return [lane for lane in self.lanes if phase.concerns(lane.host)]

    def settle(self, phase: Phase, lane: Lane, state: str) -> None:
        self.states[phase.name, lane.name] = state
        if state != "done":
            self._stop_those_who_rely_on(phase, lane)
        self._turn()

    def rely(self, lane: Lane, name: str, givers: Sequence[str]) -> None:
        """Note whose signals a lane goes by. Raises Blocked when one of them has failed since."""
        phases = [phase.name for phase in self.phases if name in phase.signals]
        lane._relies_on |= {(phase, giver) for phase in phases for giver in givers if giver != lane.name}
        for phase, giver in lane._relies_on:
            if self.states.get((phase, giver)) in ("failed", "blocked"):
                raise Blocked(f"{phase} did not finish on {giver}")

    def _stop_those_who_rely_on(self, phase: Phase, failed: Lane) -> None:
        for lane in self.lanes:
            if (phase.name, failed.name) in lane._relies_on and lane._runner is not None:
                lane.interrupt(Blocked(f"{phase.name} did not finish on {failed.name}"))

    def await_needs(self, phase: Phase, lane: Lane) -> None:
        wanted = [
            (need, other.name)
            for need in phase.needs
            for other in self.concerned(self.phases[self.position[need]])
        ]
        told = False
        while True:
            bad = [key for key in wanted if self.states.get(key) in ("failed", "blocked")]
            if bad:
                raise Blocked(f"{bad[0][0]} did not finish on {bad[0][1]}")
            missing = [key for key in wanted if key not in self.states]
            if not missing:
                return
            if not told:
                told = True
                self.emit(events.Waiting(lane.name, phase.name, _listing(missing)))
            self._changed.wait()

    def signal(self, lane: Lane, name: str, value: Any) -> None:
        if name not in self.phases[self.position[lane.phase]].signals:
            raise ValueError(f"phase {lane.phase} does not list the signal {name}")
        self.values.setdefault(name, {})[lane.name] = value
        self._turn()

    def await_signal(self, lane: Lane, name: str, *, every: bool) -> dict[str, Any]:
        givers = [
            (phase, giver)
            for phase in self.phases
            if name in phase.signals
            for giver in self.concerned(phase)
        ]
        if not givers:
            raise ValueError(f"no phase gives the signal {name}")
        told = False
        while True:
            given = self.values.get(name, {})
            due = [
                (phase.name, giver.name)
                for phase, giver in givers
                if giver.name not in given and (phase.name, giver.name) not in self.states
            ]
            lost = {giver.name for _, giver in givers} - set(given) - {machine for _, machine in due}
            if given and (not every or (not due and not lost)):
                return dict(given)
            if (every and lost) or not due:
                raise Blocked(f"{name} will not come from {', '.join(sorted(lost))}")
            if not told:
                told = True
                self.emit(events.Waiting(lane.name, lane.phase, f"{name} from {_listing(due, names=True)}"))
            self._changed.wait()

    def _turn(self) -> None:
        """Wake everybody who waits; they look again."""
        before, self._changed = self._changed, Event()
        before.set()


def _listing(keys: Sequence[tuple[str, str]], *, names: bool = False) -> str:
    if names:
        return ", ".join(dict.fromkeys(machine for _, machine in keys))
    phases = dict.fromkeys(phase for phase, _ in keys)
    return "; ".join(f"{phase} on {', '.join(m for p, m in keys if p == phase)}" for phase in phases)


def check(phases: Sequence[Phase]) -> None:
    """Raise ValueError for a list that could wait for ever: needs must name earlier phases."""
    seen: set[str] = set()
    for phase in phases:
        unknown = set(phase.needs) - seen
        if unknown:
            raise ValueError(
                f"phase {phase.name} needs {', '.join(sorted(unknown))}, not among earlier phases"
            )
        if phase.name in seen:
            raise ValueError(f"two phases are called {phase.name}")
        seen.add(phase.name)


def run_phases(
    phases: Sequence[Phase],
    lanes: Sequence[Lane],
    emit: events.Emit,
    *,
    journal: "Journal | None" = None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Run all lanes to their ends and return what happened.

    Raises one error that lists every failure; give an `outcome` to have the timings then too.
    KeyboardInterrupt stops all lanes and passes on: their channels close, which ends the programs on the
    machines.
    """
    check(phases)
    outcome = Outcome() if outcome is None else outcome
    board = Board(phases, lanes, emit, journal, outcome)
    runners = []
    for lane in lanes:
        lane._board = board
        lane._runner = gevent.spawn(_run_lane, lane, board)
        runners.append(lane._runner)
    try:
        gevent.joinall(runners, raise_error=True)
    finally:
        gevent.killall(runners, timeout=3)
        outcome.seconds = time.monotonic() - board.begin
    if outcome.failures:
        raise joined([outcome.failures[lane.name] for lane in lanes if lane.name in outcome.failures])
    return outcome


def _run_lane(lane: Lane, board: Board) -> None:
    mine = [phase for phase in board.phases if phase.concerns(lane.host)]
    for index, phase in enumerate(mine):
        lane.phase = phase.name
        try:
            board.await_needs(phase, lane)
            state = _run_phase(lane, phase, board)
        except Blocked as error:
            state = "blocked"
            board.emit(events.PhaseFinished(lane.name, phase.name, 0.0, "blocked", str(error)))
        if state == "done":
            lane._relies_on.clear()
            board.settle(phase, lane, state)
            continue
        if state == "blocked":
            board.outcome.blocked[lane.name] = phase.name
        board.settle(phase, lane, state)
        for later in mine[index + 1 :]:
            board.settle(later, lane, "blocked")
        return


def _run_phase(lane: Lane, phase: Phase, board: Board) -> str:
    outcome = board.outcome
    start = time.monotonic()
    board.emit(events.PhaseStarted(lane.name, phase.name, phase.title))
    board.record("phase-started", machine=lane.name, phase=phase.name)
    state, message = "interrupted", ""
    lane._in_phase, lane._ended_by = True, None
    try:
        phase.run(lane)
        for task in lane._beside:
            task.wait()
        state = "done"
    except Exception as raised:  # noqa: BLE001 - one lane's defect must not take the others' reports with it
        # What ended the phase is told, not what else went wrong on the way out.
        error = lane._ended_by or raised
        if isinstance(error, Blocked):
            state, message = "blocked", str(error)
        else:
            if not isinstance(error, FreeholdError):
                error = InternalError(lane.name, phase.name, error)
            state, message = "failed", error.message
            outcome.failures[lane.name] = error
    finally:
        lane._in_phase = False
        for task in lane._beside:
            task.cancel()
        lane._beside.clear()
        seconds = time.monotonic() - start
        outcome.timings.append(Timing(lane.name, phase.name, start - board.begin, seconds, state))
        if state != "interrupted":
            board.record("phase-finished", machine=lane.name, phase=phase.name, outcome=state)
        board.emit(events.PhaseFinished(lane.name, phase.name, seconds, state, message))
    return state
