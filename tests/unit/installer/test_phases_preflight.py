"""Preflight: facts of a machine in, sentences out: each thing that can be wrong.

Other distributions as they are: tests/plans/test_systems_plan.py.
"""

import copy
from typing import Any

import pytest
from tests.support.a_control_plane import WITHOUT_NODE

from freehold_agent.contract import paths, ports
from freehold_installer.config import Inventory, loads
from freehold_installer.phases import preflight

GIB = 1 << 30
INVENTORY = """
name: test
hosts:
  cp1: {address: 10.73.0.11, roles: [control-plane]}
  w1: {address: 10.73.0.12, roles: [worker]}
  w2: {address: 10.73.0.13, roles: [worker]}
"""
SSH = {"port": 22, "protocol": "tcp", "address": "0.0.0.0", "process": "sshd"}

DEBIAN_12: dict[str, Any] = {
    "python": "3.11.2",
    "kernel": "6.1.0-18-amd64",
    "architecture": "amd64",
    "cgroup_version": 2,
    "cap_sys_resource": True,
    "conntrack_writable": True,
    "swap": False,
    "default_route": True,
    "default_route_v6": False,
    "modules": {"br_netfilter": "loadable", "overlay": "loadable", "nf_conntrack": "loaded"},
    "tools": {
        **dict.fromkeys(("conntrack", "ip", "modprobe", "mount", "umount", "systemctl", "tar"), "/usr/bin/x"),
        "nft": "1.0.6",
        "iptables": "1.8.9",
    },
    "foreign": [],
    "interfaces": [
        {"name": "lo", "mtu": 65536, "addresses": ["127.0.0.1/8", "::1/128"]},
        {"name": "eth0", "mtu": 1500, "addresses": ["10.73.0.11/24", "10.73.0.12/24"]},
    ],
    "routes": [
        {"destination": "0.0.0.0/0", "device": "eth0", "protocol": 3, "via": "10.73.0.1"},
        {"destination": "10.73.0.0/24", "device": "eth0", "protocol": 2, "via": None},
    ],
    "listening": [SSH],
    "linked": {},
    "disk": {path: {"free": 40 * GIB, "total": 80 * GIB} for path in ("/", "/opt", "/var/lib")},
    "memory": 4 * GIB,
}
RHEL_8: dict[str, Any] = {
    **DEBIAN_12,
    "python": "3.6.8",
    "kernel": "4.18.0-513.5.1.el8_9.x86_64",
    "tools": {**DEBIAN_12["tools"], "nft": "1.0.4"},
}
LAB: dict[str, Any] = {
    **DEBIAN_12,
    "cgroup_version": 1,
    "cap_sys_resource": False,
    "conntrack_writable": False,
    "default_route": False,
    "routes": DEBIAN_12["routes"][1:],
}


@pytest.fixture
def inventory() -> Inventory:
    return loads(INVENTORY)


def changed(**changes: Any) -> dict[str, Any]:
    """Debian 12 with some facts replaced; mappings are merged."""
    facts = copy.deepcopy(DEBIAN_12)
    for name, value in changes.items():
        facts[name] = {**facts[name], **value} if isinstance(value, dict) else value
    return facts


def problems(
    inventory: Inventory, facts: dict[str, Any], host: str = "cp1", installed: bool = False
) -> list[str]:
    return preflight.problems(inventory, inventory.hosts[host], facts, installed=installed)


@pytest.mark.parametrize("facts", [DEBIAN_12, LAB], ids=["debian12", "lab"])
@pytest.mark.parametrize("host", ["cp1", "w1"])
def test_a_distribution_that_works_has_no_problem(
    inventory: Inventory, facts: dict[str, Any], host: str
) -> None:
    """Nothing is asked of a machine that its distribution's own packages do not give."""
    assert problems(inventory, facts, host) == []


def a_cluster_without_its_node(worker: str = "10.73.0.12") -> Inventory:
    return loads(WITHOUT_NODE.replace("10.73.0.12", worker))


def test_a_control_plane_that_is_no_node_needs_little() -> None:
    """Neither packet filter nor container tools nor modules are asked of it; a worker needs them still."""
    bare = changed(
        kernel="5.4.0",
        tools={**dict.fromkeys(DEBIAN_12["tools"], None), "ip": "/sbin/ip", "systemctl": "/bin/systemctl"},
        modules=dict.fromkeys(DEBIAN_12["modules"], "absent"),
        listening=[{"port": 10250, "protocol": "tcp", "address": "0.0.0.0", "process": "other"}],
    )
    inventory = a_cluster_without_its_node()
    assert problems(inventory, bare, "cp1") == []
    assert len(problems(inventory, bare, "w1")) >= 5
    (problem,) = problems(inventory, changed(tools={"ip": None}), "cp1")
    assert "iproute2" in problem


def test_a_control_plane_that_is_no_node_shares_a_network_with_nodes() -> None:
    """A node that only a router connects is refused: no route through it reaches its pods."""
    (problem,) = problems(a_cluster_without_its_node("10.74.0.12"), DEBIAN_12, "cp1")
    assert "w1 (10.74.0.12)" in problem
    assert "standalone.joinNode.enabled" in problem


def test_the_plan_says_that_a_control_plane_is_no_node() -> None:
    """One note instead of those about kubelets and pods."""
    (note,) = preflight.notes(LAB, node=False)
    assert "no node" in note


def test_routes_of_another_pod_network_are_its_own() -> None:
    """On a node without flannel a route to pods is no obstacle later; one to Services always is."""
    text = INVENTORY + "config: {deploy: {cni: {flannel: {enabled: false}}}}\n"
    pods = {"destination": "10.244.3.0/24", "device": "cilium_host", "protocol": 3, "via": None}
    services = {**pods, "destination": "10.96.0.0/16"}
    for routes, installed, count in (([pods], True, 0), ([pods], False, 1), ([services], True, 1)):
        facts = changed(routes=[*DEBIAN_12["routes"], *routes])
        assert len(problems(loads(text), facts, installed=installed)) == count, routes
    assert len(problems(loads(INVENTORY), changed(routes=[pods]), installed=True)) == 1


def test_the_port_of_kube_proxy_is_free_for_another() -> None:
    """Without our kube-proxy whoever holds its port is no obstacle."""
    facts = changed(listening=[{"port": 10256, "protocol": "tcp", "address": "0.0.0.0", "process": "x"}])
    text = INVENTORY + "config: {deploy: {kubeProxy: {enabled: false}}}\n"
    assert problems(loads(text), facts) == []
    assert len(problems(loads(INVENTORY), facts)) == 1


def test_an_old_distribution_is_told_everything_at_once(inventory: Inventory) -> None:
    """Python and kernel are both named, each with what is needed."""
    found = problems(inventory, RHEL_8)
    assert len(found) == 2
    assert "Python 3.6.8 is too old, 3.9 is needed" in found[0]
    assert "kernel 4.18.0-513.5.1.el8_9.x86_64 is too old" in found[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "3.8.10"}, ("Python 3.8.10", "3.9")),
        ({"python": "2.7.18"}, ("Python 2.7.18",)),
        ({"kernel": "5.12.19"}, ("kernel 5.12.19", "5.13")),
        ({"tools": {"systemctl": None}}, ("systemd",)),
        ({"architecture": "riscv64"}, ("riscv64", "amd64 and arm64")),
        ({"modules": {"overlay": "absent"}}, ("no overlay",)),
        ({"modules": {"br_netfilter": "absent"}}, ("no br_netfilter",)),
        ({"tools": {"nft": None}}, ("nft missing: apt-get install nftables",)),
        ({"tools": {"nft": "0.9.8"}}, ("nft 0.9.8 is too old", "1.0.1")),
        (
            {"tools": {"conntrack": None, "modprobe": None}},
            ("conntrack, modprobe missing", "install conntrack kmod"),
        ),
        ({"tools": {"mount": None, "umount": None}}, ("mount, umount missing: apt-get install mount",)),
        (
            {"foreign": ["unit k3s.service (/etc/systemd/system/k3s.service)"]},
            ("k3s.service", "remove it first"),
        ),
        ({"memory": 1 * GIB}, ("1024 MiB of memory", "1536")),
        ({"disk": {"/opt": {"free": 100 << 20, "total": GIB}}}, ("100 MiB free under /opt", "3072")),
        ({"disk": {"/var/lib": {"free": 0, "total": GIB}}}, ("0 MiB free under /var/lib",)),
    ],
)
def test_each_thing_that_can_be_wrong(
    inventory: Inventory, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    """One thing wrong is one sentence that names what is there and what is needed."""
    found = problems(inventory, changed(**changes))
    assert len(found) == 1, found
    assert all(word in found[0] for word in words), found


@pytest.mark.parametrize("nft", ["1.0.1", "1.0.10", "1.1.3", "2.0"])
def test_versions_are_compared_as_numbers(inventory: Inventory, nft: str) -> None:
    """1.0.10 is newer than 1.0.2, and a missing part counts as none."""
    assert problems(inventory, changed(tools={"nft": nft})) == []


def test_a_worker_needs_less_than_a_control_plane(inventory: Inventory) -> None:
    """What is too small for a control plane may do for a worker."""
    small = changed(
        memory=1 * GIB, disk={path: {"free": 2 * GIB, "total": 4 * GIB} for path in ("/opt", "/var/lib")}
    )
    assert len(problems(inventory, small, "cp1")) == 3
    assert problems(inventory, small, "w1") == []


def listening(*sockets: tuple[str, int], process: str = "nginx") -> list[dict[str, Any]]:
    return [
        {"port": port, "protocol": kind, "address": "0.0.0.0", "process": process} for kind, port in sockets
    ]


def test_a_port_in_use_is_named_with_both_sides(inventory: Inventory) -> None:
    """Who needs it and who has it; a port of control planes does not matter on a worker."""
    facts = changed(listening=listening(("tcp", 6443), ("tcp", 10250), ("udp", 6443), ("tcp", 8080)))
    assert problems(inventory, facts, "cp1") == [
        "tcp port 6443, which kube-apiserver needs, is in use by nginx",
        "tcp port 10250, which kubelet needs, is in use by nginx",
    ]
    assert problems(inventory, facts, "w1") == ["tcp port 10250, which kubelet needs, is in use by nginx"]


ON_CONTROL_PLANE = [(port, "cp1") for port in (*ports.control_plane_ports(), *ports.node_ports())]
ON_WORKER = [(port, "w1") for port in ports.node_ports()]


@pytest.mark.parametrize(
    ("port", "host"),
    [*ON_CONTROL_PLANE, *ON_WORKER],
    ids=lambda value: value if isinstance(value, str) else f"{value.number}-{value.protocol}",
)
def test_every_port_that_will_be_listened_on_must_be_free(
    inventory: Inventory, port: ports.Port, host: str
) -> None:
    """Metrics and health of the loopback and flannel's tunnel too, each with the program that needs it."""
    facts = changed(listening=listening((port.protocol, port.number)))
    assert problems(inventory, facts, host) == [
        f"{port.protocol} port {port.number}, which {port.program} needs, is in use by nginx"
    ]


@pytest.mark.parametrize(
    ("deploy", "free"),
    [
        ("{cni: {flannel: {backend: host-gw}}}", ports.FLANNEL_VXLAN),
        ("{}", ()),
    ],
    ids=["host-gw", "vxlan"],
)
def test_ports_of_what_is_not_deployed_do_not_matter(deploy: str, free: tuple[ports.Port, ...]) -> None:
    """vxlan's port is asked for only where flannel makes a tunnel."""
    other = loads(INVENTORY + f"config: {{deploy: {deploy}}}\n")
    facts = changed(listening=listening(("udp", ports.VXLAN)))
    assert bool(problems(other, facts, "w1")) == (not free)


def test_the_table_of_ports_knows_what_is_left_out() -> None:
    """Without kube-proxy, vxlan or embedded DNS their ports are none of ours."""
    programs = {port.program for port in ports.node_ports(kube_proxy=False, vxlan=False)}
    assert programs == {"kubelet"}
    assert "coredns" not in {port.program for port in ports.control_plane_ports(dns=False)}


def test_a_tunnel_of_the_kernel_shares_its_port(inventory: Inventory) -> None:
    """Another vxlan of the machine is held by no process, and flannel's works beside it."""
    assert problems(inventory, changed(listening=listening(("udp", ports.VXLAN), process="")), "w1") == []


def test_a_port_is_named_once(inventory: Inventory) -> None:
    """Two sockets on one port (IPv4 and IPv6) are one problem; an unknown holder is called so."""
    sockets = listening(("tcp", 2379), process="")
    facts = changed(listening=[*sockets, {**sockets[0], "address": "::"}])
    assert problems(inventory, facts) == ["tcp port 2379, which etcd needs, is in use by another program"]


def test_our_own_ports_and_full_disks_are_no_obstacle_later(inventory: Inventory) -> None:
    """On a machine that freehold has installed its own programs listen, and the disk holds its files."""
    facts = changed(listening=listening(("tcp", 6443)), disk={"/opt": {"free": GIB, "total": 8 * GIB}})
    assert len(problems(inventory, facts, installed=False)) == 2
    assert problems(inventory, facts, installed=True) == []


def test_a_link_in_the_place_of_a_state_directory(inventory: Inventory) -> None:
    """Said before anything is changed, with what to do instead; a worker has no etcd."""
    facts = changed(linked={"/var/lib/kubelet": "/data/kubelet", "/var/lib/etcd": "/data/etcd"})
    (problem,) = problems(inventory, facts, "w1")
    assert problem == (
        "/var/lib/kubelet is a symbolic link to /data/kubelet: mount it there instead "
        "(mount --bind /data/kubelet /var/lib/kubelet, and the same in /etc/fstab)"
    )
    assert len(problems(inventory, facts, "cp1")) == 2
    assert problems(inventory, facts, "w1", installed=True) == []


def test_an_address_that_the_machine_does_not_have(inventory: Inventory) -> None:
    """The wrong address is named with the ones that are there."""
    facts = changed(interfaces=[{"name": "eth0", "mtu": 1500, "addresses": ["192.0.2.1/24"]}])
    found = problems(inventory, facts, "w1")
    assert found == ["internalAddress 10.73.0.12 is none of its addresses (192.0.2.1)"]


def test_an_advertised_address_must_be_the_machines(inventory: Inventory) -> None:
    """advertiseAddress is checked on control planes, and only there."""
    other = loads(INVENTORY + "config: {controlPlane: {standalone: {advertiseAddress: 198.51.100.7}}}\n")
    found = problems(other, DEBIAN_12, "cp1")
    assert len(found) == 1
    assert "advertiseAddress 198.51.100.7" in found[0]
    assert problems(other, DEBIAN_12, "w1") == []


def route(
    destination: str, device: str = "eth1", protocol: int = 4, via: str | None = None
) -> dict[str, Any]:
    return {"destination": destination, "device": device, "protocol": protocol, "via": via}


@pytest.mark.parametrize(
    ("taken", "key"),
    [
        ("10.244.3.0/24", "podCIDR 10.244.0.0/16"),
        ("10.0.0.0/8", "podCIDR 10.244.0.0/16"),
        ("10.96.0.1/32", "serviceCIDR 10.96.0.0/12"),
    ],
)
def test_a_route_into_the_clusters_networks_is_an_obstacle(
    inventory: Inventory, taken: str, key: str
) -> None:
    """A narrower and a wider network both overlap; route and interface are named."""
    found = problems(inventory, changed(routes=[*DEBIAN_12["routes"], route(taken)]), installed=True)
    assert f"networking.{key} overlaps its route to {taken} over eth1; choose another" in found


@pytest.mark.parametrize(
    "own",
    [
        route("10.96.0.0/12", "eth0", paths.ROUTE_PROTOCOL),
        route("10.244.0.0/24", "cni0", 2),
        route("10.244.1.0/24", "flannel.1", 0, "10.244.1.0"),
        route("10.244.2.0/24", "eth0", 3, "10.73.0.13"),
        route("::/0", "eth0", 3),
        route("fd00::/64", "eth0", 2),
    ],
    ids=["service route", "cni0", "vxlan", "host-gw", "default v6", "v6"],
)
def test_our_own_routes_are_no_obstacle(inventory: Inventory, own: dict[str, Any]) -> None:
    """What freehold and flannel made themselves, and what is not about these networks, is left out."""
    assert problems(inventory, changed(routes=[*DEBIAN_12["routes"], own]), installed=True) == []


def test_nothing_special_needs_no_note() -> None:
    """A plain machine is installed without remarks."""
    assert preflight.notes(DEBIAN_12) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"default_route": False}, "no default route"),
        ({"cap_sys_resource": False}, "restrict_oom_score_adj"),
        ({"conntrack_writable": False}, "nf_conntrack_max"),
        ({"cgroup_version": 1}, "cgroup v1"),
        ({"swap": True}, "swap is on"),
    ],
)
def test_each_workaround_is_said(changes: dict[str, Any], words: str) -> None:
    """Whatever is done differently because of a fact is a note of the plan."""
    found = preflight.notes(changed(**changes))
    assert len(found) == 1
    assert words in found[0]


def test_a_default_route_of_either_family_is_one() -> None:
    """A machine with only an IPv6 default route is not without one."""
    assert preflight.notes(changed(default_route=False, default_route_v6=True)) == []
