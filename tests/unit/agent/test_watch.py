"""Glances, lost effects, drift, the daily reading and the report to the Node."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_node import PAUSE, a_document

from freehold_agent import effects, glance, node_report
from freehold_agent.contract import paths
from freehold_agent.contract.conditions import DRIFT
from freehold_agent.contract.resources import Artifact, Directory, File, Link, Resource, Route, Sysctl, Unit
from freehold_agent.drift import find_drift
from freehold_agent.effects import KUBE_PROXY, LONGEST_PATIENCE, PATIENCE, Effects
from freehold_agent.glance import INVOCATIONS, WANTS, Glance
from freehold_agent.machine import netfilter
from freehold_agent.machine.kubernetes_api import Conflict
from freehold_agent.node_report import NodeReport
from freehold_agent.rehash import DAY, Rehash
from freehold_agent.store import HashCache
from freehold_agent.watch import LOOKS_IN_A_ROW, SECONDS_PER_LOOK, Watch

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


class Machine:
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


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_glance_sees_nothing_where_nothing_changes(machine: Machine) -> None:
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
def test_a_glance_sees_each_injury(machine: Machine, injure: Any) -> None:
    """Whatever is done to a file, link, directory, program, setting, route, unit or bridge makes another stamp."""
    seen = Glance(RESOURCES, str(machine.root))
    before = seen.stamp()
    injure(machine)
    assert seen.stamp() != before


def test_routes_of_both_families_are_read(machine: Machine) -> None:
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


class Kernel:
    """Tables, images and a clock."""

    def __init__(self, machine: Machine) -> None:
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


@pytest.fixture
def kernel(machine: Machine) -> Kernel:
    return Kernel(machine)


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


def test_a_unit_that_somebody_started_meanwhile_is_left_alone(machine: Machine, kernel: Kernel) -> None:
    """What a glance saw is of no use once another run has made the unit anew."""
    watch = Watch(str(machine.root))
    watch._effects = kernel.effects
    assert watch.begin(a_document(), RESOURCES) == {}
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "kube-proxy"): {"nat-prerouting": 0}}, 2
    assert watch.changed()
    machine.runs(KUBE_PROXY, "2")
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "kube-proxy"): {"nat-prerouting": 1}}, 3
    assert watch.begin(a_document(), RESOURCES) == {}


def test_drift_names_what_is_not_ours(machine: Machine) -> None:
    """Drop-ins of our units and foreign networks; not our own file, nor those of other units."""
    root = str(machine.root)
    ours: list[Resource] = [Unit("kubelet.service")]
    machine.write(paths.CNI_CONFLIST, "{}")
    machine.write("/etc/systemd/system/sshd.service.d/x.conf", "")
    machine.write("/etc/systemd/system/kubelet.service.d/readme", "")
    assert find_drift(a_document(), ours, root) == []
    machine.write("/etc/systemd/system/kubelet.service.d/50-mine.conf", "")
    machine.write("/run/systemd/system.control/kubelet.service", "")
    machine.write(paths.CNI_CONFIG + "/05-first.conf", "{}")
    machine.write(paths.CNI_CONFIG + "/99-last.conflist", "{}")
    places = [one.place for one in find_drift(a_document(), ours, root)]
    assert places == [
        "/run/systemd/system.control/kubelet.service",
        "/etc/systemd/system/kubelet.service.d/50-mine.conf",
        paths.CNI_CONFIG + "/05-first.conf",
        paths.CNI_CONFIG + "/99-last.conflist",
    ]


def test_every_file_is_read_once_a_day(tmp_path: Path) -> None:
    """Within a day each has its turn exactly once, at even distances; after a start nothing is read at once."""
    artifacts = [Artifact(str(number), f"{number:064x}", 1) for number in range(40)]
    clock = [1e9]
    reading = Rehash("w1", lambda: clock[0], str(tmp_path))
    assert reading.next(artifacts) is None
    turns = []
    for _ in range(int(DAY / 60)):
        clock[0] += 60
        artifact = reading.next(artifacts)
        if artifact is not None:
            turns.append(artifact.title)
    assert sorted(turns) == sorted(artifact.title for artifact in artifacts)


def test_a_rotten_file_is_no_longer_believed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose bytes differ behind unchanged times is found, and the next look sees its true digest."""
    path = machine.path(paths.STORE + "/" + PROGRAM.sha256)
    hashes = str(machine.path(paths.HASHES))
    HashCache(hashes).remember({str(path): PROGRAM.sha256})
    reading = Rehash("w1", root=str(machine.root))
    monkeypatch.setattr(reading, "next", lambda artifacts: artifacts[0])
    before = os.stat(hashes).st_mtime_ns
    assert reading.check([PROGRAM]) is None
    assert os.stat(hashes).st_mtime_ns == before, "nothing is written for a file that is right"
    path.write_bytes(b"Xrogram")
    HashCache(hashes).remember({str(path): PROGRAM.sha256})  # as if its times had not changed
    assert reading.check([PROGRAM]) == PROGRAM
    assert HashCache(hashes).digest(str(path)) == hashlib.sha256(b"Xrogram").hexdigest()


def test_glances_cannot_call_for_looks_without_end(machine: Machine, kernel: Kernel) -> None:
    """A unit that crashes every second gets some looks at once, and then one in so many seconds."""
    clock = [0.0]
    watch = Watch(str(machine.root), lambda: clock[0])
    watch._effects = kernel.effects
    looks = 0
    for second in range(0, 1000, 10):
        clock[0] = float(second)
        watch.begin(a_document(), RESOURCES)
        machine.runs("kubelet.service", str(second))
        looks += watch.changed()
    assert looks <= LOOKS_IN_A_ROW + 1000 / SECONDS_PER_LOOK
    assert looks >= 1000 / SECONDS_PER_LOOK


class Api:
    """The API server, as far as a node tells it something."""

    def __init__(self) -> None:
        self.conditions: list[dict[str, Any]] = [{"type": "Ready", "status": "True"}]
        self.events: list[dict[str, Any]] = []
        self.applied = 0
        self.error: Exception | None = None

    def get(self, _path: str) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"status": {"conditions": self.conditions}}

    def apply(self, path: str, body: dict[str, Any], field_manager: str = "") -> None:
        assert path == "/api/v1/nodes/w1/status"
        self.applied += 1
        self.conditions = [{"type": "Ready", "status": "True"}, *body["status"]["conditions"]]

    def create(self, path: str, body: dict[str, Any]) -> None:
        assert path == "/api/v1/namespaces/default/events"
        if any(event["metadata"] == body["metadata"] for event in self.events):
            raise Conflict(409, "AlreadyExists", "")
        self.events.append(body)

    def close(self) -> None:
        pass


def _nobody(_level: int, _text: str) -> None:
    pass


def test_the_node_says_what_is_wrong_and_only_once() -> None:
    """The condition is sent when it changes; the same words again are neither a patch nor an Event."""
    api, clock = Api(), [1000.0]
    report = NodeReport(a_document, _nobody, connect=lambda: api, now=lambda: clock[0])  # type: ignore[arg-type, return-value]
    for _ in range(3):
        report.condition(True, "ForeignSettings", "drop-in")
        report.event("Warning", "FreeholdDrift", "drop-in")
        report.send()
    assert api.applied == 1
    assert len(api.events) == 1
    assert api.events[0]["involvedObject"]["name"] == "w1"
    assert api.conditions[-1] == {
        "type": DRIFT,
        "status": "True",
        "reason": "ForeignSettings",
        "message": "drop-in",
        "lastTransitionTime": "1970-01-01T00:16:40Z",
        "lastHeartbeatTime": "1970-01-01T00:16:40Z",
    }
    clock[0] += node_report.SAME + 1
    report.event("Warning", "FreeholdDrift", "drop-in")
    report.condition(False, node_report.NOTHING, "as its document says")
    report.send()
    assert len(api.events) == 2
    assert api.conditions[-1]["status"] == "False"


def test_another_agent_of_the_same_node_repeats_nothing() -> None:
    """After a restart the condition that stands there already is not written again."""
    api = Api()
    for _ in range(2):
        report = NodeReport(a_document, _nobody, connect=lambda: api)  # type: ignore[arg-type, return-value]
        report.condition(False, node_report.NOTHING, "as its document says")
        report.send()
    assert api.applied == 1


def test_what_could_not_be_sent_waits() -> None:
    """Without a control plane nothing is lost of the last condition and the last Events."""
    api = Api()
    report = NodeReport(a_document, _nobody, connect=lambda: api)  # type: ignore[arg-type, return-value]
    report.condition(True, "RepairFailed", "no route")
    for number in range(node_report.WAITING + 5):
        report.event("Normal", "FreeholdRepaired", str(number))
    api.error = ConnectionRefusedError()
    with pytest.raises(ConnectionRefusedError):
        report.send()
    api.error = None
    report.send()
    assert api.conditions[-1]["message"] == "no route"
    assert len(api.events) == node_report.WAITING
