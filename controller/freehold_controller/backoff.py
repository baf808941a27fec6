"""Waiting between tries: short at first, because the API server is often only just starting."""

from threading import Event


class Backoff:
    """Pauses that double from `first` to `longest` (seconds) and end at once when `stop` is set."""

    def __init__(self, stop: Event, first: float = 0.1, longest: float = 1.0) -> None:
        self._stop = stop
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> None:
        """Wait for the next, longer, time."""
        self._stop.wait(self._next)
        self._next = min(self._longest, self._next * 2)

    def reset(self) -> None:
        """Start over: something worked."""
        self._next = self._first
