"""A machine in a network of its own joins by token, through a router and behind NAT, and its pods are in the cluster.

The first worker is the router. The second leaves the cluster and its network for this, and both come back at the end.
"""

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import dns
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.paste_on_machine import Pasted, paste
from tests.support.pods import from_machine, from_pod, pods_by_node
from tests.support.spare_machine import IMAGES_COME, remove, taken_out

from freehold_agent.contract import paths

NETWORK, GATEWAY, FAR = "192.168.77.0/24", "192.168.77.1", "192.168.77.13"
NAT = "192.168.78.1"
"""What the router makes of FAR: an address in no network of the control plane."""
NAT_TABLE = "e2e-nat"

Join = Callable[..., Pasted]


@pytest.fixture(scope="module")
def spare(cluster: Cluster) -> str:
    """The name of the machine in the other network."""
    return cluster.workers[-1]


@pytest.fixture(scope="module")
def router(cluster: Cluster) -> str:
    """The name of the machine between the networks."""
    return cluster.workers[0]


@pytest.fixture(scope="module")
def smaller(cluster: Cluster, spare: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with taken_out(cluster, spare, tmp_path_factory.mktemp("inventory")) as path:
        yield path


@pytest.fixture(scope="module")
def moved(cluster: Cluster, spare: str, router: str, smaller: Path) -> Iterator[None]:
    """The spare machine has one address, FAR; the control plane knows the way there and to NAT."""
    lab, near, own = cluster.lab.subnet, cluster.address(router), cluster.address(spare)
    # As in the lab's own network a look-up of a registry's name ends at once: pulls wait for each other.
    no_resolver = f"ip route {{}} unreachable {next(ipaddress.ip_network(lab).hosts())}"
    forth = {
        router: f"sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0; "
        f"ip address add {GATEWAY}/24 dev eth0; ip address add {NAT} dev eth0",
        cluster.control_plane: f"ip route add {NETWORK} via {near}; ip route add {NAT} via {near}",
        spare: f"ip address add {FAR}/24 dev eth0; ip address del {own}/24 dev eth0; "
        f"ip route add {lab} via {GATEWAY}; {no_resolver.format('add')}",
    }
    back = {
        router: f"ip address del {GATEWAY}/24 dev eth0; ip address del {NAT} dev eth0; "
        "sysctl -qw net.ipv4.conf.all.send_redirects=1 net.ipv4.conf.eth0.send_redirects=1; "
        f"nft destroy table ip {NAT_TABLE} 2>/dev/null || true",
        cluster.control_plane: f"ip route del {NETWORK}; ip route del {NAT}",
        spare: f"{no_resolver.format('del')}; ip route del {lab}; "
        f"ip address add {own}/24 dev eth0; ip address del {FAR}/24 dev eth0",
    }
    for machine, script in forth.items():
        cluster.run(machine, script)
    yield
    remove(cluster, spare, smaller)
    for machine, script in back.items():
        cluster.run(machine, script)


@pytest.fixture(scope="module")
def join(cluster: Cluster, spare: str, smaller: Path, moved: None) -> Join:
    """Make a token with these options and paste its line on the spare machine."""

    def paste_line(*options: str) -> Pasted:
        made: Any = cluster.freehold(
            "token", "create", "--node", spare, "--output", "json", *options, inventory=smaller
        )
        assert not made.failed, str(made)
        return paste(cluster.lab, spare, made.json)

    return paste_line


@pytest.fixture
def nat(cluster: Cluster, router: str, moved: None) -> Iterator[None]:
    """What leaves the other network comes from NAT."""
    rules = (
        f"table ip {NAT_TABLE} {{ chain post {{ type nat hook postrouting priority srcnat + 10; "
        f"ip saddr {NETWORK} ip daddr {cluster.lab.subnet} snat to {NAT}; }}; }}"
    )
    cluster.run(router, "nft --file -", stdin=rules)
    yield
    cluster.run(router, f"nft delete table ip {NAT_TABLE}")


def test_through_a_router(
    cluster: Cluster, echo: Kubectl, spare: str, router: str, smaller: Path, join: Join
) -> None:
    """The observed address is the node's; its pods reach and are reached; no stranger of its network is answered."""
    pasted = join()
    assert pasted.code == 0, pasted.shown
    _belongs(cluster, echo, spare)
    assert _dns_code(cluster, spare, FAR) == 0
    assert _dns_code(cluster, router, GATEWAY) == dns.REFUSED, "that network is nobody's but the node's"
    assert cluster.freehold("plan", inventory=smaller).code == 0, "the list of nodes is no change to plan"
    remove(cluster, spare, smaller)
    wait_for(
        lambda: _dns_code(cluster, spare, FAR) == dns.REFUSED, 60, "the removed machine to be a stranger"
    )


def test_behind_nat(cluster: Cluster, echo: Kubectl, spare: str, router: str, join: Join, nat: None) -> None:
    """Told nothing it is refused before anything is begun; told its address it joins; its pods are in the cluster."""
    refused = join()
    assert refused.code == 3, refused.shown
    assert f"no interface of this machine has the address {NAT}" in refused.shown
    assert "behind NAT" in refused.shown
    assert FAR in refused.last
    assert "token create --address" in refused.last
    assert cluster.kubectl("get", "node", spare, check=False).failed, "no Node was made"
    assert cluster.run(spare, f"ls -d {paths.OPT} {paths.STATE} 2>/dev/null || true") == ""
    pasted = join("--address", FAR)
    assert pasted.code == 0, pasted.shown
    _belongs(cluster, echo, spare)
    assert _dns_code(cluster, router, NAT) == 0, "its questions come from there"


def _belongs(cluster: Cluster, echo: Kubectl, spare: str) -> None:
    """Fail unless this node's pods and all others reach each other, by address, name and Service; and logs and exec."""
    cluster.load_images()
    wait_for(
        lambda: spare in pods_by_node(echo, "echo") and spare in pods_by_node(echo, "shell"),
        IMAGES_COME,
        "its pods",
    )
    echo.rolled_out("daemonset/echo", "daemonset/shell")
    node = cluster.kubectl.json("get", "node", spare)
    assert {"type": "InternalIP", "address": FAR} in node["status"]["addresses"]
    servers, shells = pods_by_node(echo, "echo"), pods_by_node(echo, "shell")
    assert set(servers) == set(shells) == set(cluster.nodes)
    urls = [f"http://{server.address}:8080/" for server in servers.values()]
    names = [server.name for server in servers.values()]
    for shell in shells.values():
        *direct, service = from_pod(echo, shell.name, [*urls, "http://echo/"])
        assert [reply.server for reply in direct] == names, shell
        assert {reply.client for reply in direct} == {shell.address}, "not masqueraded"
        assert service.server in names, shell
    for machine in cluster.nodes:
        assert [reply.server for reply in from_machine(cluster, machine, urls)] == names, machine
    assert "shell is here" in echo("logs", shells[spare].name).stdout
    assert echo.exec(shells[spare].name, "hostname").stdout.strip() == shells[spare].name


def _dns_code(cluster: Cluster, machine: str, source: str) -> int:
    """Return what the control plane's DNS server says to a question from one of a machine's addresses."""
    server = cluster.address(cluster.control_plane)
    ask = dns.over_udp(server, paths.DNS_PORT, "kubernetes.default.svc.cluster.local", source)
    return dns.code_of(bytes.fromhex(cluster.run(machine, ask)))
