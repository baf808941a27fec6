"""The lab for tests: real machines, seen over SSH as freehold sees them, and from outside through the container engine.

Tests use a lab of their own (`freehold-test`), beside the one a person may be working with; FREEHOLD_TEST_LAB names
another. It stays up after the tests, so that the next run finds it in a second: `make lab-down` removes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.repository import CHECKOUT

TEST_LAB = os.environ.get("FREEHOLD_TEST_LAB", "freehold-test")
UP_SECONDS = 900
"""The first `up` on a host may have to make the machine image."""


@dataclass(frozen=True)
class LabMachine:
    """One machine: its name in inventory and cluster, its address, its roles, its container."""

    name: str
    address: str
    roles: tuple[str, ...]
    container: str


class Lab:
    """Machines that are up; every method is one call of `vagrant/lab`."""

    def __init__(self, name: str, shape: str) -> None:
        self.name = name
        self.shape = shape
        described = json.loads(self._command("machines", "--json").stdout)
        self.inventory_path = Path(described["inventory"])
        self.key_path = Path(described["key"])
        self.subnet: str = described["subnet"]
        self.machines: dict[str, LabMachine] = {
            entry["name"]: LabMachine(
                entry["name"], entry["address"], tuple(entry["roles"]), entry["container"]
            )
            for entry in described["machines"]
        }

    @classmethod
    def ensure(cls, shape: str = "1+2", name: str = TEST_LAB) -> Lab:
        """Return the lab with all machines up and its inventory written; machines that run are left alone."""
        lab = cls(name, shape)
        lab.up()
        return lab

    def up(self) -> None:
        """Have all machines up, disks kept."""
        self._command("up", timeout=UP_SECONDS)

    def exec(
        self,
        name: str,
        *command: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run names it
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in a machine, past SSH and its network: proof from outside."""
        return self._command("exec", name, "--", *command, input=input, check=check, timeout=timeout)

    def ssh(
        self, name: str, command: str, *, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command line as the user freehold over SSH, the host key pinned."""
        return self._command("ssh", name, "--", command, check=check, timeout=timeout)

    def stop(self, *names: str) -> None:
        """Shut machines down in order."""
        self._command("stop", *names)

    def start(self, *names: str) -> None:
        """Start machines that are off, disks kept."""
        self._command("start", *names)

    def reboot(self, *names: str) -> None:
        """Shut machines down and start them again; returns when systemd answers."""
        self._command("reboot", *names)

    def power_cut(self, *names: str, stay_off: bool = False) -> None:
        """Kill everything in machines at once; they are started again unless `stay_off`."""
        self._command("power-cut", *(["--stay-off"] if stay_off else []), *names)

    def fresh(self, *names: str) -> None:
        """Make machines anew (all, without names): empty disks, new host keys, the inventory rewritten."""
        self._command("fresh", *(names or self.machines), timeout=UP_SECONDS)

    def clean(self) -> None:
        """Have machines with nothing of a cluster on them and SSH ready; those that are clean are left alone."""
        used = "ls -d /opt/freehold /var/lib/freehold /etc/cni 2>/dev/null || true"
        dirty = [name for name in self.machines if self.exec(name, "sh", "-c", used).stdout]
        if dirty:
            self.fresh(*dirty)
        for name in self.machines:
            self.wait_for_ssh(name)

    def destroy(self) -> None:
        """Remove machines, disks and network."""
        self._command("destroy")

    def status(self) -> dict[str, str]:
        """Return each machine's state: running, dead, exited, absent, ..."""
        lines = self._command("status", check=False).stdout.splitlines()
        return {line.split()[0]: line.split()[-1] for line in lines}

    def inventory(self) -> dict[str, Any]:
        """Return the generated inventory as data."""
        import yaml

        loaded: dict[str, Any] = yaml.safe_load(self.inventory_path.read_text(encoding="utf-8"))
        return loaded

    def wait_for_ssh(self, name: str, seconds: float = 60) -> None:
        """Return once sshd of a machine that was just started lets us in; raise TimeoutError otherwise."""
        until = time.monotonic() + seconds
        while self.ssh(name, "true", check=False).returncode:
            if time.monotonic() > until:
                raise TimeoutError(f"no SSH to {name} within {seconds:.0f} s")

    def wait_for_boot(self, name: str) -> None:
        """Return once all units of a machine's boot have started or failed: SSH answers before the last of them."""
        self.exec(name, "systemctl", "is-system-running", "--wait", check=False)

    def _command(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "FREEHOLD_LAB": self.name, "FREEHOLD_LAB_SHAPE": self.shape}
        try:
            done = subprocess.run(
                [CHECKOUT / "vagrant" / "lab", *arguments],
                check=False,
                capture_output=True,
                text=True,
                input=input if input is not None else "",
                timeout=timeout,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            # As any other failure: whoever waits for something may try again.
            raise AssertionError(
                f"vagrant/lab {' '.join(arguments)}: no end within {timeout:.0f} s"
            ) from error
        if check and done.returncode:
            raise AssertionError(
                f"vagrant/lab {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done
