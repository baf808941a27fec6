"""What a node needs of its kernel: modules, sysctls and, without a default route, a route to the Services.

Only what this machine can give is asked for: a sysctl that is read-only here belongs to a host above us.
"""

import ipaddress
from typing import Any, Dict, List, Mapping, Optional

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import File, KernelModule, Resource, Route, Sysctl
from freehold_agent.contract.unit_file import service
from freehold_agent.facts import KUBELET_SYSCTLS, LIMITS, MODULES

ROUTES_UNIT = "freehold-routes"
IP = "/sbin/ip"


def machine_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return modules before the sysctls that exist only with them, and the drop-ins for the next boot."""
    modules = [name for name in MODULES if _state(facts, name) in ("loaded", "loadable")]
    sysctls = _sysctls(document, facts)
    resources: List[Resource] = [
        File(paths.MODULES_DROPIN, ("".join(name + "\n" for name in modules)).encode()),
        File(paths.SYSCTL_DROPIN, "".join(f"{name} = {value}\n" for name, value in sysctls.items()).encode()),
    ]
    resources += [KernelModule(name) for name in modules]
    return resources + [Sysctl(name, value) for name, value in sysctls.items()]


def service_routes(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return a route per service CIDR where no default route exists.

    kube-proxy rewrites a packet to a Service after the kernel has found a route for it; without any, on an
    air-gapped network, the node itself cannot reach a ClusterIP.
    """
    routes: List[Resource] = []
    for cidr in document.network.service_cidrs:
        six = ":" in cidr
        if facts.get("default_route_v6" if six else "default_route", True):
            continue
        source = next((address for address in document.addresses if (":" in address) == six), None)
        interface = interface_of(source, facts) if source else None
        if interface is not None:
            routes.append(Route(cidr, interface["name"], source=source))
    return routes


def boot_routes(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return the unit that brings the routes back at boot, when no agent has looked yet; nothing without routes."""
    routes = [route for route in service_routes(document, facts) if isinstance(route, Route)]
    if not routes:
        return []
    commands = [
        f"{IP} route replace {route.destination} dev {route.device} proto {paths.ROUTE_PROTOCOL} src {route.source}"
        for route in routes
    ]
    return service(
        ROUTES_UNIT,
        description="Routes to the Services' network (freehold)",
        command=[IP],
        inputs=[],
        slice_name=paths.NODE_SLICE,
        unit={"After": "network.target", "Before": "kubelet.service"},
        # An interface that is not up yet is tried again.
        service={"Type": "oneshot", "RemainAfterExit": "yes", "ExecStart": commands, "Restart": "on-failure"},
    )


def interface_of(address: Optional[str], facts: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """Return the interface fact that holds an address, None when the machine has no such address."""
    if address is None:
        return None
    wanted = ipaddress.ip_address(address)
    for interface in facts.get("interfaces", ()):
        for text in interface["addresses"]:
            if ipaddress.ip_interface(text).ip == wanted:
                found: Mapping[str, Any] = interface
                return found
    return None


def _sysctls(document: JoinDocument, facts: Mapping[str, Any]) -> Dict[str, str]:
    sysctls = {"net.ipv4.ip_forward": "1"}
    if any(":" in cidr for cidr in document.network.pod_cidrs):
        sysctls["net.ipv6.conf.all.forwarding"] = "1"
    if _state(facts, "br_netfilter") != "absent":
        # A Service whose endpoint sits on the same bridge is answered past the node's rules otherwise.
        sysctls["net.bridge.bridge-nf-call-iptables"] = "1"
        sysctls["net.bridge.bridge-nf-call-ip6tables"] = "1"
    writable = facts.get("sysctls_writable", ())
    sysctls.update({name: value for name, value in KUBELET_SYSCTLS.items() if name in writable})
    present = facts.get("limits", {})
    # Never lowered; and what we raised stays wanted at the next look.
    limits = {name: max(least, present.get(name, 0)) for name, least in LIMITS.items() if name in writable}
    sysctls.update({name: str(value) for name, value in limits.items()})
    return sysctls


def _state(facts: Mapping[str, Any], module: str) -> str:
    state: str = facts.get("modules", {}).get(module, "absent")
    return state
