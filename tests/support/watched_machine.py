"""Files below a directory that look like a machine with a node on it, as far as glances look at one."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.a_node import PAUSE, a_document

from freehold_agent import effects
from freehold_agent.contract import paths
from freehold_agent.contract.resources import Artifact, Directory, File, Link, Resource, Route, Sysctl, Unit
from freehold_agent.effects import Effects
from freehold_agent.glance import INVOCATIONS, WANTS
from freehold_agent.machine import netfilter

CONTENT = b"program"
PROGRAM = Artifact("kubelet", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
RESOURCES: list[Resource] = [
    File("/etc/a", b"a"),
    Directory("/etc/d"),
    Link("/etc/l", "a"),
    PROGRAM,
    Sysctl("net.ipv4.ip_forward", "1"),
    Route("10.96.0.0/12", "eth0"),
    Unit("kubelet.service"),
]
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
SERVICES = "eth0\t0000600A\t00000000\t0001\t0\t0\t0\t0000F0FF\n"
NODE_BEHIND = "flannel.1\t0000F40A\t0000F40A\t0003\t0\t0\t0\t00FFFFFF\n"
NEIGHBOURS = (
    "IP address HW type Flags HW address Mask Device\n10.244.0.0 0x1 0x6 5e:a3:6e:30:03:7b * flannel.1\n"
)


class WatchedMachine:
    """Files below a root that look like a machine's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/etc/a", "a")
        (root / "etc/d").mkdir()
        (root / "etc/l").symlink_to("a")
        self.write(paths.STORE + "/" + PROGRAM.sha256, CONTENT.decode())
        self.write("/proc/sys/net/ipv4/ip_forward", "1\n")
        self.write("/proc/net/route", ROUTES + SERVICES)
        self.write(WANTS + "other.service", "")
        self.link(WANTS + "kubelet.service", "/etc/systemd/system/kubelet.service")
        self.runs("kubelet.service", "1")

    def path(self, name: str) -> Path:
        return self.root / name[1:]

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def link(self, name: str, target: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).unlink(missing_ok=True)
        self.path(name).symlink_to(target)

    def runs(self, unit: str, invocation: str) -> None:
        self.link(INVOCATIONS + unit, invocation)


class Kernel:
    """Tables, images and a clock."""

    def __init__(self, machine: WatchedMachine) -> None:
        self.machine = machine
        self.number = 1
        self.rules: netfilter.Chains = {
            ("ip", "kube-proxy"): {"nat-prerouting": 1, "services": None, "service-2QR-ns/echo/tcp/": None},
            ("ip", "flannel-ipv4"): {"postrtg": 6, "forward": 2},
            ("ip6", "flannel-ipv6"): {},
            ("ip", "of-others"): {"input": 1},
        }
        self.services = 3
        self.images = [PAUSE]
        self.clock = 0.0
        self.asked = 0
        for unit in effects.required(a_document()):
            machine.runs(unit, "1")
        machine.write(effects.METADATA, "1")
        machine.write("/sys/class/net/flannel.1/mtu", "1450")
        machine.write("/proc/net/arp", NEIGHBOURS)
        machine.write("/proc/net/route", ROUTES + NODE_BEHIND)
        machine.path(paths.CONTAINERD_SOCKET).parent.mkdir(parents=True)
        # A path below a test's directory is too long for a socket's name.
        here = os.getcwd()
        os.chdir(machine.path(paths.CONTAINERD_SOCKET).parent)
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("containerd.sock")
        finally:
            os.chdir(here)
        self.effects = Effects(
            a_document(),
            effects.Host(
                generation=lambda: self.number,
                chains=self._chains,
                rules=self._count,
                run=self._run,
                now=lambda: self.clock,
                sleep=lambda _seconds: None,
                root=str(machine.root),
            ),
        )

    def _chains(self, wanted: Callable[[str], bool]) -> netfilter.Chains:
        return {
            table: {name: count for name, count in chains.items() if wanted(name)}
            for table, chains in self.rules.items()
        }

    def _count(self, _family: str, table: str, chain: str) -> int:
        assert (table, chain) == ("kube-proxy", "services"), (
            "nobody counts what comes and goes with a Service"
        )
        return self.services

    def _run(self, _command: Any, **_options: Any) -> str:
        self.asked += 1
        return "\n".join(self.images) + "\n"
