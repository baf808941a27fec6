"""What a machine must have to be part of a cluster: facts in, sentences out, the same for whoever asks.

The installer asks before an apply, a machine that joins by itself asks about itself. Pure; knows no inventory.
"""

import ipaddress
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, Tuple

from freehold_agent.contract import distribution, paths, ports

MINIMUM_PYTHON = (3, 9)
MINIMUM_NFT = (1, 0, 1)
MINIMUM_KERNEL = (5, 13)
"""kube-proxy's nftables mode; below either it would need iptables mode."""
NODE_MEMORY = 512 << 20
"""Bytes a worker cannot do without."""
NODE_DISK = 1536 << 20
"""Bytes free under /opt and /var/lib for a worker before a first installation."""
CONTROL_TOOLS = ("ip",)
"""What a control plane needs that is no node."""
OUR_LINKS = ("cni0", "flannel.1")


def system(facts: Mapping[str, Any], *, node: bool = True) -> List[str]:
    """Return what is wrong with Python, kernel, modules, systemd or architecture; less matters where no pods run."""
    found = []
    if version(facts["python"])[:2] < MINIMUM_PYTHON:
        found.append(
            "Python {} is too old, 3.9 is needed: install python3.9 or newer as python3".format(
                facts["python"]
            )
        )
    if not facts["tools"].get("systemctl"):
        found.append("it does not run systemd, which keeps every component of freehold")
    if node and version(facts["kernel"])[:2] < MINIMUM_KERNEL:
        found.append(
            "kernel {} is too old for kube-proxy's nftables mode, 5.13 is needed".format(facts["kernel"])
        )
    if facts["architecture"] not in ("amd64", "arm64"):
        found.append("architecture {} is not built; amd64 and arm64 are".format(facts["architecture"]))
    for module in ("br_netfilter", "overlay") if node else ():
        if facts["modules"].get(module) == "absent":
            found.append("its kernel has no {} (neither built in nor as a module)".format(module))
    return found


def selinux(facts: Mapping[str, Any]) -> List[str]:
    """Return whether SELinux would keep containers from starting: it is enforced by a policy that knows none."""
    if facts.get("selinux") != "enforcing" or facts.get("container_selinux"):
        return []
    return ["SELinux is enforcing and its policy knows no containers: dnf install container-selinux"]


def linked(facts: Mapping[str, Any], control_plane: bool = False) -> List[str]:
    """Return which directories of ours are symbolic links: mount points inside would have another name than ours."""
    return [
        "{0} is a symbolic link to {1}: mount it there instead (mount --bind {1} {0}, and the same in "
        "/etc/fstab)".format(path, target)
        for path, target in facts.get("linked", {}).items()
        if control_plane or path != paths.ETCD_STATE
    ]


def tools(facts: Mapping[str, Any], *, node: bool = True) -> List[str]:
    """Return which programs of the distribution are missing or too old."""
    needed = distribution.TOOLS if node else CONTROL_TOOLS
    missing = [name for name in needed if not facts["tools"].get(name)]
    found = []
    if missing:
        found.append(
            "{} missing: {}".format(", ".join(missing), distribution.install_command(facts, missing))
        )
    nft = facts["tools"].get("nft")
    if node and nft and version(nft) < MINIMUM_NFT:
        found.append("nft {} is too old for kube-proxy's nftables mode, 1.0.1 is needed".format(nft))
    return found


def strangers(facts: Mapping[str, Any]) -> List[str]:
    """Return what of another Kubernetes or container runtime is in the way."""
    if not facts["foreign"]:
        return []
    return [
        "there is a Kubernetes or container runtime that freehold did not make: "
        + ", ".join(facts["foreign"])
        + "; remove it first, two on one machine break each other"
    ]


def ports_in_use(facts: Mapping[str, Any], wanted: Iterable[ports.Port]) -> List[str]:
    """Return which of these ports somebody else listens on."""
    needed = ports.needed(wanted)
    found = []
    for socket in facts["listening"]:
        if _is_tunnel(socket):
            continue
        purpose = needed.pop((socket["protocol"], socket["port"]), None)
        if purpose:
            found.append(
                "{} port {}, which {} needs, is in use by {}".format(
                    socket["protocol"], socket["port"], purpose, socket["process"] or "another program"
                )
            )
    return found


def _is_tunnel(socket: Mapping[str, Any]) -> bool:
    """Say whether the kernel itself holds vxlan's port, so no process does: tunnels share it."""
    return (socket["protocol"], socket["port"], socket["process"]) == ("udp", ports.VXLAN, "")


def room(facts: Mapping[str, Any], memory: int, disk: int) -> List[str]:
    """Return what there is too little of; both in bytes, the disk under /opt and under /var/lib."""
    found = []
    if facts["memory"] < memory:
        found.append("{} MiB of memory; at least {} are needed".format(facts["memory"] >> 20, memory >> 20))
    for path in ("/opt", "/var/lib"):
        free = facts["disk"][path]["free"]
        if free < disk:
            found.append("{} MiB free under {}; at least {} are needed".format(free >> 20, path, disk >> 20))
    return found


def overlaps(
    facts: Mapping[str, Any],
    networks: Iterable[Tuple[str, str]],
    ours: Callable[[Mapping[str, Any]], bool] = lambda _route: False,
) -> List[str]:
    """Return where the machine's routes and the cluster's networks (title, CIDR) overlap.

    Our own routes and those of our programs are no obstacle; `ours` knows more of them.
    """
    found, named = [], list(networks)
    for route in facts["routes"]:
        destination = route["destination"]
        if destination in ("0.0.0.0/0", "::/0", "") or route["protocol"] == paths.ROUTE_PROTOCOL:
            continue
        if route["device"] in OUR_LINKS or ours(route):
            continue
        taken = ipaddress.ip_network(destination, strict=False)
        for title, network in named:
            wanted = ipaddress.ip_network(network)
            if taken.version == wanted.version and taken.overlaps(wanted):
                found.append(
                    "{} {} overlaps its route to {} over {}; choose another".format(
                        title, wanted, taken, route["device"]
                    )
                )
    return found


def is_host_gateway(route: Mapping[str, Any], pod_cidr: str, mask_size: int) -> bool:
    """Say whether this is flannel's host-gw route to the pods of a node, wherever that node came from."""
    taken = ipaddress.ip_network(route["destination"], strict=False)
    pods = ipaddress.ip_network(pod_cidr)
    inside = taken.version == pods.version and taken.network_address in pods
    return bool(route.get("via")) and inside and taken.prefixlen == mask_size


def addresses(facts: Mapping[str, Any]) -> Dict[str, str]:
    """Return the machine's addresses: address -> interface, loopback left out."""
    return {
        str(ipaddress.ip_interface(text).ip): interface["name"]
        for interface in facts["interfaces"]
        for text in interface["addresses"]
        if not ipaddress.ip_interface(text).ip.is_loopback
    }


def version(text: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version: `6.1.0-18-amd64` is (6, 1, 0), `1.0.6rc1` (1, 0, 6), nothing ()."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
