"""A control-plane machine for tests: an inventory, facts, a manifest and pretended keys; nothing real."""

from __future__ import annotations

import hashlib
from typing import Any

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import key_of
from freehold_installer.config import Inventory, loads
from freehold_installer.desired.control_plane_context import ControlPlaneContext

INVENTORY = """
name: test
hosts: {cp1: {address: 10.73.0.11, roles: [control-plane]}}
"""
WITHOUT_NODE = """
name: test
hosts:
  cp1: {address: 10.73.0.11, roles: [control-plane]}
  w1: {address: 10.73.0.12, roles: [worker]}
config: {controlPlane: {standalone: {joinNode: {enabled: false}}}}
"""
PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    "freehold-services.pyz",
)
PAIRS = (
    "apiserver",
    "apiserver-kubelet-client",
    "apiserver-etcd-client",
    "front-proxy-client",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
    "coredns",
    "freehold-join",
    "freehold-join-client",
    "freehold-artifacts",
    "freehold-controller",
    "freehold-pod-routes",
)
FACTS: dict[str, Any] = {
    "nameservers": ["10.73.0.1"],
    "resolv_conf": "/etc/resolv.conf",
    "interfaces": [
        {"name": "lo", "mtu": 65536, "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "mtu": 1500, "addresses": ["10.73.0.11/24"]},
    ],
}


def a_manifest() -> Manifest:
    """Return a manifest whose digests are those of the programs' names."""
    entries = tuple(
        ArtifactEntry("bin/" + name, hashlib.sha256(name.encode()).hexdigest(), 1000, ("control-plane",))
        for name in PROGRAMS
    )
    return Manifest("1.37.2", "amd64", entries, build="0123456789abcdef")


def some_keys() -> dict[str, bytes]:
    """Return what a PKI directory would have issued: distinct, and private keys look like such."""
    issued = {
        f"{name}.crt": f"certificate {name}\n".encode()
        for name in ("ca", "front-proxy-ca", "etcd/ca", *PAIRS)
    }
    for name in ("ca", "sa", *PAIRS):
        issued[f"{name}.key"] = f"-----BEGIN PRIVATE KEY-----\n{name}\n".encode()
    issued["sa.pub"] = b"public\n"
    for name in ("controller-manager.conf", "scheduler.conf", "encryption.yaml"):
        issued[name] = f"-----BEGIN PRIVATE KEY-----\n{name}\n".encode()
    return issued


def a_context(inventory: Inventory | None = None, **facts: Any) -> ControlPlaneContext:
    """Return what cp1's desired state is derived from."""
    inventory = inventory or loads(INVENTORY)
    return ControlPlaneContext(
        inventory, inventory.control_planes[0], a_manifest(), {**FACTS, **facts}, some_keys()
    )


def observed_as_wanted(resources: Any) -> dict[str, Any]:
    """Return the observation of a machine that is exactly as these resources ask."""
    return {key_of(resource): resource.wanted for resource in resources}
