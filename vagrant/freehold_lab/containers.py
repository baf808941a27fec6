"""The lab's machines as containers: bring up from any leftover, stop, start, reboot, cut the power."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from . import leftovers, places, podman, vagrant_tool
from .errors import LabError
from .shape import Lab, Machine

_PATIENCE = 30.0
"""Seconds within which a started machine must have its SSH host key; it takes less than one."""


class ContainerMachines:
    """Machines of one lab made by Vagrant's docker provider on podman."""

    needs_root = True

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def up(self, names: Sequence[str]) -> None:
        """Have exactly working machines called `names`, whatever was there before; disks are kept."""
        machines = [self.lab.machine(name) for name in names]
        with ThreadPoolExecutor(4) as pool:
            alive = dict(zip(names, pool.map(podman.answers, machines)))
        if not all(alive.values()):
            self._prepare_host()
            podman.ensure_network(self.lab)
        absent: list[str] = []
        for machine in machines:
            if alive[machine.name]:
                continue
            if self._revived(machine):
                continue
            leftovers.remove(self.lab, machine)
            absent.append(machine.name)
        if absent:
            podman.give_host_an_address(self.lab)
            places.say(f"vagrant up {' '.join(absent)}")
            vagrant_tool.up(self.lab, absent)
        podman.give_host_an_address(self.lab)
        for machine in machines:
            leftovers.adopt(self.lab, machine)
        for directory, _, files in os.walk(os.path.join(places.CHECKOUT, ".vagrant")):
            for name in ("", *files):
                places.own(os.path.join(directory, name))
        self._note_old_images(machines)

    def host_key(self, name: str) -> str:
        """Return a machine's SSH host key as `TYPE BASE64`, read past the network, once it has one."""
        machine = self.lab.machine(name)
        until = time.monotonic() + _PATIENCE
        while True:
            shown = podman.podman(
                "exec", machine.container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub", check=False, timeout=10
            )
            if shown.returncode == 0:
                return " ".join(shown.stdout.split()[:2])
            if time.monotonic() > until:
                raise LabError(
                    f"{name} made no SSH host key within {_PATIENCE:.0f} s: {shown.stderr.strip()}"
                )
            time.sleep(0.1)

    def status(self, name: str) -> str:
        """Return `running`, `dead` (podman only thinks it runs), podman's word, or `absent`."""
        machine = self.lab.machine(name)
        container = podman.inspect(machine.container)
        if container is None:
            return "absent"
        if container.status != "running":
            return container.status
        return "running" if podman.answers(machine) else "dead"

    def stop(self, names: Iterable[str]) -> None:
        """Shut machines down in order, all at once."""
        self._each(names, lambda machine: podman.podman("stop", "--time=30", machine.container))

    def start(self, names: Iterable[str]) -> None:
        """Start machines that are off (or dead), disks kept."""

        def one(machine: Machine) -> None:
            container = self._existing(machine)
            if podman.answers(machine):
                return
            if not leftovers.revive(self.lab, machine, container):
                raise LabError(f"{machine.name} does not start", hint=f"vagrant/lab fresh {machine.name}")

        podman.ensure_network(self.lab)
        self._each(names, one)
        podman.give_host_an_address(self.lab)

    def reboot(self, names: Sequence[str]) -> None:
        """Shut down and start again."""
        self.stop(names)
        self.start(names)

    def power_cut(self, names: Iterable[str]) -> None:
        """Kill everything in the machines at once, without a chance to write anything; they stay off."""

        def one(machine: Machine) -> None:
            self._existing(machine)
            podman.podman("kill", "--signal=KILL", machine.container)
            podman.podman("wait", machine.container, check=False, timeout=20)

        self._each(names, one)

    def fresh(self, names: Iterable[str]) -> None:
        """Make machines anew from the image: empty disks, new host keys. Takes about a second."""
        self._prepare_host()
        podman.ensure_network(self.lab)
        image = podman.image()

        def one(machine: Machine) -> None:
            leftovers.remove(self.lab, machine)
            podman.create(self.lab, machine, image)
            leftovers.adopt(self.lab, machine)

        self._each(names, one)
        podman.give_host_an_address(self.lab)

    def destroy(self) -> None:
        """Remove every machine of this lab, of whatever shape, its volumes and its network."""
        prefix = f"{self.lab.name}-"
        known = {machine.name: machine for machine in self.lab.machines}
        for container in podman.names_in(self.lab):
            name = container[len(prefix) :]
            known.setdefault(name, Machine(name, "", (), container))
        for machine in known.values():
            leftovers.remove(self.lab, machine)
            places.say(f"{machine.name} removed")
        removed = podman.podman("network", "rm", "--force", self.lab.name, check=False)
        if removed.returncode and podman.network(self.lab) is not None:
            raise LabError(f"network {self.lab.name} is still in use: {removed.stderr.strip()}")
        shutil.rmtree(os.path.join("/var/lib/cni/networks", self.lab.name), ignore_errors=True)

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs `arguments` as root in a machine, past the network."""
        return ["podman", "exec", "--interactive", self.lab.machine(name).container, *arguments]

    def _revived(self, machine: Machine) -> bool:
        container = podman.inspect(machine.container)
        if container is None:
            return False
        if leftovers.revive(self.lab, machine, container):
            places.say(f"{machine.name} started again (it was {container.status}); its disk is kept")
            return True
        places.say(f"{machine.name} is beyond repair; making it anew")
        return False

    def _note_old_images(self, machines: Iterable[Machine]) -> None:
        image = podman.image()
        for machine in machines:
            container = podman.inspect(machine.container)
            if container is not None and container.image != image:
                places.say(f"note: {machine.name} is from an older image; `vagrant/lab fresh` renews it")

    def _existing(self, machine: Machine) -> podman.Container:
        container = podman.inspect(machine.container)
        if container is None:
            raise LabError(f"{machine.name} does not exist", hint="vagrant/lab up")
        return container

    def _each(self, names: Iterable[str], action: Callable[[Machine], object]) -> None:
        machines = [self.lab.machine(name) for name in names]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(action, machines))

    def _prepare_host(self) -> None:
        script = os.path.join(places.VAGRANT_DIRECTORY, "prepare-host")
        if subprocess.run([script, "--check"], check=False, capture_output=True).returncode == 0:
            return
        if subprocess.run([script], check=False, stdin=subprocess.DEVNULL, stdout=2).returncode:
            raise LabError("this host cannot run the lab yet; vagrant/prepare-host says why above")
