"""Names, asked from pods: of Services and their endpoints, backwards, short, and of the world outside."""

import re
from collections.abc import Iterator
from functools import partial

import pytest
from tests.support import dns
from tests.support.cluster import Cluster
from tests.support.kubectl import Answer, Kubectl, wait_for
from tests.support.pods import Pod, pods_by_node

from freehold_agent.contract import paths

OUTSIDE, OUTSIDE_ADDRESS = "shop.example.com", "192.0.2.77"
STRANGER = "198.51.100.7"
NAMESPACE = "e2e-echo"


@pytest.fixture(scope="module")
def shells(echo: Kubectl) -> dict[str, Pod]:
    return pods_by_node(echo, "shell")


def test_a_service_name_from_every_node(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """The full name of a Service is its address, asked on each node."""
    address = echo.json("get", "service", "echo")["spec"]["clusterIP"]
    for shell in shells.values():
        assert _addresses(_ask(echo, shell, f"echo.{NAMESPACE}.svc.cluster.local.")) == {address}, shell


@pytest.mark.parametrize("name", ["echo", f"echo.{NAMESPACE}", f"echo.{NAMESPACE}.svc"])
def test_short_names(echo: Kubectl, shells: dict[str, Pod], name: str) -> None:
    """Search domains complete a short name: a web request to it is answered."""
    for shell in shells.values():
        said = echo.exec(shell.name, "timeout", "5", "wget", "-q", "-O-", f"http://{name}/").stdout
        assert f"host: {name}\n" in said, shell


def test_a_headless_service_names_its_pods(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """A headless Service's name has the addresses of all its pods."""
    expected = {pod.address for pod in pods_by_node(echo, "echo").values()}
    shell = next(iter(shells.values()))
    assert _addresses(_ask(echo, shell, f"echo-headless.{NAMESPACE}.svc.cluster.local.")) == expected


def test_service_records(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """SRV of a headless Service's port names one target per pod with the port's number."""
    shell = next(iter(shells.values()))
    said = _ask(echo, shell, f"_http._tcp.echo-headless.{NAMESPACE}.svc.cluster.local.", "srv").stdout
    found = re.findall(r"service = \d+ \d+ (\d+) (\S+)", said)
    assert len(found) == len(shells), said
    assert {port for port, _ in found} == {"8080"}
    assert all(
        target.rstrip(".").endswith(f".echo-headless.{NAMESPACE}.svc.cluster.local") for _, target in found
    )


def test_addresses_have_names(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """The reverse of a Service's address is its name."""
    address = echo.json("get", "service", "echo")["spec"]["clusterIP"]
    for shell in shells.values():
        assert f"name = echo.{NAMESPACE}.svc.cluster.local" in _ask(echo, shell, address).stdout, shell


def test_an_unknown_name_is_unknown(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """A name that no Service has does not exist, said at once."""
    said = _ask(echo, next(iter(shells.values())), f"nothing.{NAMESPACE}.svc.cluster.local.", check=False)
    assert "NXDOMAIN" in said.stdout + said.stderr


def test_over_tcp(cluster: Cluster, echo: Kubectl, shells: dict[str, Pod]) -> None:
    """The DNS Service answers over TCP, from each node's pods."""
    server = cluster.kubectl.within("kube-system").json("get", "service", "kube-dns")["spec"]["clusterIP"]
    command = dns.over_tcp(server, 53, f"echo.{NAMESPACE}.svc.cluster.local")
    for shell in shells.values():
        reply = bytes.fromhex(echo.exec(shell.name, "sh", "-c", command).stdout)[2:]
        assert (dns.code_of(reply), dns.answers_in(reply)) == (0, 1), shell


def test_strangers_are_refused(cluster: Cluster, echo: Kubectl) -> None:
    """DNS answers machines of the cluster's network and refuses an address from anywhere else."""
    server, machine = cluster.address(cluster.control_plane), cluster.workers[-1]
    name = f"echo.{NAMESPACE}.svc.cluster.local"
    known = bytes.fromhex(
        cluster.run(machine, dns.over_udp(server, paths.DNS_PORT, name, cluster.address(machine)))
    )
    assert (dns.code_of(known), dns.answers_in(known)) == (0, 1)
    there, back = f"{STRANGER}/32 dev lo", f"{STRANGER}/32 via {cluster.address(machine)}"
    try:
        cluster.run(machine, f"ip address add {there}")
        cluster.run(cluster.control_plane, f"ip route add {back}")
        refused = bytes.fromhex(cluster.run(machine, dns.over_udp(server, paths.DNS_PORT, name, STRANGER)))
    finally:
        cluster.run(cluster.control_plane, f"ip route del {back} || true")
        cluster.run(machine, f"ip address del {there} || true")
    assert (dns.code_of(refused), dns.answers_in(refused)) == (dns.REFUSED, 0)


@pytest.fixture
def world(cluster: Cluster) -> Iterator[None]:
    """A DNS server in the lab that knows one name of the world, and the control plane's machine asking it."""
    machine, program = cluster.workers[-1], "/run/e2e-dns"
    address = cluster.address(machine)
    options = f"-listen= -dns={address}:53 -dns-name={OUTSIDE} -dns-address={OUTSIDE_ADDRESS}"
    cluster.send(
        machine,
        "test/echo",
        f"cat >{program}; chmod 755 {program}; systemd-run --quiet --unit=e2e-dns {program} {options}",
    )
    # The file is a mount of its own in a container: it is written in place.
    cluster.run(
        cluster.control_plane,
        "cp /etc/resolv.conf /run/e2e-resolv.conf; "
        f"echo nameserver {address} >/etc/resolv.conf; systemctl restart coredns",
    )
    yield
    cluster.run(
        cluster.control_plane, "cat /run/e2e-resolv.conf >/etc/resolv.conf; systemctl restart coredns"
    )
    cluster.run(machine, f"systemctl stop e2e-dns; rm {program}")


@pytest.mark.usefixtures("world")
def test_a_name_of_the_world(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """A pod learns an outside name from the machine's own resolver, cluster names as before."""
    for shell in shells.values():
        # CoreDNS was just restarted, and begins without the cluster's names if these take it more than five seconds.
        found = wait_for(partial(_found, echo, shell, f"{OUTSIDE}."), 60, f"an answer for {shell}")
        assert found == {OUTSIDE_ADDRESS}, shell
        inside = f"echo.{NAMESPACE}.svc.cluster.local."
        wait_for(partial(_found, echo, shell, inside), 60, f"the cluster's names for {shell}")


def _found(kubectl: Kubectl, pod: Pod, name: str) -> set[str]:
    return _addresses(_ask(kubectl, pod, name))


def _ask(kubectl: Kubectl, pod: Pod, name: str, kind: str = "", check: bool = True) -> Answer:
    options = [f"-type={kind}"] if kind else ["-type=a"] if name.endswith(".") else []
    return kubectl.exec(pod.name, "timeout", "10", "nslookup", *options, name, check=check)


def _addresses(answer: Answer) -> set[str]:
    """Return the addresses after the server's own, which nslookup prints first."""
    said = answer.stdout.partition("\n\n")[2]
    return set(re.findall(r"^Address(?: \d+)?: (\S+)", said, re.MULTILINE))
