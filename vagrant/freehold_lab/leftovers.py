"""What is left when machines died with the host's processes, and how it is cleared.

Podman remembers such machines as running; address leases, network namespaces, control groups and Vagrant's
ids outlive them. Nothing here touches a machine that runs.
"""

from __future__ import annotations

import glob
import os
import subprocess

from . import places, podman
from .errors import LabError
from .shape import DEFAULT_NAME, Lab, Machine

_LEASES = "/var/lib/cni/networks"


def revive(lab: Lab, machine: Machine, container: podman.Container) -> bool:
    """Start a machine that exists but does not run, disk kept; return False when it cannot be started."""
    if container.status not in ("created", "exited", "configured"):
        # Podman thinks it runs, or is stopping: make it see that nothing does.
        podman.podman("kill", "--signal=KILL", machine.container, check=False, timeout=20)
        podman.podman("stop", "--time=1", machine.container, check=False, timeout=30)
        podman.podman("container", "cleanup", machine.container, check=False, timeout=30)
    clear_lease(lab, machine)
    for _ in range(2):
        started = podman.podman("start", machine.container, check=False, timeout=60)
        if started.returncode == 0 and podman.answers(machine):
            return True
        podman.podman("container", "cleanup", machine.container, check=False, timeout=30)
        clear_lease(lab, machine)
    return False


def remove(lab: Lab, machine: Machine) -> None:
    """Remove a machine, alive or dead, with its volumes and everything that it left on the host."""
    container = podman.inspect(machine.container)
    if container is not None:
        podman.podman("kill", "--signal=KILL", machine.container, check=False, timeout=20)
        removed = podman.podman("rm", "--force", "--time=0", machine.container, check=False, timeout=60)
        if removed.returncode and podman.inspect(machine.container) is not None:
            podman.podman("container", "cleanup", "--rm", machine.container, check=False, timeout=30)
            podman.podman("rm", "--force", machine.container, timeout=60)
        clear_control_groups(container.identity)
        clear_namespace(container.namespace)
    clear_lease(lab, machine)
    for volume in machine.volumes():
        podman.podman("volume", "rm", "--force", volume.split(":")[0], check=False)
    for left in glob.glob(os.path.join(_vagrant_directory(lab, machine), "*")):
        os.unlink(left)


def clear_lease(lab: Lab, machine: Machine) -> None:
    """Free the machine's address in the network plugin's books."""
    for book in (os.path.join(_LEASES, lab.name, machine.address),):
        if os.path.exists(book):
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
                raise LabError(f"control group {directory} of a removed machine is still in use: {error}") from error


def adopt(lab: Lab, machine: Machine) -> None:
    """Make Vagrant know a machine that runs, whoever started it."""
    container = podman.inspect(machine.container)
    if container is None:
        return
    directory = _vagrant_directory(lab, machine)
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "id")
    if _read(path) != container.identity:
        for left in glob.glob(os.path.join(directory, "*")):
            os.unlink(left)
        with open(path, "w", encoding="ascii") as handle:
            handle.write(container.identity)


def forget(lab: Lab, machine: Machine) -> None:
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
