"""Routes to pods on a control plane that is no node: each node's pod CIDR leads through that node.

The API server speaks to pods itself (webhooks, aggregated APIs, `kubectl proxy`), and no pod network reaches a
machine without a kubelet. Pure: Nodes and the machine's addresses in, routes out. Runs beside the controller on
every such machine, leader or not (docs/adr/0017).
"""

import ipaddress
import json
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from freehold_agent.contract.paths import ROUTE_PROTOCOL
from freehold_agent.contract.resources import Attributes, Change, Route, key_of, split_key


class Reach(NamedTuple):
    """What can be reached, and what cannot."""

    routes: Tuple[Route, ...]
    problems: Tuple[str, ...]
    """One sentence for each node without a route."""


def wanted_routes(
    nodes: Iterable[Mapping[str, Any]], links: Mapping[str, str], pod_cidrs: Sequence[str]
) -> Reach:
    """Return a route for each pod CIDR of each Node.

    `links` maps this machine's own addresses (`10.0.0.2/24`) to devices, `pod_cidrs` are the cluster's. What a Node
    says is believed only as far as it concerns its own pods: its CIDR must lie in the cluster's, its address in a
    network of this machine.
    """
    own = [(ipaddress.ip_interface(address), device) for address, device in links.items()]
    cluster = [ipaddress.ip_network(cidr) for cidr in pod_cidrs]
    routes: Dict[str, Route] = {}
    problems: List[str] = []
    for node in sorted(nodes, key=lambda node: str(node["metadata"]["name"])):
        name = str(node["metadata"]["name"])
        for text in (node.get("spec") or {}).get("podCIDRs") or ():
            try:
                cidr = ipaddress.ip_network(text)
                addresses = [
                    ipaddress.ip_address(entry["address"])
                    for entry in (node.get("status") or {}).get("addresses") or ()
                    if entry.get("type") == "InternalIP"
                ]
            except ValueError as error:
                problems.append("{}: {}".format(name, error))
                continue
            address = next((found for found in addresses if found.version == cidr.version), None)
            if address is None:
                continue  # its kubelet has not reported yet
            if not any(cidr.version == net.version and cidr.subnet_of(net) for net in cluster):  # type: ignore[arg-type]
                problems.append("{}: {} is no part of the pods' network".format(name, cidr))
            elif any(address == mine.ip for mine, _ in own) or text in routes:
                problems.append("{}: {} at {} is taken".format(name, cidr, address))
            else:
                near = [(mine, device) for mine, device in own if address in mine.network]
                if near:
                    device = max(near, key=lambda found: found[0].network.prefixlen)[1]
                    routes[text] = Route(text, device, via=str(address))
                else:
                    problems.append(
                        "{}: {} is in no network of this machine, so its pods cannot be reached from here".format(
                            name, address
                        )
                    )
    return Reach(tuple(routes.values()), tuple(problems))


def links_of(text: str) -> Dict[str, str]:
    """Return address -> device from the output of `ip -json address`; without loopback and link-local addresses."""
    return {
        "{}/{}".format(entry["local"], entry["prefixlen"]): str(link["ifname"])
        for link in json.loads(text or "[]")
        if "ifname" in link and "LOOPBACK" not in link.get("flags", ())
        for entry in link.get("addr_info", ())
        if "local" in entry and entry.get("scope") != "link"
    }


def present_routes(text: str, pod_cidrs: Sequence[str]) -> Dict[str, Attributes]:
    """Return key -> attributes of our routes to pods, from `ip -json route show proto 70` of one family."""
    cluster = [ipaddress.ip_network(cidr) for cidr in pod_cidrs]
    found: Dict[str, Attributes] = {}
    for entry in json.loads(text or "[]"):
        if entry.get("dst", "default") == "default":
            continue
        destination = ipaddress.ip_network(entry["dst"], strict=False)
        if any(
            destination.version == net.version and destination.subnet_of(net)  # type: ignore[arg-type]
            for net in cluster
        ):
            route = Route(str(destination), entry.get("dev", ""), entry.get("prefsrc"), entry.get("gateway"))
            found[key_of(route)] = route.wanted
    return found


def commands(changes: Iterable[Change], routes: Iterable[Route]) -> Dict[int, List[str]]:
    """Return the lines of `ip -batch` by family (4 or 6). A route of somebody else is not overwritten."""
    wanted = {key_of(route): route for route in routes}
    lines: Dict[int, List[str]] = {}
    for change in changes:
        destination = split_key(change.key)[1]
        family = 6 if ":" in destination else 4
        if change.action == "delete":
            line = "route del {} proto {}".format(destination, ROUTE_PROTOCOL)
        else:
            route = wanted[change.key]
            verb = "add" if change.action == "create" else "replace"
            line = "route {} {} via {} dev {} proto {}".format(
                verb, destination, route.via, route.device, ROUTE_PROTOCOL
            )
        lines.setdefault(family, []).append(line)
    return lines
