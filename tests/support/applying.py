"""An apply that a test follows, and kills, stops or interrupts at a moment of its choice."""

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.program import Freehold

Event = dict[str, Any]
Moment = Callable[[Event], bool]


def phase(name: str) -> Moment:
    """Return the moment at which a phase begins on some machine."""
    return lambda event: event.get("event") == "phase-started" and event["phase"] == name


def step(text: str) -> Moment:
    """Return the moment of the first step with this text in it."""
    return lambda event: event.get("event") == "step" and text in event["text"]


class Applying:
    """`freehold apply` in a process of its own, its events read as they come."""

    def __init__(self, freehold: Freehold, inventory: Path | None = None) -> None:
        self.process = subprocess.Popen(
            freehold.command("apply", "--yes", "--output", "json"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=freehold.variables(inventory),
        )
        self.said: list[str] = []

    def until(self, moment: Moment) -> bool:
        """Read events until that one; False when the run has ended without it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("{") and moment(json.loads(line)):
                return True
        return False

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Return exit code and all that was said, once it has ended."""
        assert self.process.stderr is not None
        watchdog = threading.Timer(seconds, self.process.kill)
        watchdog.start()
        try:
            with self.process.stderr:
                self.said += self.process.stderr.readlines()
            return self.process.wait(), "".join(self.said)
        finally:
            watchdog.cancel()

    def error(self) -> dict[str, Any]:
        """Return the error that it ended with, once it has ended."""
        found: dict[str, Any] = json.loads(self.said[-1])["error"]
        return found
