"""What is left when machines died with the host's processes, and how it is cleared.

Podman remembers such machines as running; address leases, network namespaces, control groups and Vagrant's
ids outlive them. Nothing here touches a machine that runs.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import time

from . import places, podman
from .errors import LabError
from .shape import DEFAULT_NAME, Lab, Machine

_LEASES = "/var/lib/cni/networks"
_EXIT_CODES = "/run/libpod/exits"
_PATIENCE = 60.0
"""Seconds within which systemd in a started machine must answer; on an idle host it takes less than one."""


def revive(lab: Lab, machine: Machine, container: podman.Container) -> bool:
    """Start a machine that exists but does not run, disk kept; return False when it cannot be started."""
    bury(container)
    podman.podman("stop", "--time=1", machine.container, check=False, timeout=30)
    podman.podman("container", "cleanup", machine.container, check=False, timeout=30)
    clear_lease(lab, machine)
    for _ in range(2):
        started = podman.podman("start", machine.container, check=False, timeout=60)
        if started.returncode == 0 and podman.answers_within(machine, _PATIENCE):
            return True
        podman.podman("container", "cleanup", machine.container, check=False, timeout=30)
        clear_lease(lab, machine)
    return False


def bury(container: podman.Container) -> None:
    """Make podman see that a machine is dead.

    When a machine dies together with its monitor, nobody writes the exit code that podman waits for: it then
    calls the machine running, or stopping for ever. Whatever still lives of a machine that does not answer is
    killed first.
    """
    if container.pid == 0:
        return
    if _belongs(container):
        with contextlib.suppress(ProcessLookupError):
            os.kill(container.pid, signal.SIGKILL)
    until = time.monotonic() + 2
    while _belongs(container) and time.monotonic() < until:
        time.sleep(0.05)
    os.makedirs(_EXIT_CODES, exist_ok=True)
    path = os.path.join(_EXIT_CODES, container.identity)
    if not os.path.exists(path):
        with open(path, "w", encoding="ascii") as handle:
            handle.write("137")


def _belongs(container: podman.Container) -> bool:
    """Say whether the process podman remembers is still that machine's, and not a later one of the same number."""
    try:
        with open(f"/proc/{container.pid}/cgroup", encoding="ascii") as handle:
            return container.identity in handle.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


def remove(lab: Lab, machine: Machine) -> None:
    """Remove a machine, alive or dead, with its volumes and everything that it left on the host."""
    container = podman.inspect(machine.container)
    if container is not None:
        bury(container)
        removed = podman.podman("rm", "--force", "--time=0", machine.container, check=False, timeout=60)
        if removed.returncode and podman.inspect(machine.container) is not None:
            podman.podman("container", "cleanup", "--rm", machine.container, check=False, timeout=30)
            podman.podman("rm", "--force", machine.container, timeout=60)
        clear_control_groups(container.identity)
        clear_namespace(container.namespace)
    clear_lease(lab, machine)
    for volume in machine.volumes():
        podman.podman("volume", "rm", "--force", volume.split(":")[0], check=False)
    _forget(lab, machine)


def clear_lease(lab: Lab, machine: Machine) -> None:
    """Free the machine's address in the network plugin's books."""
    book = os.path.join(_LEASES, lab.name, machine.address)
    if machine.address and os.path.exists(book):
        os.unlink(book)


def clear_namespace(path: str) -> None:
    """Take away the network namespace (and with it the interface on the bridge) of a removed machine."""
    if path.startswith("/run/netns/") and os.path.exists(path):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        os.unlink(path)


def clear_control_groups(identity: str) -> None:
    """Remove the empty control groups of a removed machine, those of its pods included."""
    roots = glob.glob(f"/sys/fs/cgroup/*/libpod_parent/libpod-{identity}") + glob.glob(
        f"/sys/fs/cgroup/libpod_parent/libpod-{identity}"
    )
    for root in roots:
        for directory, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(directory)
            except OSError as error:
                raise LabError(
                    f"control group {directory} of a removed machine is still in use: {error}"
                ) from error


def adopt(lab: Lab, machine: Machine) -> None:
    """Make Vagrant know a machine that runs, whoever started it."""
    container = podman.inspect(machine.container)
    if container is None:
        return
    directory = _vagrant_directory(lab, machine)
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "id")
    if _read(path) != container.identity:
        _forget(lab, machine)
        with open(path, "w", encoding="ascii") as handle:
            handle.write(container.identity)


def _forget(lab: Lab, machine: Machine) -> None:
    """Make Vagrant forget a machine that is no more."""
    for left in glob.glob(os.path.join(_vagrant_directory(lab, machine), "*")):
        os.unlink(left)


def _vagrant_directory(lab: Lab, machine: Machine) -> str:
    return os.path.join(places.vagrant_state(lab.name, DEFAULT_NAME), "machines", machine.name, "docker")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as handle:
            return handle.read().strip()
    except FileNotFoundError:
        return ""
