"""Links, packet filter tables and routes that flannel, kube-proxy and the CNI plugins make: a fixed list."""

import ipaddress
import json
from typing import Any, Callable, Collection, Dict, List, Sequence, Tuple

from freehold_agent.contract.paths import ROUTE_PROTOCOL
from freehold_agent.errors import StepFailed
from freehold_agent.machine.programs import ProgramFailed, run

Runner = Callable[..., str]

BRIDGE = "cni0"
LINKS = (BRIDGE, "flannel.1", "flannel-v6.1")
OWN_TABLE = "freehold"
TABLES = frozenset(
    ("kube-proxy", "flannel-ipv4", "flannel-ipv6", "cni_hostport", "cni_plugins_masquerade", OWN_TABLE)
)


def remove_links(runner: Runner = run) -> List[str]:
    """Remove the pods' ends of their cables, the bridge and the tunnels; return their names. Raises StepFailed."""
    present = [link for link in _json(["ip", "-j", "link", "show"], runner) if "ifname" in link]
    veths = [
        link["ifname"]
        for link in present
        if link.get("master") == BRIDGE and link.get("link_type") == "ether"
    ]
    ours = [name for name in LINKS if any(link["ifname"] == name for link in present)]
    for name in veths:
        # Its other end may take it along at any moment, when the pod's namespace goes.
        if name.startswith("veth"):
            runner(["ip", "link", "del", "dev", name], timeout=15, check=False)
    for name in ours:
        _do(["ip", "link", "del", "dev", name], "interface:" + name, runner)
    return ours


def remove_tables(runner: Runner = run, names: Collection[str] = TABLES) -> List[str]:
    """Remove our own table and those of kube-proxy, flannel and the CNI plugins; return them. Raises StepFailed."""
    try:
        listing = runner(["nft", "list", "tables"], timeout=15)
    except ProgramFailed as error:
        if error.status is None:
            return []  # no nft on this machine, so no tables either
        raise StepFailed("table:", "cannot list packet filter tables: {}".format(error.output)) from error
    ours = [table for table in parse_tables(listing) if table[1] in names]
    if ours:
        program = "".join("delete table {} {}\n".format(*table) for table in ours)
        _do(["nft", "-f", "-"], "table:" + ours[0][1], runner, stdin=program.encode())
    return [" ".join(table) for table in ours]


def parse_tables(listing: str) -> List[Tuple[str, str]]:
    """Return (family, name) of each line `table FAMILY NAME`."""
    words = [line.split() for line in listing.splitlines()]
    return [(word[1], word[2]) for word in words if len(word) >= 3 and word[0] == "table"]


def remove_routes(pod_cidrs: Sequence[str], runner: Runner = run) -> List[str]:
    """Remove our routes (protocol 70) and flannel's to other nodes' pods; return their destinations."""
    removed = []
    networks = [ipaddress.ip_network(cidr) for cidr in pod_cidrs]
    for family in ("-4", "-6"):
        for route in _json(["ip", family, "-j", "route", "show"], runner):
            if is_ours(route, networks):
                command = ["ip", family, "route", "del", route["dst"]]
                command += ["via", route["gateway"]] if "gateway" in route else []
                command += ["dev", route["dev"]] if "dev" in route else []
                _do(command, "route:" + route["dst"], runner)
                removed.append(str(route["dst"]))
    return removed


def is_ours(route: Dict[str, Any], pod_networks: Sequence[Any]) -> bool:
    """Say whether a route (as `ip -j` prints it) is ours or leads to pods of other nodes."""
    if str(route.get("protocol")) == str(ROUTE_PROTOCOL):
        return True
    if "gateway" not in route or route.get("dst") == "default":
        return False
    destination = ipaddress.ip_network(route["dst"], strict=False)
    return any(
        destination.version == network.version and destination.subnet_of(network) for network in pod_networks
    )


def _json(command: Sequence[str], runner: Runner) -> List[Dict[str, Any]]:
    try:
        result: List[Dict[str, Any]] = json.loads(runner(command, timeout=15).strip() or "[]")
    except (ProgramFailed, ValueError) as error:
        raise StepFailed("network", "cannot read the network: {}".format(error)) from error
    return result


def _do(command: Sequence[str], key: str, runner: Runner, **options: Any) -> None:
    try:
        runner(command, timeout=15, **options)
    except ProgramFailed as error:
        raise StepFailed(key, "{}: {}".format(" ".join(command), error.output)) from error
