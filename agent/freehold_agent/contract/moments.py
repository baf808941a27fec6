"""How moments are written: one form for the Kubernetes API and other programs, one for people. Both in UTC."""

import calendar
import time

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def written(seconds: float) -> str:
    """Return a moment (seconds since the epoch) as the Kubernetes API takes it: `2026-11-23T08:00:00Z`."""
    return time.strftime(_FORM, time.gmtime(seconds))


def read(text: str) -> int:
    """Return the seconds since the epoch of what `written` wrote. Raises ValueError."""
    return calendar.timegm(time.strptime(text, _FORM))


def shown(seconds: float) -> str:
    """Return a moment (seconds since the epoch) for a person: `2026-11-23 08:00:00 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
