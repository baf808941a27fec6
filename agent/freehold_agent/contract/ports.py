"""Every port that a program of a freehold listens on: one table for preflight, the programs' settings and the docs.

NodePorts and the loopback port of its own choice on which containerd streams `exec` are in no table.
"""

from dataclasses import dataclass
from typing import Dict, Iterable, Mapping, Tuple

from freehold_agent.contract import paths

ETCD_CLIENT = 2379
ETCD_PEER = 2380
ETCD_METRICS = 2381
DNS_READY = 8181
KUBELET = 10250
KUBELET_HEALTH = 10248
KUBE_PROXY_METRICS = 10249
KUBE_PROXY_HEALTH = 10256
CONTROLLER_MANAGER = 10257
SCHEDULER = 10259
VXLAN = 8472

OWN, LOOPBACK, ALL = "own", "loopback", "all"
"""Listens on the machine's `internalAddress`, on its loopback, on every address."""

Ports = Mapping[Tuple[str, int], str]
"""(protocol, port) -> who needs it."""


@dataclass(frozen=True)
class Port:
    number: int
    program: str
    where: str
    protocol: str = "tcp"
    remote: bool = False
    """Other machines must reach it: open in a firewall."""


ETCD = (
    Port(ETCD_CLIENT, "etcd", OWN + ", " + LOOPBACK),
    Port(ETCD_PEER, "etcd", OWN),
    Port(ETCD_METRICS, "etcd", LOOPBACK),
)
DNS = (
    Port(paths.DNS_PORT, "coredns", OWN, remote=True),
    Port(paths.DNS_PORT, "coredns", OWN, "udp", remote=True),
    Port(DNS_READY, "coredns", OWN),
)
CONTROL_PLANE = (
    Port(paths.API_PORT, "kube-apiserver", ALL, remote=True),
    Port(paths.JOIN_PORT, "freehold-join", OWN, remote=True),
    Port(paths.ARTIFACT_PORT, "freehold-artifacts", OWN, remote=True),
    Port(CONTROLLER_MANAGER, "kube-controller-manager", LOOPBACK),
    Port(SCHEDULER, "kube-scheduler", LOOPBACK),
)
NODE = (Port(KUBELET, "kubelet", ALL, remote=True), Port(KUBELET_HEALTH, "kubelet", LOOPBACK))
PROXY = (
    Port(KUBE_PROXY_METRICS, "kube-proxy", LOOPBACK),
    Port(KUBE_PROXY_HEALTH, "kube-proxy", LOOPBACK),
)
FLANNEL_VXLAN = (Port(VXLAN, "the kernel, for flannel's vxlan", ALL, "udp", remote=True),)


def control_plane_ports(dns: bool = True) -> Tuple[Port, ...]:
    """Return what a control plane listens on; `dns`: CoreDNS is a unit on it."""
    return (*CONTROL_PLANE, *ETCD, *(DNS if dns else ()))


def node_ports(kube_proxy: bool = True, vxlan: bool = True) -> Tuple[Port, ...]:
    """Return what a node listens on; `vxlan`: flannel with that backend."""
    return (*NODE, *network_ports(kube_proxy, vxlan))


def network_ports(kube_proxy: bool, vxlan: bool) -> Tuple[Port, ...]:
    """Return the ports of a node that depend on the cluster's network."""
    return (*(PROXY if kube_proxy else ()), *(FLANNEL_VXLAN if vxlan else ()))


def needed(ports: Iterable[Port]) -> Dict[Tuple[str, int], str]:
    """Return who needs each port, by protocol and number."""
    return {(port.protocol, port.number): port.program for port in ports}
