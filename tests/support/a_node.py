"""A node as tests need it: a join document and the facts of several kinds of machines."""

import copy
import dataclasses
from typing import Any

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.join_document import JoinDocument, Network

PROGRAMS = (
    "bin/containerd",
    "bin/containerd-shim-runc-v2",
    "bin/ctr",
    "bin/flanneld",
    "bin/freehold-agent.pyz",
    "bin/kube-proxy",
    "bin/kubelet",
    "bin/runc",
    "cni/bridge",
    "cni/host-local",
    "cni/loopback",
    "cni/portmap",
    "images/metrics-server.tar",
    "images/pause.tar",
)
PAUSE = "registry.freehold.invalid/pause:1"


def a_manifest() -> Manifest:
    """Return a small bundle of node programs; digests are made up."""
    entries = tuple(
        ArtifactEntry(
            name,
            f"{number:064x}",
            1000 + number,
            ("node",),
            image=PAUSE if name == "images/pause.tar" else "",
        )
        for number, name in enumerate(PROGRAMS, start=1)
    )
    return Manifest("1.37.2", "amd64", entries, build="b" * 64)


def a_document(**changes: Any) -> JoinDocument:
    """Return the document of worker `w1` at 10.73.0.12, with fields replaced."""
    network = Network(
        pod_cidrs=("10.244.0.0/16",),
        service_cidrs=("10.96.0.0/12",),
        node_pod_cidrs=("10.244.1.0/24",),
        dns_addresses=("10.96.0.10",),
        domain="cluster.local",
    )
    document = JoinDocument(
        cluster="lab",
        node="w1",
        node_uid="6d7c2a52-0d2f-4d5e-9a0c-0e4f6f0f7a11",
        addresses=("10.73.0.12",),
        endpoints=("https://10.73.0.11:6443",),
        artifact_endpoints=("https://10.73.0.11:6445",),
        join_endpoints=("https://10.73.0.11:6444",),
        ca_pem="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        network=network,
        manifest=a_manifest(),
    )
    return dataclasses.replace(document, **changes)


def a_network(**changes: Any) -> Network:
    """Return the network of `a_document` with fields replaced."""
    return dataclasses.replace(a_document().network, **changes)


UBUNTU: dict[str, Any] = {
    "python_executable": "/usr/bin/python3",
    "kernel": "6.8.0-45-generic",
    "architecture": "amd64",
    "cgroup_version": 2,
    "cap_sys_resource": True,
    "nofile": 524288,
    "swap": False,
    "conntrack_writable": True,
    "sysctls_writable": ["kernel.panic", "kernel.panic_on_oops", "vm.overcommit_memory"],
    "modules": {"br_netfilter": "loadable", "overlay": "loaded", "nf_conntrack": "builtin"},
    "default_route": True,
    "default_route_v6": False,
    "interfaces": [
        {"name": "lo", "mtu": 65536, "addresses": ["127.0.0.1/8", "::1/128"]},
        {"name": "ens3", "mtu": 1500, "addresses": ["10.73.0.12/24", "fd00:73::12/64"]},
    ],
    "tools": {"nft": "1.0.9", "iptables": "1.8.10"},
    "disk": {"/var/lib/kubelet": {"free": 80 << 30, "total": 100 << 30}},
    "memory": 8 << 30,
    "cpus": 4,
    "resolv_conf": "/run/systemd/resolve/resolv.conf",
    "selinux": "disabled",
    "release": "",
}
"""A VM with cgroup v2 and systemd-resolved."""


def ubuntu(**changes: Any) -> dict[str, Any]:
    """Return the facts of such a VM with some replaced."""
    return {**copy.deepcopy(UBUNTU), **changes}


def lab(**changes: Any) -> dict[str, Any]:
    """Return the facts of a machine of the lab: cgroup v1, no default route, nothing of the host writable."""
    return ubuntu(
        kernel="6.18.44",
        cgroup_version=1,
        cap_sys_resource=False,
        nofile=20000,
        conntrack_writable=False,
        sysctls_writable=[],
        modules={"br_netfilter": "builtin", "overlay": "loaded", "nf_conntrack": "loaded"},
        default_route=False,
        interfaces=[{"name": "eth0", "mtu": 1500, "addresses": ["10.73.0.12/24"]}],
        tools={"nft": "1.0.6", "iptables": "1.8.9"},
        resolv_conf="/etc/resolv.conf",
        **changes,
    )
