"""How busy this host is: others who use its cores make our figures worse, and a figure must say so.

Knows only /proc.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
QUIET = 0.25
"""Share of all cores that others may use in a measurement we trust."""


@dataclass(frozen=True)
class Busy:
    """CPU seconds of the whole host so far."""

    used: float
    idle: float


def busy(text: str | None = None) -> Busy:
    """Return what /proc/stat (or this text of it) counts. Time that a hypervisor took counts as used."""
    line = (text if text is not None else Path("/proc/stat").read_text()).split("\n", 1)[0]
    ticks = [int(field) for field in line.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return Busy((sum(ticks) - idle) / TICKS, idle / TICKS)


def share(before: Busy, after: Busy, ours: float = 0.0) -> float:
    """Return the share of all cores (0 to 1) that others used in between; `ours` are our CPU seconds of it."""
    used, idle = after.used - before.used, after.idle - before.idle
    total = used + idle
    return max(0.0, used - ours) / total if total > 0 else 0.0


def wait_until_quiet(
    patience: float, say: Callable[[str], None], threshold: float = QUIET, sample: float = 2.0
) -> bool:
    """Return once the host is quiet for `sample` seconds; False when it was not within `patience` seconds."""
    deadline = time.monotonic() + patience
    told = False
    while True:
        before = busy()
        time.sleep(sample)
        now = share(before, busy())
        if now <= threshold:
            return True
        if time.monotonic() > deadline:
            return False
        if not told:
            say(
                f"the host is {now:.0%} busy with other work (load {os.getloadavg()[0]:.1f}): waiting for quiet"
            )
            told = True


def wait_for_port(address: str, port: int, patience: float = 60.0) -> None:
    """Return once something listens there and greets us. Raises SystemExit after `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), 2) as connection:
                connection.settimeout(5)
                if connection.recv(4):
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{address}:{port} does not answer")
