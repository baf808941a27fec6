"""What one run cost: CPU seconds of the machines, the operator, this harness and others, and bytes the operator sent.

Everything is counted from outside by counters that are there anyway, so that counting costs the run nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import load
from bench.machines import Counted, Lab, counted, differences


@dataclass(frozen=True)
class Cost:
    """CPU seconds and bytes between two moments."""

    machines: Mapping[str, Counted] = field(default_factory=dict)
    operator: float = 0.0
    """The `freehold` command and its `ssh`."""
    harness: float = 0.0
    host: float = 0.0
    """Everything that used this host's cores."""
    share: float = 0.0
    """Of all cores, 0 to 1, that others used."""
    load: float = 0.0
    """The host's load average over one minute, at the end."""
    sent: int = 0
    """Bytes the operator's machine sent to the lab's network, headers included."""

    @property
    def others(self) -> float:
        """CPU seconds of whoever else uses this host."""
        return max(0.0, self.host - self.ours)

    @property
    def ours(self) -> float:
        return self.operator + self.harness + sum(machine.cpu for machine in self.machines.values())

    @property
    def noisy(self) -> bool:
        """Say whether others used more of the host than a figure we trust allows."""
        return self.share > load.QUIET

    def to_json(self) -> dict[str, Any]:
        return {
            "cpu": {
                "operator": round(self.operator, 2),
                **{name: round(machine.cpu, 2) for name, machine in self.machines.items()},
                "harness": round(self.harness, 2),
                "others": round(self.others, 2),
                "host": round(self.host, 2),
            },
            "others": round(self.share, 3),
            "load": round(self.load, 2),
            "noisy": self.noisy,
            "sent": self.sent,
            "received": {name: machine.received for name, machine in self.machines.items()},
        }


class Meter:
    """Make it when a run begins; `stop` once it is over."""

    def __init__(self, lab: Lab, machines: list[str]) -> None:
        self._inits = {machine: lab.pid(machine) for machine in machines}
        self._bridge = lab.bridge()
        self._machines = self._counted()
        self._sent = sent_over(self._bridge)
        self._own = _own_seconds()
        self._host = load.busy()

    def stop(self, operator: float = 0.0) -> Cost:
        """Return what was used since; `operator`: CPU seconds of the command that was run."""
        host = load.busy()
        machines = differences(self._machines, self._counted())
        harness = _own_seconds() - self._own
        ours = operator + harness + sum(machine.cpu for machine in machines.values())
        return Cost(
            machines=machines,
            operator=operator,
            harness=harness,
            host=host.used - self._host.used,
            share=load.share(self._host, host, ours),
            load=os.getloadavg()[0],
            sent=sent_over(self._bridge) - self._sent,
        )

    def _counted(self) -> dict[str, Counted]:
        return {machine: counted(pid) for machine, pid in self._inits.items()}


def sent_over(bridge: str) -> int:
    """Return bytes this host itself sent into a bridge; what machines send each other is not among them."""
    return int(Path(f"/sys/class/net/{bridge}/statistics/tx_bytes").read_text())


def _own_seconds() -> float:
    own = os.times()
    return own.user + own.system
