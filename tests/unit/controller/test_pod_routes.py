"""Routes from a control plane that is no node to pods: wanted from Nodes, put right in the kernel."""

import json
import threading
from typing import Any, Dict, List, Sequence

import pytest
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.resources import Change, Route, difference
from freehold_agent.machine.programs import ProgramFailed
from freehold_controller import pod_route_keeper
from freehold_controller.mirror import Mirror
from freehold_controller.pod_route_keeper import NODES, PodRoutes, keep
from freehold_controller.pod_routes import commands, links_of, present_routes, wanted_routes

LINKS = {"10.73.0.11/24": "eth0", "192.168.5.11/24": "eth1", "fd00:73::11/64": "eth0"}
PODS = ["10.244.0.0/16", "fd00:244::/48"]
ADDRESSES = json.dumps(
    [
        {
            "ifname": "lo",
            "flags": ["LOOPBACK", "UP"],
            "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}],
        },
        {
            "ifname": "eth0",
            "flags": ["UP"],
            "addr_info": [
                {"local": "10.73.0.11", "prefixlen": 24, "scope": "global"},
                {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        },
    ]
)


def a_node(name: str, *cidrs: str, addresses: Sequence[str] = ()) -> Dict[str, Any]:
    """Return a Node as the API server knows it."""
    return {
        "metadata": {"name": name},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": name},
                *({"type": "InternalIP", "address": address} for address in addresses),
            ]
        },
    }


W1 = a_node("w1", "10.244.1.0/24", addresses=["10.73.0.12"])
W2 = a_node("w2", "10.244.2.0/24", addresses=["192.168.5.13"])


def test_a_route_leads_through_each_node() -> None:
    """Each pod CIDR is reached through its node's address, over the device of the network they share."""
    reach = wanted_routes([W2, W1], LINKS, PODS)
    assert reach.routes == (
        Route("10.244.1.0/24", "eth0", via="10.73.0.12"),
        Route("10.244.2.0/24", "eth1", via="192.168.5.13"),
    )
    assert reach.problems == ()


def test_each_family_goes_its_own_way() -> None:
    """A node's IPv6 pods are reached through its IPv6 address."""
    node = a_node("w1", "10.244.1.0/24", "fd00:244:0:1::/64", addresses=["10.73.0.12", "fd00:73::12"])
    assert [route.via for route in wanted_routes([node], LINKS, PODS).routes] == ["10.73.0.12", "fd00:73::12"]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            a_node("w", "10.244.1.0/24", addresses=["172.16.0.1"]),
            "172.16.0.1 is in no network of this machine",
        ),
        (a_node("w", "0.0.0.0/0", addresses=["10.73.0.12"]), "no part of the pods' network"),
        (a_node("w", "10.73.0.0/24", addresses=["10.73.0.12"]), "no part of the pods' network"),
        (a_node("w", "10.244.1.0/24", addresses=["10.73.0.11"]), "is taken"),
        (a_node("w", "10.244.1.5/24", addresses=["10.73.0.12"]), "host bits"),
        (a_node("w", "10.244.1.0/24", addresses=["nonsense"]), "nonsense"),
    ],
)
def test_a_node_is_believed_about_its_own_pods_only(node: Dict[str, Any], words: str) -> None:
    """What a Node says gets no traffic of others, and the sentence names the node."""
    reach = wanted_routes([node], LINKS, PODS)
    assert reach.routes == ()
    (problem,) = reach.problems
    assert problem.startswith("w: ")
    assert words in problem


def test_a_node_that_has_not_reported_is_waited_for() -> None:
    """Admission makes the Node before its kubelet tells an address: that is no problem."""
    assert wanted_routes([a_node("w1", "10.244.1.0/24")], LINKS, PODS) == ((), ())
    assert wanted_routes([{"metadata": {"name": "w1"}}], LINKS, PODS) == ((), ())


def test_the_second_node_with_a_cidr_gets_nothing() -> None:
    """Two Nodes that name one CIDR: the first keeps it, and that is said."""
    reach = wanted_routes([W1, a_node("w9", "10.244.1.0/24", addresses=["10.73.0.19"])], LINKS, PODS)
    assert [route.via for route in reach.routes] == ["10.73.0.12"]
    assert len(reach.problems) == 1


def test_addresses_are_read() -> None:
    """Loopback and link-local addresses lead to no node."""
    assert links_of(ADDRESSES) == {"10.73.0.11/24": "eth0"}
    assert links_of("") == {}


def test_present_routes_are_those_to_pods() -> None:
    """Other routes of ours are not touched."""
    text = json.dumps(
        [
            {"dst": "10.244.1.0/24", "gateway": "10.73.0.12", "dev": "eth0"},
            {"dst": "10.96.0.0/12", "dev": "eth0", "prefsrc": "10.73.0.11"},
            {"dst": "default", "gateway": "10.73.0.1", "dev": "eth0"},
        ]
    )
    assert present_routes(text, PODS) == {
        "route:10.244.1.0/24": {"device": "eth0", "source": None, "via": "10.73.0.12"}
    }


def test_commands_never_overwrite_what_others_made() -> None:
    """A route that is missing is added, ours is replaced, and only ours is deleted."""
    wanted = [
        Route("10.244.1.0/24", "eth0", via="10.73.0.12"),
        Route("10.244.2.0/24", "eth0", via="10.73.0.13"),
    ]
    present = {
        "route:10.244.2.0/24": Route("10.244.2.0/24", "eth0", via="10.73.0.99").wanted,
        "route:10.244.3.0/24": Route("10.244.3.0/24", "eth0", via="10.73.0.14").wanted,
    }
    assert commands(difference(present, wanted, list(present)), wanted) == {
        4: [
            "route del 10.244.3.0/24 proto 70",
            "route add 10.244.1.0/24 via 10.73.0.12 dev eth0 proto 70",
            "route replace 10.244.2.0/24 via 10.73.0.13 dev eth0 proto 70",
        ]
    }


class Kernel:
    """`ip` with a routing table of its own."""

    def __init__(self) -> None:
        self.routes: Dict[str, Dict[str, str]] = {}
        self.calls: List[str] = []
        self.broken = False

    def run(self, command: Sequence[str], *, timeout: float, stdin: bytes = b"") -> str:
        self.calls.append(" ".join(command))
        if self.broken:
            raise ProgramFailed(command, 2, "RTNETLINK answers: Operation not permitted")
        if command[-1] == "address":
            return ADDRESSES
        if "show" in command:
            return json.dumps(list(self.routes.values())) if "-4" in command else "[]"
        for line in stdin.decode().splitlines():
            words = line.split()
            if words[1] == "del":
                del self.routes[words[2]]
            else:
                self.routes[words[2]] = {"dst": words[2], "gateway": words[4], "dev": words[6]}
        return ""


class Bench:
    """An API with Nodes, a kernel, and the keeper between them."""

    def __init__(self) -> None:
        self.api = FakeKubernetes()
        self.kernel = Kernel()
        self.nodes = Mirror(self.api, NODES, lambda: None)
        self.keeper = PodRoutes(self.nodes, PODS, self.kernel.run)

    def know(self, *nodes: Dict[str, Any]) -> None:
        """Let these be all Nodes."""
        for node in self.nodes.items():
            self.nodes.drop(node["metadata"]["name"])
        for node in nodes:
            self.nodes.put(node)
        self.nodes._synced.set()


def test_nothing_is_touched_before_the_nodes_are_known() -> None:
    """While the API does not answer, routes stay as they are."""
    bench = Bench()
    assert bench.keeper.step(kernel=True) == 0
    assert bench.kernel.calls == []


def test_routes_come_and_go_with_nodes() -> None:
    """A new Node gets its route, one that is gone loses it, and what stays is not touched."""
    bench = Bench()
    bench.know(W1)
    assert bench.keeper.step(kernel=True) == 1
    assert bench.kernel.routes["10.244.1.0/24"]["gateway"] == "10.73.0.12"
    other = a_node("w3", "10.244.3.0/24", addresses=["10.73.0.14"])
    bench.know(W1, other)
    assert bench.keeper.step(kernel=False) == 1
    bench.know(other)
    assert bench.keeper.step(kernel=False) == 1
    assert list(bench.kernel.routes) == ["10.244.3.0/24"]


def test_a_node_that_only_reports_costs_nothing() -> None:
    """A status that changes no route does not even lead to a look at the kernel."""
    bench = Bench()
    bench.know(W1)
    bench.keeper.step(kernel=True)
    bench.kernel.calls.clear()
    bench.know({**W1, "metadata": {"name": "w1", "resourceVersion": "77"}})
    assert bench.keeper.step(kernel=False) == 0
    assert bench.kernel.calls == []


def test_a_lost_route_comes_back() -> None:
    """When the kernel tells of a change, what is missing is put back."""
    bench = Bench()
    bench.know(W1)
    bench.keeper.step(kernel=True)
    bench.kernel.routes.clear()
    assert bench.keeper.step(kernel=True) == 1
    assert "10.244.1.0/24" in bench.kernel.routes


def test_a_failure_is_tried_again() -> None:
    """What could not be done is not taken for done, even when nothing tells of a change."""
    bench = Bench()
    bench.know(W1)
    bench.kernel.broken = True
    with pytest.raises(ProgramFailed):
        bench.keeper.step(kernel=True)
    bench.kernel.broken = False
    assert bench.keeper.step(kernel=False) == 1


def test_a_node_out_of_reach_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """The journal names it when it comes, not at every look."""
    bench = Bench()
    bench.know(W1, W2)
    for _ in range(3):
        bench.keeper.step(kernel=True)
    assert capfd.readouterr().err.count("192.168.5.13 is in no network of this machine") == 1
    assert list(bench.kernel.routes) == ["10.244.1.0/24"]


def test_keeping_looks_at_once_and_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks without being woken first, survives a failure, and looks again soon."""
    stop, wake, kernel_changed = threading.Event(), threading.Event(), threading.Event()
    looks: List[bool] = []

    class Routes(PodRoutes):
        def __init__(self) -> None: ...

        def step(self, *, kernel: bool) -> int:
            looks.append(kernel)
            if len(looks) == 1:
                raise ProgramFailed(["ip"], 2, "busy")
            stop.set()
            wake.set()
            return 0

    class Hurry(pod_route_keeper.Backoff):
        def pause(self) -> None: ...

    monkeypatch.setattr(pod_route_keeper, "Backoff", Hurry)
    keep(Routes(), stop, wake, kernel_changed)
    assert len(looks) == 2
    assert looks[0]


def test_keeping_ends_when_nobody_listens_any_more() -> None:
    """A dead thread ends the service: systemd starts it anew."""
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    with pytest.raises(OSError, match="not followed"):
        keep(Bench().keeper, threading.Event(), threading.Event(), threading.Event(), [dead])


def test_a_change_says_what_it_does() -> None:
    """Deleting needs no route to be wanted."""
    assert commands([Change("route:fd00:244::/64", "delete", {}, None)], []) == {
        6: ["route del fd00:244::/64 proto 70"]
    }
