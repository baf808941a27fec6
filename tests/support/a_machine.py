"""What freehold makes on a machine of each role, from the code itself: for documentation and its tests."""

import dataclasses

from tests.support.a_control_plane import WITHOUT_NODE
from tests.support.a_node import a_document, lab, ubuntu
from tests.support.repository import CHECKOUT

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import Resource
from freehold_agent.desired import desired_node
from freehold_agent.facts import KUBELET_SYSCTLS, LIMITS
from freehold_installer.bundle.lock import load as load_lock
from freehold_installer.config import load, loads
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.desired.control_plane_context import ControlPlaneContext

RELEASE = "1.37.2"
ZIPAPPS = {"bin/freehold-agent.pyz": ("node",), "bin/freehold-services.pyz": ("control-plane",)}


def the_manifest() -> Manifest:
    """Return the names and roles of everything that a built release sends to machines; digests are made up."""
    lock = load_lock(RELEASE)
    roles = {
        name: output.roles
        for component in lock.components.values()
        for name, output in component.outputs.items()
    }
    roles |= {f"images/{name}.tar": image.roles for name, image in lock.images.items()}
    sent = {name: who for name, who in {**roles, **ZIPAPPS}.items() if {"control-plane", "node"} & set(who)}
    entries = tuple(
        ArtifactEntry(name, f"{number:064x}", 1000, tuple(who))
        for number, (name, who) in enumerate(sorted(sent.items()), start=1)
    )
    return Manifest(RELEASE, "amd64", entries, build="b" * 64)


def a_node_of_each_kind() -> list[Resource]:
    """Return everything that any node may hold: with and without a default route, with proxy and registry."""
    registries = {"registry.example.org": {"endpoints": ["https://mirror.example.org"], "caPem": "PEM"}}
    document = dataclasses.replace(a_document(), manifest=the_manifest(), registries=registries)
    writable = [*KUBELET_SYSCTLS, *LIMITS]
    modules = dict.fromkeys(("br_netfilter", "overlay", "nf_conntrack"), "loadable")
    proxy = {"http": "http://proxy.example.org:3128"}
    machines = [ubuntu(sysctls_writable=writable, limits={}, modules=modules, proxy=proxy), lab()]
    return [resource for facts in machines for resource in desired_node(document, facts)]


def a_control_plane() -> list[Resource]:
    """Return everything that any control plane may hold: one of the lab's inventory, and one that is no node."""
    found = []
    for inventory in (load(CHECKOUT / "inventories" / "lab.yaml"), loads(WITHOUT_NODE)):
        (host,) = inventory.control_planes
        context = ControlPlaneContext(inventory, host, the_manifest(), lab(nameservers=[]))
        found += control_plane_resources(context)
    return found
