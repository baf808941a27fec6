"""Can this machine do what the inventory asks of it? Every problem of every machine at once, before any change.

Pure: facts and inventory in, sentences out. What holds for any machine stands in the agent's `contract.fitness`.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from freehold_agent.contract import firewall, fitness, selinux
from freehold_agent.contract.ports import Port, control_plane_ports, node_ports
from freehold_installer.config import Host, Inventory

MEMORY = {True: 1536 << 20, False: fitness.NODE_MEMORY}
"""Bytes a control plane and a worker cannot do without."""
DISK = {True: 3 << 30, False: fitness.NODE_DISK}
"""Bytes free under /opt and /var/lib for a control plane and a worker before a first installation."""


def problems(inventory: Inventory, host: Host, facts: Mapping[str, Any], *, installed: bool) -> list[str]:
    """Return what keeps this machine from being what the inventory says; empty when nothing does.

    `installed`: freehold has a record on the machine, so its own ports and files are no obstacle.
    """
    is_node, control = inventory.is_node(host), host.is_control_plane
    found = [
        *fitness.system(facts, node=is_node),
        *(fitness.selinux(facts) if is_node else ()),
        *fitness.tools(facts, node=is_node),
        *fitness.strangers(facts),
    ]
    found += _addresses(inventory, host, facts)
    if not is_node:
        found += _pods_out_of_reach(inventory, facts)
    if not installed:
        found += fitness.linked(facts, control)
        ports = _ports(inventory, host)
        found += fitness.ports_in_use(facts, ports)
        pods = [str(inventory.config.networking.pod_cidr)] if is_node else []
        found += firewall.problems(facts, host.internal_address, ports, pods)
        found += fitness.room(facts, MEMORY[control], DISK[control])
    networking = inventory.config.networking
    networks = [("networking.serviceCIDR", str(networking.service_cidr))]
    # On a node whose pod network is the operator's, routes to pods are that one's.
    if not installed or inventory.config.deploy.cni.flannel.enabled:
        networks.insert(0, ("networking.podCIDR", str(networking.pod_cidr)))
    mask = networking.node_cidr_mask_size
    found += fitness.overlaps(
        facts,
        networks,
        lambda route: (
            _is_host_gateway(inventory, route)
            # Nodes that joined without SSH are in no inventory.
            or (installed and fitness.is_host_gateway(route, str(networking.pod_cidr), mask))
        ),
    )
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
    if selinux.labelled(facts):
        found.append(f"SELinux is {facts['selinux']}: programs are labelled, containers run confined")
    elif facts.get("selinux") == "permissive":
        found.append(
            "SELinux is permissive and its policy knows no containers: dnf install container-selinux"
        )
    if facts.get("firewalld"):
        found.append("firewalld runs: pods and Services are let through by its rules, not by freehold")
    local = [server for server in facts.get("nameservers", ()) if _is_local(server)]
    if local and len(local) == len(facts["nameservers"]):
        found.append(
            f"its resolver {', '.join(local)} answers only the machine itself: pods with dnsPolicy Default "
            "resolve nothing"
        )
    return found


def _pods_out_of_reach(inventory: Inventory, facts: Mapping[str, Any]) -> list[str]:
    """Return the nodes that a control plane that is no node has no network with (docs/adr/0017)."""
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


def _is_local(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _ports(inventory: Inventory, host: Host) -> list[Port]:
    """Return the ports that the programs of this machine will listen on."""
    config = inventory.config
    found: list[Port] = []
    if host.is_control_plane:
        dns = config.control_plane.coredns
        found += control_plane_ports(dns.enabled and dns.embedded)
    if inventory.is_node(host):
        flannel = config.deploy.cni.flannel
        vxlan = flannel.enabled and flannel.backend == "vxlan"
        found += node_ports(config.deploy.kube_proxy.enabled, vxlan)
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


def _is_host_gateway(inventory: Inventory, route: Mapping[str, Any]) -> bool:
    """Say whether this is flannel's host-gw route to another node's pods."""
    gateways = {str(host.internal_address) for host in inventory.nodes}
    return route.get("via") in gateways
