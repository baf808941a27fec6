"""Glances: what of a machine they see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.watched_machine import NODE_BEHIND, PROGRAM, RESOURCES, ROUTES, SERVICES, WatchedMachine

from freehold_agent import glance
from freehold_agent.contract import paths
from freehold_agent.glance import INVOCATIONS, WANTS, Glance


@pytest.fixture
def machine(tmp_path: Path) -> WatchedMachine:
    return WatchedMachine(tmp_path)


def test_a_glance_sees_nothing_where_nothing_changes(machine: WatchedMachine) -> None:
    """Two glances at the same machine are equal, also when something is done within a directory of ours."""
    seen = Glance(RESOURCES, str(machine.root))
    before = seen.stamp()
    machine.write("/etc/d/of-others", "x")
    assert seen.stamp() == before


@pytest.mark.parametrize(
    "injure",
    [
        lambda m: m.path("/etc/a").unlink(),
        lambda m: m.write("/etc/a", "b"),
        lambda m: m.path("/etc/a").chmod(0o600),
        lambda m: m.path("/etc/d").chmod(0o700),
        lambda m: m.path("/etc/d").rmdir(),
        lambda m: m.link("/etc/l", "b"),
        lambda m: m.write(paths.STORE + "/" + PROGRAM.sha256, "Xrogram"),
        lambda m: m.path(paths.STORE + "/" + PROGRAM.sha256).chmod(0o600),
        lambda m: m.write("/proc/sys/net/ipv4/ip_forward", "0\n"),
        lambda m: m.write("/proc/net/route", ROUTES),
        lambda m: m.path(WANTS + "kubelet.service").unlink(),
        lambda m: m.path(INVOCATIONS + "kubelet.service").unlink(),
        lambda m: m.runs("kubelet.service", "2"),
        lambda m: m.write("/sys/class/net/cni0/ifindex", "9\n"),
    ],
    ids=range(14),
)
def test_a_glance_sees_each_injury(machine: WatchedMachine, injure: Any) -> None:
    """Whatever is done to a file, link, directory, program, setting, route, unit or bridge makes another stamp."""
    seen = Glance(RESOURCES, str(machine.root))
    before = seen.stamp()
    injure(machine)
    assert seen.stamp() != before


def test_routes_of_both_families_are_read(machine: WatchedMachine) -> None:
    """A route is found by network and device, with its gateway."""
    machine.write("/proc/net/route", ROUTES + SERVICES + NODE_BEHIND)
    machine.write(
        "/proc/net/ipv6_route",
        "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 "
        "fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n",
    )
    found = {
        (str(network), device): via for (network, device), via in glance.routes(str(machine.root)).items()
    }
    assert found == {
        ("10.96.0.0/12", "eth0"): "0.0.0.0",
        ("10.244.0.0/24", "flannel.1"): "10.244.0.0",
        ("fd00::/64", "eth0"): "fd00::1",
    }
