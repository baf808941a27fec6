"""DNS endpoints follow the probes, are never empty, and are written only when they change."""

import http.server
import threading
from typing import Dict, List

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, forbidden

from freehold_controller.dns_endpoints import RECHECK, SLICES, DnsEndpoints, DnsServer, choose, probe

ONE = DnsServer("cp1", "10.73.0.11", "http://one/ready")
TWO = DnsServer("cp2", "10.73.0.12", "http://two/ready")
SIX = DnsServer("cp3", "fd00::3", "http://six/ready")
SLICE = SLICES + "/kube-dns-freehold"


class Bench:
    """An API, a clock, and servers that are up or down."""

    def __init__(self, *servers: DnsServer) -> None:
        self.api = FakeKubernetes()
        self.time = 0.0
        self.up: Dict[str, bool] = {server.ready_url: True for server in servers}
        self.servers = servers
        self.keeper = self.a_keeper()

    def a_keeper(self) -> DnsEndpoints:
        return DnsEndpoints(self.api, self.servers, prober=lambda url: self.up[url], clock=lambda: self.time)

    def steps(self, count: int = 1) -> int:
        writes = 0
        for _ in range(count):
            self.time += 1
            writes += self.keeper.step()
        return writes

    def addresses(self, path: str = SLICE) -> List[str]:
        return [endpoint["addresses"][0] for endpoint in self.api.objects[path]["endpoints"]]


def test_a_slice_is_written_once() -> None:
    """The slice belongs to the Service, names UDP and TCP on 1053, and is not written again unchanged."""
    bench = Bench(ONE, TWO)
    assert bench.steps(100) == 1
    written = bench.api.objects[SLICE]
    assert written["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"
    assert written["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "freehold"
    assert [(port["name"], port["protocol"], port["port"]) for port in written["ports"]] == [
        ("dns", "UDP", 1053),
        ("dns-tcp", "TCP", 1053),
    ]
    assert bench.addresses() == ["10.73.0.11", "10.73.0.12"]


def test_a_server_on_a_machine_that_is_no_node_names_none() -> None:
    """Its address is published without a Node that does not exist."""
    bench = Bench(DnsServer("", "10.73.0.11", "http://one/ready"))
    assert bench.steps(3) == 1
    assert "nodeName" not in bench.api.objects[SLICE]["endpoints"][0]


def test_a_server_that_fails_twice_goes_and_comes_back_at_once() -> None:
    """One missed probe is no reason to write; two are; one success brings the server back."""
    bench = Bench(ONE, TWO)
    bench.steps()
    bench.up[ONE.ready_url] = False
    assert bench.steps() == 0
    assert bench.steps() == 1
    assert bench.addresses() == ["10.73.0.12"]
    bench.up[ONE.ready_url] = True
    assert bench.steps() == 1
    assert bench.addresses() == ["10.73.0.11", "10.73.0.12"]


def test_the_last_addresses_stay_when_all_probes_fail() -> None:
    """Also after a new leader has taken over, which knows them from the slice."""
    bench = Bench(ONE, TWO)
    bench.up[ONE.ready_url] = False
    bench.steps()
    assert bench.addresses() == ["10.73.0.12"]
    bench.up[TWO.ready_url] = False
    assert bench.steps(10) == 0
    bench.keeper = bench.a_keeper()
    assert bench.steps(10) == 0
    assert bench.addresses() == ["10.73.0.12"]


def test_all_addresses_are_written_when_none_was_ever_ready() -> None:
    """At the first start nobody waits for a probe."""
    bench = Bench(ONE, TWO)
    bench.up = dict.fromkeys(bench.up, False)
    bench.steps()
    assert bench.addresses() == ["10.73.0.11", "10.73.0.12"]


def test_each_family_has_its_slice() -> None:
    """A slice holds one family of addresses; each is kept for itself."""
    bench = Bench(ONE, SIX)
    assert bench.steps() == 2
    assert bench.addresses() == ["10.73.0.11"]
    assert bench.addresses(SLICE + "-ipv6") == ["fd00::3"]
    assert bench.api.objects[SLICE + "-ipv6"]["addressType"] == "IPv6"


def test_a_slice_that_somebody_removed_or_changed_comes_back() -> None:
    """What others did is seen within the time of a recheck."""
    bench = Bench(ONE)
    bench.steps()
    bench.api.delete(SLICE)
    assert bench.steps(int(RECHECK) + 1) == 1
    changed = bench.api.get(SLICE)
    changed["endpoints"][0]["addresses"] = ["10.9.9.9"]
    bench.api.replace(SLICE, changed)
    assert bench.steps(int(RECHECK) + 1) == 1
    assert bench.addresses() == ["10.73.0.11"]


def test_a_write_that_failed_is_made_again() -> None:
    """An error leaves nothing remembered that is not there."""
    bench = Bench(ONE)
    bench.api.fail("apply", SLICE, forbidden())
    with pytest.raises(Exception, match="no"):
        bench.steps()
    assert bench.steps() == 1


def test_choose_is_never_empty() -> None:
    """Ready ones first, else those published, else all; strangers in the slice count for nothing."""
    assert choose([ONE, TWO], [TWO], [ONE.address]) == (TWO,)
    assert choose([ONE, TWO], [], [TWO.address]) == (TWO,)
    assert choose([ONE, TWO], [], ["10.9.9.9"]) == (ONE, TWO)


def test_probe_wants_a_200() -> None:
    """A server that answers 503, and one that does not listen, are not ready."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        base = "http://127.0.0.1:{}".format(server.server_port)
        assert probe(base + "/ready")
        assert not probe(base + "/other")
        server.shutdown()
        thread.join()
    assert not probe(base + "/ready")
