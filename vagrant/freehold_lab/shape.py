"""Which machines a lab has: names, addresses, roles, and how each is created. Pure; touches no machine.

The Vagrantfile reads this too (`vagrant/lab machines --json`), so that it is said once.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import LabError

DEFAULT_NAME = "freehold-lab"
DEFAULT_SHAPE = "1+2"
PROVIDERS = ("docker", "libvirt", "virtualbox")
# What a container machine keeps outside its root filesystem: overlay on overlay fails, and podman would
# put a tmpfs over the journal.
VOLUMES = {"containerd": "/var/lib/containerd", "kubelet": "/var/lib/kubelet", "journal": "/var/log/journal"}
_FIRST_CONTROL_PLANE, _FIRST_WORKER, _MORE_CONTROL_PLANES = 11, 12, 202
_MOST_WORKERS, _MOST_CONTROL_PLANES = 189, 9


@dataclass(frozen=True)
class Machine:
    """One machine: its name in the inventory, its fixed address, its roles."""

    name: str
    address: str
    roles: tuple[str, ...]
    container: str

    def volumes(self) -> list[str]:
        """Return the named volumes as `NAME:PATH`."""
        return [f"{self.volume(short)}:{path}" for short, path in VOLUMES.items()]

    def volume(self, short: str) -> str:
        """Return the name of one of the machine's volumes."""
        return f"{self.container}-{short}"


@dataclass(frozen=True)
class Lab:
    """A lab: its machines, its network (`prefix`.0/24) and who makes the machines (`provider`)."""

    name: str
    shape: str
    prefix: str
    provider: str
    machines: tuple[Machine, ...]

    @property
    def subnet(self) -> str:
        return f"{self.prefix}.0/24"

    @property
    def host_address(self) -> str:
        return f"{self.prefix}.1"

    def machine(self, name: str) -> Machine:
        """Return the machine called `name`; raise LabError when the lab has none of that name."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise LabError(
            f"lab {self.name} ({self.shape}) has no machine {name!r}; it has {known}",
            hint="another shape: FREEHOLD_LAB_SHAPE=CONTROL_PLANES+WORKERS",
        )

    def create_args(self, machine: Machine) -> list[str]:
        """Return the arguments of `podman run` that make a container a machine (without name, image, volumes)."""
        return [
            "--systemd=always",
            "--cgroupns=private",
            f"--network={self.name}",
            f"--ip={machine.address}",
            f"--mac-address={hardware_address(machine.address)}",
            # As on a fresh Debian; a new network namespace takes the value of the host, which is not always the same.
            "--sysctl=net.ipv4.ip_forward=0",
            # Nobody answers there: a lab has no DNS unless a test starts one, and says so at once.
            f"--dns={self.host_address}",
            f"--label=io.freehold.lab={self.name}",
            f"--label=io.freehold.machine={machine.name}",
        ]


def hardware_address(address: str) -> str:
    """Return the MAC address that belongs to an IPv4 address: one that changed at a reboot would be dead for seconds.

    Neighbours keep sending to the one they know until they have probed it in vain.
    """
    return "02:fd:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def lab_from(environment: Mapping[str, str]) -> Lab:
    """Read the lab's name, shape, subnet and provider from FREEHOLD_LAB*; raise LabError on nonsense."""
    name = environment.get("FREEHOLD_LAB") or DEFAULT_NAME
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise LabError(f"FREEHOLD_LAB={name}: use lower-case letters, digits and '-', at most 31")
    shape = environment.get("FREEHOLD_LAB_SHAPE") or DEFAULT_SHAPE
    control_planes, workers = _counts(shape)
    provider = (
        environment.get("FREEHOLD_LAB_PROVIDER") or environment.get("VAGRANT_DEFAULT_PROVIDER") or "docker"
    )
    if provider not in PROVIDERS:
        raise LabError(f"FREEHOLD_LAB_PROVIDER={provider}: use one of {', '.join(PROVIDERS)}")
    prefix = _prefix(name, provider, environment.get("FREEHOLD_LAB_SUBNET", ""))
    machines = [
        _machine(name, f"cp{i}", f"{prefix}.{_control_plane_octet(i)}", "control-plane")
        for i in range(1, control_planes + 1)
    ] + [
        _machine(name, f"w{i}", f"{prefix}.{_FIRST_WORKER + i - 1}", "worker") for i in range(1, workers + 1)
    ]
    return Lab(name, shape, prefix, provider, tuple(machines))


def _machine(lab: str, name: str, address: str, role: str) -> Machine:
    return Machine(name, address, (role,), f"{lab}-{name}")


def _counts(shape: str) -> tuple[int, int]:
    matched = re.fullmatch(r"(\d{1,3})\+(\d{1,3})", shape)
    if not matched:
        raise LabError(f"FREEHOLD_LAB_SHAPE={shape}: say CONTROL_PLANES+WORKERS, as in 1+2 or 3+2")
    control_planes, workers = int(matched[1]), int(matched[2])
    if not (1 <= control_planes <= _MOST_CONTROL_PLANES and workers <= _MOST_WORKERS):
        raise LabError(
            f"FREEHOLD_LAB_SHAPE={shape}: 1 to {_MOST_CONTROL_PLANES} control planes and at most "
            f"{_MOST_WORKERS} workers"
        )
    return control_planes, workers


def _control_plane_octet(number: int) -> int:
    """Keep every machine's address the same when a lab grows in either direction."""
    return _FIRST_CONTROL_PLANE if number == 1 else _MORE_CONTROL_PLANES + number - 2


def _prefix(name: str, provider: str, given: str) -> str:
    if given:
        matched = re.fullmatch(r"((?:\d{1,3}\.){2}\d{1,3})(?:\.0/24)?", given)
        if not matched or any(int(octet) > 255 for octet in matched[1].split(".")):
            raise LabError(f"FREEHOLD_LAB_SUBNET={given}: say a /24, as in 10.73.4.0/24")
        return matched[1]
    if provider == "virtualbox":
        return "192.168.56"  # the only host-only range VirtualBox allows without configuration
    if name == DEFAULT_NAME:
        return "10.73.0"
    return f"10.73.{1 + zlib.crc32(name.encode()) % 254}"
