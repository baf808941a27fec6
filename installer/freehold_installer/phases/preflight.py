"""Can this machine do what the inventory asks of it? Every problem of every machine at once, before any change.

Pure: facts and inventory in, sentences out.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from freehold_agent.contract import paths
from freehold_installer.config import Host, Inventory

MINIMUM_PYTHON = (3, 9)
MINIMUM_NFT = (1, 0, 1)
MINIMUM_KERNEL = (5, 13)
"""kube-proxy's nftables mode; below either it would need iptables mode."""
MEMORY = {True: 1536 << 20, False: 512 << 20}
"""Bytes a control plane and a worker cannot do without."""
DISK = {True: 3 << 30, False: 1536 << 20}
"""Bytes free under /opt and /var/lib for a control plane and a worker before a first installation."""
CONTROL_TOOLS = ("ip",)
"""What a control plane needs that is no node."""
PACKAGES = {
    "conntrack": "conntrack",
    "ip": "iproute2",
    "iptables": "iptables",
    "modprobe": "kmod",
    "mount": "mount",
    "nft": "nftables",
    "umount": "mount",
}
"""Tool -> Debian's package name; freehold installs no distribution packages."""
CONTROL_PORTS = {
    ("tcp", 2379): "etcd",
    ("tcp", 2380): "etcd",
    ("tcp", paths.API_PORT): "kube-apiserver",
    ("tcp", paths.JOIN_PORT): "freehold-join",
    ("tcp", paths.ARTIFACT_PORT): "freehold-artifacts",
    ("tcp", paths.DNS_PORT): "coredns",
    ("udp", paths.DNS_PORT): "coredns",
    ("tcp", 10257): "kube-controller-manager",
    ("tcp", 10259): "kube-scheduler",
}
NODE_PORTS = {("tcp", 10250): "kubelet", ("tcp", 10248): "kubelet", ("tcp", 10256): "kube-proxy"}
"""The last one only with our kube-proxy."""
OUR_LINKS = ("cni0", "flannel.1")


def problems(inventory: Inventory, host: Host, facts: Mapping[str, Any], *, installed: bool) -> list[str]:
    """Return what keeps this machine from being what the inventory says; empty when nothing does.

    `installed`: freehold has a record on the machine, so its own ports and files are no obstacle.
    """
    is_node = inventory.is_node(host)
    found = [*_system(facts, is_node), *_tools(facts, is_node)]
    if facts["foreign"]:
        found.append(
            "there is a Kubernetes or container runtime that freehold did not make: "
            + ", ".join(facts["foreign"])
            + "; remove it first, two on one machine break each other"
        )
    found += _addresses(inventory, host, facts)
    if not is_node:
        found += _pods_out_of_reach(inventory, facts)
    if not installed:
        found += _ports(inventory, host, facts)
        found += _room(host, facts)
    found += _overlaps(inventory, facts, installed)
    return found


def notes(facts: Mapping[str, Any], *, node: bool = True) -> list[str]:
    """Return what is done differently on this machine because of its facts, one sentence each."""
    if not node:
        return ["no node: the API server reaches pods by a route through each node"]
    found = []
    if not facts["default_route"] and not facts.get("default_route_v6"):
        found.append(
            "no default route: a route for the service network is added, or Services were unreachable"
        )
    if not facts["cap_sys_resource"]:
        found.append(
            "no CAP_SYS_RESOURCE: oom_score_adj is left alone (restrict_oom_score_adj, oomScoreAdj 0)"
        )
    if not facts["conntrack_writable"]:
        found.append("net.netfilter.nf_conntrack_max is read-only: kube-proxy leaves it alone")
    if facts["cgroup_version"] == 1:
        found.append("cgroup v1: cgroupfs driver, failCgroupV1 off (upstream will drop v1)")
    if facts["swap"]:
        found.append("swap is on: pods do not use it")
    return found


def _pods_out_of_reach(inventory: Inventory, facts: Mapping[str, Any]) -> list[str]:
    """Return the nodes that a control plane that is no node has no network with (docs/adr/0014)."""
    networks = [
        ipaddress.ip_interface(address).network
        for interface in facts["interfaces"]
        for address in interface["addresses"]
    ]
    far = [
        f"{host.name} ({host.internal_address})"
        for host in inventory.nodes
        if not any(ipaddress.ip_address(str(host.internal_address)) in network for network in networks)
    ]
    if not far:
        return []
    said = f"it is no node and reaches pods by routes through their nodes, but has no network with {', '.join(far)}"
    return [f"{said}: give them an internalAddress in one network, or leave standalone.joinNode.enabled true"]


def _system(facts: Mapping[str, Any], is_node: bool) -> list[str]:
    found = []
    if _version(facts["python"])[:2] < MINIMUM_PYTHON:
        found.append(
            f"Python {facts['python']} is too old, 3.9 is needed: install python3.9 or newer as python3"
        )
    if not facts["tools"].get("systemctl"):
        found.append("it does not run systemd, which keeps every component of freehold")
    if is_node and _version(facts["kernel"])[:2] < MINIMUM_KERNEL:
        found.append(f"kernel {facts['kernel']} is too old for kube-proxy's nftables mode, 5.13 is needed")
    if facts["architecture"] not in ("amd64", "arm64"):
        found.append(f"architecture {facts['architecture']} is not built; amd64 and arm64 are")
    for module in ("br_netfilter", "overlay") if is_node else ():
        if facts["modules"].get(module) == "absent":
            found.append(f"its kernel has no {module} (neither built in nor as a module)")
    return found


def _tools(facts: Mapping[str, Any], is_node: bool) -> list[str]:
    missing = sorted(
        name for name in (PACKAGES if is_node else CONTROL_TOOLS) if not facts["tools"].get(name)
    )
    found = []
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        found.append(
            f"{', '.join(missing)} missing: apt-get install {packages} (dnf install on the RHEL family)"
        )
    nft = facts["tools"].get("nft")
    if is_node and nft and _version(nft) < MINIMUM_NFT:
        found.append(f"nft {nft} is too old for kube-proxy's nftables mode, 1.0.1 is needed")
    return found


def _addresses(inventory: Inventory, host: Host, facts: Mapping[str, Any]) -> list[str]:
    own = {
        ipaddress.ip_interface(address).ip
        for interface in facts["interfaces"]
        for address in interface["addresses"]
    }
    wanted = [("internalAddress", host.internal_address)]
    if host.is_control_plane:
        wanted.append(("advertiseAddress", inventory.advertise_address(host)))
    return [
        f"{key} {address} is none of its addresses ({', '.join(sorted(map(str, own)))})"
        for key, address in dict(wanted).items()
        if ipaddress.ip_address(str(address)) not in own
    ]


def _ports(inventory: Inventory, host: Host, facts: Mapping[str, Any]) -> list[str]:
    embedded = inventory.config.control_plane.coredns.embedded
    ports = {port: name for port, name in CONTROL_PORTS.items() if embedded or name != "coredns"}
    if not host.is_control_plane:
        ports = {}
    if inventory.is_node(host):
        proxied = inventory.config.deploy.kube_proxy.enabled
        ports |= {port: name for port, name in NODE_PORTS.items() if proxied or name != "kube-proxy"}
    found = []
    for socket in facts["listening"]:
        purpose = ports.pop((socket["protocol"], socket["port"]), None)
        if purpose:
            holder = socket["process"] or "another program"
            found.append(
                f"{socket['protocol']} port {socket['port']}, which {purpose} needs, is in use by {holder}"
            )
    return found


def _room(host: Host, facts: Mapping[str, Any]) -> list[str]:
    found = []
    control = host.is_control_plane
    if facts["memory"] < MEMORY[control]:
        found.append(f"{facts['memory'] >> 20} MiB of memory; at least {MEMORY[control] >> 20} are needed")
    for path in ("/opt", "/var/lib"):
        free = facts["disk"][path]["free"]
        if free < DISK[control]:
            found.append(f"{free >> 20} MiB free under {path}; at least {DISK[control] >> 20} are needed")
    return found


def _overlaps(inventory: Inventory, facts: Mapping[str, Any], installed: bool) -> list[str]:
    """Return where the machine's routes and the cluster's networks overlap, other than by our own doing.

    On a node whose pod network is the operator's, routes to pods are that one's.
    """
    networking = inventory.config.networking
    networks = {"podCIDR": networking.pod_cidr, "serviceCIDR": networking.service_cidr}
    if installed and not inventory.config.deploy.cni.flannel.enabled:
        del networks["podCIDR"]
    found = []
    for route in facts["routes"]:
        destination = route["destination"]
        if destination in ("0.0.0.0/0", "::/0", "") or route["protocol"] == paths.ROUTE_PROTOCOL:
            continue
        if route["device"] in OUR_LINKS or _is_host_gateway(inventory, route):
            continue
        taken = ipaddress.ip_network(destination, strict=False)
        for key, network in networks.items():
            wanted = ipaddress.ip_network(str(network))
            if taken.version == wanted.version and taken.overlaps(wanted):
                found.append(
                    f"networking.{key} {wanted} overlaps its route to {taken} over {route['device']}; choose another"
                )
    return found


def _is_host_gateway(inventory: Inventory, route: Mapping[str, Any]) -> bool:
    """Say whether this is flannel's host-gw route to another node's pods."""
    gateways = {str(host.internal_address) for host in inventory.nodes}
    return route.get("via") in gateways


def _version(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("-", maxsplit=1)[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
