"""What units have made in the kernel and in containerd, and when it counts as lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.support.a_node import PAUSE
from tests.support.watched_machine import NODE_BEHIND, ROUTES, Kernel, WatchedMachine

from freehold_agent import effects
from freehold_agent.contract import paths
from freehold_agent.effects import KUBE_PROXY, LONGEST_PATIENCE, PATIENCE
from freehold_agent.glance import INVOCATIONS


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(WatchedMachine(tmp_path))


def test_a_whole_node_has_lost_nothing(kernel: Kernel) -> None:
    """Nothing is lost, and containerd is asked for its images once while its list stays the same."""
    for _ in range(3):
        assert kernel.effects.lost() == {}
        kernel.clock += 2 * PATIENCE
    assert kernel.asked == 1


def test_rules_that_were_flushed_are_lost_at_once(kernel: Kernel) -> None:
    """A base chain without rules is as good as no table; told once for this run of the unit."""
    kernel.effects.lost()
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "kube-proxy"): {"nat-prerouting": 0}}, 2
    assert kernel.effects.lost() == {KUBE_PROXY: ["table ip kube-proxy"]}
    assert kernel.effects.lost() == {}


def test_a_single_rule_is_lost_at_once(kernel: Kernel) -> None:
    """One less than this run had, in a base chain or in another that stays; more are none, nor those of others."""
    assert kernel.effects.lost() == {}
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "flannel-ipv4"): {"postrtg": 5, "forward": 2}}, 2
    kernel.services = 2
    assert kernel.effects.lost() == {
        KUBE_PROXY: ["table ip kube-proxy chain services rule 3"],
        effects.FLANNEL: ["table ip flannel-ipv4 chain postrtg rule 6"],
    }
    for unit in (KUBE_PROXY, effects.FLANNEL):
        kernel.machine.runs(unit, "2")
    assert kernel.effects.lost() == {}, "another run may make fewer"
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "of-others"): {"input": 0}}, 3
    kernel.services = 4
    assert kernel.effects.lost() == {}


def test_what_a_run_never_had_is_waited_for(kernel: Kernel) -> None:
    """A proxy that has not found the API server yet is started anew rarely, and ever more rarely."""
    kernel.rules = {key: chains for key, chains in kernel.rules.items() if key[1] != "kube-proxy"}
    assert kernel.effects.lost() == {}
    times = []
    for second in range(0, 10000, 10):
        kernel.clock = float(second)
        if kernel.effects.lost():
            times.append(second)
            kernel.machine.runs(KUBE_PROXY, str(second))
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert PATIENCE <= times[0] <= PATIENCE + 20
    assert gaps == sorted(gaps)
    assert LONGEST_PATIENCE <= gaps[-1] <= LONGEST_PATIENCE + 20


def test_a_unit_that_is_down_has_lost_nothing(kernel: Kernel) -> None:
    """It is the whole look's business."""
    kernel.effects.lost()
    kernel.machine.path(INVOCATIONS + KUBE_PROXY).unlink()
    kernel.rules, kernel.number = {}, 2
    assert KUBE_PROXY not in kernel.effects.lost()


def test_links_and_routes_of_flannel_are_followed(kernel: Kernel) -> None:
    """A node that flannel knows without a route to it, and then its link."""
    kernel.effects.lost()
    kernel.machine.write("/proc/net/route", ROUTES)
    assert kernel.effects.lost() == {effects.FLANNEL: ["routes to other nodes"]}
    kernel.machine.runs(effects.FLANNEL, "2")
    kernel.machine.write("/proc/net/route", ROUTES + NODE_BEHIND)
    assert kernel.effects.lost() == {}
    kernel.machine.path("/sys/class/net/flannel.1/mtu").unlink()
    kernel.machine.path("/sys/class/net/flannel.1").rmdir()
    assert kernel.effects.lost() == {effects.FLANNEL: ["link flannel.1", "routes to other nodes"]}


def test_a_missing_socket_is_lost_soon_and_then_rarely(kernel: Kernel) -> None:
    """containerd makes it before systemd calls it up; where another start does not help, it is not tried for ever."""
    kernel.machine.path(paths.CONTAINERD_SOCKET).unlink()
    assert kernel.effects.lost() == {}, "it may be on its way"
    kernel.clock += effects.SOON
    lost = {effects.CONTAINERD: ["socket " + paths.CONTAINERD_SOCKET]}
    assert kernel.effects.lost() == lost
    kernel.machine.runs(effects.CONTAINERD, "2")
    assert kernel.effects.lost() == {}
    kernel.clock += PATIENCE
    assert kernel.effects.lost() == lost


def test_a_removed_image_is_lost(kernel: Kernel) -> None:
    """It is seen once containerd's list has changed."""
    kernel.effects.lost()
    kernel.images = ["another"]
    assert kernel.effects.lost() == {}
    kernel.machine.write(effects.METADATA, "12")
    assert kernel.effects.lost() == {effects.IMPORTS[0]: ["image " + PAUSE]}


def test_what_seems_gone_is_looked_for_twice(kernel: Kernel) -> None:
    """A neighbour that flannel has just made known has its route a moment later."""
    kernel.effects.lost()
    kernel.machine.write("/proc/net/route", ROUTES)
    later = lambda _seconds: kernel.machine.write("/proc/net/route", ROUTES + NODE_BEHIND)  # noqa: E731
    kernel.effects._host = dataclasses.replace(kernel.effects._host, sleep=later)
    assert kernel.effects.lost() == {}
