"""Do the clocks of machines agree with ours? Certificates made here are valid from a moment on: there, too.

Pure. A machine's time is told somewhere between our question and its answer, so that only a difference beyond that
time counts: a slow connection is no wrong clock.
"""

from collections.abc import Mapping

LARGEST_DIFFERENCE = 30.0
"""Seconds between two clocks that are still called the same."""
HINT = "set it (timedatectl, chrony, systemd-timesyncd) and try again"


def difference(asked: float, told: float, answered: float) -> float:
    """Return the least number of seconds by which a clock is ahead of ours (negative: behind).

    `told` is its time, `asked` and `answered` are ours before and after; 0 when it may be right.
    """
    if told > answered:
        return told - answered
    return min(told - asked, 0.0)


def problems(differences: Mapping[str, float]) -> list[str]:
    """Return one sentence for each machine whose clock is off; a single one when it is ours that differs from all."""
    off = {name: value for name, value in differences.items() if abs(value) > LARGEST_DIFFERENCE}
    ahead = {value > 0 for value in off.values()}
    apart = max(off.values(), default=0.0) - min(off.values(), default=0.0)
    if len(off) > 1 and off.keys() == differences.keys() and len(ahead) == 1 and apart <= LARGEST_DIFFERENCE:
        value = max(off.values(), key=abs)
        return [
            (
                f"the clock of this machine is {words(-value)} that of every machine of the cluster; "
                "certificates made here would not be valid there"
            )
        ]
    return [
        f"{name}: its clock is {words(value)} that of this machine; certificates made here would not be valid there"
        for name, value in off.items()
    ]


def words(seconds: float) -> str:
    """Return `3 minutes ahead of`, `2 days behind`."""
    amount = abs(seconds)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if amount >= 2 * size:
            said = f"{amount / size:.0f} {unit}"
            break
    else:
        said = f"{amount:.0f} seconds"
    return f"{said} {'ahead of' if seconds > 0 else 'behind'}"
