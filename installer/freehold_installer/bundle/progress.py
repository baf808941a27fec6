"""Shows on standard error how far a build is. It must not know how anything is built."""

import shutil
import sys
import threading
import time
from collections.abc import Mapping

_ERASE = "\r\x1b[K"


class Progress:
    """One line that is kept up to date on a terminal, else a line per event; called from any thread."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        """Take the rough time of a cold build of each step in seconds."""
        self._expected = expected
        self._states: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._drawn = 0.0
        self.made: list[str] = []
        """Names of what was made, in the order it was finished."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._states:
            self._write(_ERASE)

    def __call__(self, component: str, state: str, detail: str) -> None:
        with self._lock:
            now = time.monotonic()
            changed = self._states.get(component) != state
            self._states[component] = state
            self._words[component] = detail
            if state == "building":
                self._began.setdefault(component, now)
            if state == "done":
                self.made.append(component)
            if changed and state != "cached" and not (self._terminal and state == "building"):
                self._write(self._event(component, state, detail, now))
            if self._terminal and (changed or now - self._drawn > 0.2):
                self._drawn = now
                width = shutil.get_terminal_size().columns - 1
                self._write(_ERASE + self.summary(now)[:width])

    def _event(self, component: str, state: str, detail: str, now: float) -> str:
        text = f"{component}: {state}"
        if state == "done" and component in self._began:
            text += f" in {now - self._began[component]:.1f} s"
        if detail:
            text += f" ({detail})"
        return (_ERASE if self._terminal else "") + text + "\n"

    def summary(self, now: float) -> str:
        """Return the line: share of the whole, time spent and left, what is being made."""
        total = sum(self._expected.values()) or 1.0
        cached = self._weight("cached") / total
        share = cached + self._weight("done") / total
        running = [name for name, state in self._states.items() if state in ("building", "waiting")]
        for name in running:
            # What runs counts by its time, but never as finished.
            share += min(now - self._began.get(name, now), 0.9 * self._expected.get(name, 0.0)) / total
        elapsed = now - self._start
        left = ""
        if elapsed > 5 and share - cached > 0.02:
            left = f", about {_minutes(elapsed * (1 - share) / (share - cached))} left"
        doing = " | ".join(f"{name}: {self._words[name] or self._states[name]}" for name in running)
        return f"[{share:4.0%}] {_minutes(elapsed)}{left}  {doing}"

    def _weight(self, state: str) -> float:
        return sum(self._expected.get(name, 0.0) for name, own in self._states.items() if own == state)

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
