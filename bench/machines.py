"""The lab of the benchmarks: machines made anew, inventories of parts of it, and what the host counts of them.

Knows containers, not freehold. Everything is counted from outside, so that counting costs the machines nothing.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ACCOUNTING = Path("/sys/fs/cgroup/cpuacct")
UNIFIED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Lab:
    """Machines called cp1, w1, w2... in containers `NAME-cp1`..., made by `vagrant/lab`."""

    name: str = "fh-bench"
    shape: str = "1+2"

    def up(self) -> None:
        """Have the machines, whatever is there."""
        self._lab("up")

    def fresh(self, machines: Sequence[str]) -> None:
        """Make these machines anew: empty disks, new host keys, nothing of an earlier run."""
        self._lab("fresh", *machines)

    def inventory(self) -> dict[str, Any]:
        """Return the inventory of all machines."""
        path = ROOT / "inventories" / "generated" / f"{self.name}.yaml"
        data: dict[str, Any] = yaml.safe_load(path.read_text())
        return data

    def part(self, machines: Iterable[str], directory: Path) -> Path:
        """Write an inventory of just these machines into a directory and return its path."""
        inventory = self.inventory()
        wanted = set(machines)
        inventory["hosts"] = {name: host for name, host in inventory["hosts"].items() if name in wanted}
        path = directory / f"{'-'.join(inventory['hosts'])}.yaml"
        path.write_text(yaml.safe_dump(inventory, sort_keys=False))
        return path

    def address(self, machine: str) -> str:
        return str(self.inventory()["hosts"][machine]["address"])

    def execute(self, machine: str, *command: str, check: bool = True) -> str:
        """Run a command in a machine as root, past its network; return its standard output."""
        done = subprocess.run(
            ["podman", "exec", f"{self.name}-{machine}", *command],
            check=check,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    def pid(self, machine: str) -> int:
        """Return the host's process number of the machine's init."""
        shown = subprocess.run(
            ["podman", "inspect", "--format", "{{.State.Pid}}", f"{self.name}-{machine}"],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(shown.stdout)

    def bridge(self) -> str:
        """Return this host's interface to the network of the machines."""
        shown = subprocess.run(
            ["podman", "network", "inspect", self.name], check=True, capture_output=True, text=True
        )
        return str(json.loads(shown.stdout)[0]["network_interface"])

    def _lab(self, *arguments: str) -> None:
        environment = {**os.environ, "FREEHOLD_LAB": self.name, "FREEHOLD_LAB_SHAPE": self.shape}
        done = subprocess.run(
            [str(ROOT / "vagrant" / "lab"), *arguments],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise SystemExit(f"vagrant/lab {' '.join(arguments)}: {done.stderr[-800:] or done.stdout[-800:]}")


@dataclass(frozen=True)
class Counted:
    """What a machine used up so far."""

    cpu: float
    """CPU seconds of everything in it; it varies far less than wall time when others use the host, too."""
    received: int
    """Bytes that came over its first interface."""
    sent: int

    def since(self, before: "Counted") -> "Counted":
        return Counted(self.cpu - before.cpu, self.received - before.received, self.sent - before.sent)

    def to_json(self) -> dict[str, Any]:
        return {"cpu": round(self.cpu, 2), "received": self.received, "sent": self.sent}


def counted(pid: int) -> Counted:
    """Return what the machine with this init has used up. Raises OSError when it is gone."""
    interface = _interface(Path(f"/proc/{pid}/net/dev").read_text())
    return Counted(_cpu_seconds(Path(f"/proc/{pid}/cgroup").read_text()), *interface)


def _cpu_seconds(membership: str) -> float:
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return int((ACCOUNTING / path.lstrip("/") / "cpuacct.usage").read_text()) / 1e9
    path = membership.rsplit(":", 1)[1].strip().removesuffix("/init.scope")
    words = (UNIFIED / path.lstrip("/") / "cpu.stat").read_text().split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


def _interface(table: str) -> tuple[int, int]:
    """Return bytes received and sent by eth0, from the text of /proc/net/dev."""
    for line in table.splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            fields = rest.split()
            return int(fields[0]), int(fields[8])
    return 0, 0


def differences(before: Mapping[str, Counted], after: Mapping[str, Counted]) -> dict[str, Counted]:
    return {name: after[name].since(before[name]) for name in after if name in before}
