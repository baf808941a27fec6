"""What happens during a run, as frozen values: the console draws them, JSON mode prints them, tests compare.

An event never carries a secret and never a function: it can be written to a file as it is.
"""

from dataclasses import asdict, dataclass
from typing import Any, Callable


@dataclass(frozen=True)
class PhaseStarted:
    machine: str
    phase: str
    title: str

    event = "phase-started"


@dataclass(frozen=True)
class PhaseFinished:
    machine: str
    phase: str
    seconds: float
    outcome: str
    """`done`, `failed`, `blocked` or `interrupted`."""
    message: str = ""

    event = "phase-finished"


@dataclass(frozen=True)
class Waiting:
    """A lane waits for other machines."""

    machine: str
    phase: str
    what: str

    event = "waiting"


@dataclass(frozen=True)
class Step:
    """What a phase is doing now."""

    machine: str
    phase: str
    text: str
    done: int = 0
    total: int = 0
    """Bytes, or 0 where nothing is counted."""

    event = "step"


@dataclass(frozen=True)
class Changed:
    """One change of a program on the machine is over, or one file has arrived there. For timelines, not people."""

    machine: str
    phase: str
    program: str
    """The agent's verb: several run on one machine at once."""
    key: str
    """Of a resource; `artifact:` and a title for a file that came by the stream."""
    outcome: str
    """`done` or `failed`."""
    seconds: float
    """How long it took; changes made as one (units, batches of files) carry the same."""

    event = "changed"


@dataclass(frozen=True)
class Note:
    """Something a person should read; `machine` is empty when it concerns the whole run."""

    text: str
    machine: str = ""
    level: str = "info"
    """`info` or `warning`."""

    event = "note"


Event = PhaseStarted | PhaseFinished | Waiting | Step | Changed | Note
Emit = Callable[[Event], None]


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON values, its kind under `event`."""
    return {"event": event.event, **asdict(event)}
