"""One run of the `freehold` command: wall time from its start to its end, its events with times, what it used up.

Knows the command line and its JSON only, nothing of how freehold is made.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FREEHOLD = Path(sys.executable).with_name("freehold")


@dataclass
class Ran:
    """What came out of it."""

    begun: float
    """Unix seconds."""
    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds of the operator's side, `ssh` included."""
    code: int
    events: list[dict[str, Any]] = field(default_factory=list)
    """In order; `time` is seconds since the start of the command."""
    result: dict[str, Any] = field(default_factory=dict)
    errors: str = ""

    def phases(self) -> dict[str, float]:
        """Return seconds by `machine phase`."""
        return {
            f"{event['machine']} {event['phase']}": float(event["seconds"])
            for event in self.events
            if event.get("event") == "phase-finished"
        }

    def begins(self) -> dict[str, float]:
        """Return seconds from the start of the command to the start of each `machine phase`."""
        return {
            f"{event['machine']} {event['phase']}": float(event["time"])
            for event in self.events
            if event.get("event") == "phase-started"
        }


def run(
    arguments: Sequence[str],
    state_home: Path,
    *,
    extra: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
) -> Ran:
    """Run `freehold ARGUMENTS --output json`. Raises SystemExit for an exit code not among `codes`."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state_home), **(extra or {})}
    begun, clock, before = time.time(), time.monotonic(), os.times()
    done = subprocess.run(
        [str(FREEHOLD), *arguments, "--output", "json"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    wall, after = time.monotonic() - clock, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    ran = Ran(begun, wall, cpu, done.returncode)
    ran.events, ran.errors = parse_events(done.stderr, begun)
    if done.returncode not in codes:
        said = ran.errors[-2000:].strip() or done.stdout[-2000:].strip()
        raise SystemExit(f"freehold {' '.join(arguments)} ended with {done.returncode}: {said}")
    ran.result = json.loads(done.stdout) if done.stdout.strip().startswith("{") else {}
    return ran


def parse_events(text: str, begun: float) -> tuple[list[dict[str, Any]], str]:
    """Return events with times since the start, and everything that is no event as text."""
    events: list[dict[str, Any]] = []
    rest = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            rest.append(line)
            continue
        if "time" in event:
            event["time"] = round(float(event["time"]) - begun, 3)
        events.append(event)
    return events, "\n".join(rest)
