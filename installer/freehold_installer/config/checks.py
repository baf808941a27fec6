"""What must hold between the parts of an inventory that are each right by themselves. Pure, but for
`manifests`, which must be files.

Each check yields findings: the path of the key to blame and what is wrong with it.
"""

from collections.abc import Collection, Iterator
from pathlib import Path as FilePath

from freehold_installer.config import addresses
from freehold_installer.config.cluster import Networking
from freehold_installer.config.model import InventoryFile, resolve
from freehold_installer.config.problems import Path

Finding = tuple[Path, str]

MAX_PREFIX_DIFFERENCE = 16
"""The controller manager refuses a nodeCIDRMaskSize that is further from the pod network's length."""
CROWDED = 0.8


def findings(inventory: InventoryFile, path: FilePath, releases: Collection[str] | None) -> Iterator[Finding]:
    """Yield everything that is wrong."""
    yield from _roles(inventory)
    yield from _names(inventory)
    yield from _machine_addresses(inventory)
    yield from _networks(inventory)
    yield from _node_room(inventory)
    yield from _advertise_address(inventory)
    yield from _elections(inventory)
    yield from _release(inventory, releases)
    yield from _pod_network(inventory)
    yield from _cluster_dns(inventory)
    yield from _volume_classes(inventory)
    yield from _manifests(inventory, path)


def warnings(inventory: InventoryFile) -> Iterator[str]:
    """Yield what works today and may not tomorrow, as sentences."""
    networking = inventory.config.networking
    count, room = _node_count(inventory), networking.max_nodes
    if CROWDED * room <= count <= room:
        yield (
            f"{count} of {room} possible nodes are used: networking.podCIDR {networking.pod_cidr} with "
            f"nodeCIDRMaskSize {networking.node_cidr_mask_size} cannot be widened later"
        )
    per_node = 2 ** (addresses.bits(networking.pod_cidr) - networking.node_cidr_mask_size) - 3
    pods = inventory.config.private_nodes.kubelet.config.get("maxPods", 110)
    if isinstance(pods, int) and not isinstance(pods, bool) and pods > per_node:
        yield (
            f"a node's /{networking.node_cidr_mask_size} has addresses for {per_node} pods, but its kubelet "
            f"takes {pods}: set privateNodes.kubelet.config.maxPods or a smaller nodeCIDRMaskSize"
        )


def internal_address(inventory: InventoryFile, name: str) -> str | None:
    """Return the address by which machines know host `name`; None when it cannot be told."""
    host = inventory.hosts[name]
    if host.internal_address is not None:
        return host.internal_address
    return (
        host.address
        if addresses.is_address(host.address) and not addresses.is_loopback(host.address)
        else None
    )


def _node_count(inventory: InventoryFile) -> int:
    joined = inventory.config.control_plane.standalone.join_node.enabled
    return sum("worker" in host.roles or joined for host in inventory.hosts.values())


def _roles(inventory: InventoryFile) -> Iterator[Finding]:
    if not any("control-plane" in host.roles for host in inventory.hosts.values()):
        yield ("hosts",), "no host has the role control-plane"
    for name, host in inventory.hosts.items():
        if len(set(host.roles)) != len(host.roles):
            yield ("hosts", name, "roles"), "a role is given twice"
        if {"control-plane", "worker"} <= set(host.roles):
            said = "a control plane is a node already (standalone.joinNode); write roles: [control-plane]"
            yield ("hosts", name, "roles"), said
    yield from _without_a_node(inventory)


def _without_a_node(inventory: InventoryFile) -> Iterator[Finding]:
    """Yield what asks something of a Node that will not exist."""
    join_node = inventory.config.control_plane.standalone.join_node
    if join_node.enabled:
        return
    said = "the control plane has no Node, because standalone.joinNode.enabled is false"
    for key, value in (("labels", join_node.labels), ("taints", join_node.taints)):
        if value:
            yield ("config", "controlPlane", "standalone", "joinNode", key), said
        for name, host in inventory.hosts.items():
            if "control-plane" in host.roles and getattr(host, key):
                yield ("hosts", name, key), said


def _names(inventory: InventoryFile) -> Iterator[Finding]:
    for name in inventory.hosts:
        if name == "localhost" or addresses.is_address(name):
            yield ("hosts", name), "expected a name that tells machines apart, not localhost or an address"


def _machine_addresses(inventory: InventoryFile) -> Iterator[Finding]:
    reached: dict[tuple[str, int], str] = {}
    internal: dict[str, str] = {}
    for name, host in inventory.hosts.items():
        port = host.ssh.port or inventory.ssh.port or 22
        other = reached.setdefault((host.address.lower(), port), name)
        if other != name:
            yield ("hosts", name, "address"), f"{host.address} port {port} is already the host {other}"
        address = internal_address(inventory, name)
        if address is None:
            said = (
                f"{host.address} is not an address other machines can use: give the host an internalAddress"
            )
            yield ("hosts", name, "address"), said
            continue
        key = ("hosts", name, "internalAddress" if host.internal_address else "address")
        if ":" in address and host.internal_address is None:
            yield key, "not yet: IPv6 comes with dual stack; give the host an IPv4 internalAddress"
            continue
        if addresses.is_loopback(address):
            yield key, f"{address} never leaves the machine; other machines need one of its own addresses"
        other = internal.setdefault(address, name)
        if other != name and key[2] == "internalAddress":
            yield key, f"{address} is already the host {other}"
        for label, cidr in _cluster_networks(inventory.config.networking):
            if addresses.contains(cidr, address):
                yield key, f"{address} lies inside {label} {cidr}; machines need addresses of their own"


def _cluster_networks(networking: Networking) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("networking.podCIDR", networking.pod_cidr), ("networking.serviceCIDR", networking.service_cidr)


def _service_key(networking: Networking) -> Path:
    if networking.services.cidr is not None and networking.service_cidr_key is None:
        return ("config", "networking", "services", "cidr")
    return ("config", "networking", "serviceCIDR")


def _networks(inventory: InventoryFile) -> Iterator[Finding]:
    networking = inventory.config.networking
    service_key = _service_key(networking)
    if networking.service_cidr_key and networking.services.cidr not in (None, networking.service_cidr_key):
        said = f"{networking.services.cidr} contradicts networking.serviceCIDR {networking.service_cidr_key}"
        yield ("config", "networking", "services", "cidr"), said
    if addresses.overlap(networking.pod_cidr, networking.service_cidr):
        said = f"{networking.pod_cidr} overlaps the Services' {networking.service_cidr}"
        yield ("config", "networking", "podCIDR"), said
    if not 12 <= addresses.prefix_length(networking.service_cidr) <= 28:
        said = f"{networking.service_cidr}: a length from /12 to /28 is expected"
        yield service_key, f"{said} (the tenth address is for DNS)"
    for (_, cidr), key in zip(
        _cluster_networks(networking), (("config", "networking", "podCIDR"), service_key), strict=True
    ):
        for forbidden, why in (
            ("127.0.0.0/8", "loopback"),
            ("169.254.0.0/16", "link-local"),
            ("224.0.0.0/3", "multicast"),
        ):
            if addresses.overlap(cidr, forbidden):
                yield key, f"{cidr} overlaps {forbidden} ({why})"


def _node_room(inventory: InventoryFile) -> Iterator[Finding]:
    networking = inventory.config.networking
    key: Path = ("config", "networking", "nodeCIDRMaskSize")
    length, mask = addresses.prefix_length(networking.pod_cidr), networking.node_cidr_mask_size
    if mask < length:
        yield key, f"{mask} is more than the whole of networking.podCIDR {networking.pod_cidr}"
    elif mask - length > MAX_PREFIX_DIFFERENCE:
        yield (
            key,
            f"{mask} is too small a part of {networking.pod_cidr}: at most {length + MAX_PREFIX_DIFFERENCE}",
        )
    elif mask > addresses.bits(networking.pod_cidr) - 3:
        yield key, f"a /{mask} has no room for pods"
    elif _node_count(inventory) > networking.max_nodes:
        said = f"{networking.pod_cidr} in parts of /{mask} has room for {networking.max_nodes} nodes"
        yield key, f"{said}, the inventory has {_node_count(inventory)}: widen networking.podCIDR"


def _advertise_address(inventory: InventoryFile) -> Iterator[Finding]:
    address = inventory.config.control_plane.standalone.advertise_address
    if address is None:
        return
    key: Path = ("config", "controlPlane", "standalone", "advertiseAddress")
    if addresses.is_loopback(address):
        yield key, f"{address} never leaves the machine"
    if ":" in address:
        yield key, "not yet: IPv6 comes with dual stack"
    for label, cidr in _cluster_networks(inventory.config.networking):
        if addresses.contains(cidr, address):
            yield key, f"{address} lies inside {label} {cidr}"
    for name, host in inventory.hosts.items():
        if "control-plane" not in host.roles and internal_address(inventory, name) == address:
            yield key, f"{address} is the worker {name}"


def _elections(inventory: InventoryFile) -> Iterator[Finding]:
    lease, renew, retry = inventory.config.control_plane.stateful_set.high_availability.timings
    key: Path = ("config", "controlPlane", "statefulSet", "highAvailability")
    if not lease > renew:
        yield (*key, "leaseDuration"), f"{lease} s must be more than renewDeadline ({renew} s)"
    if not renew > 1.2 * retry:
        yield (*key, "renewDeadline"), f"{renew} s must be more than 1.2 times retryPeriod ({retry} s)"
    replicas = inventory.config.control_plane.stateful_set.high_availability.replicas
    count = sum("control-plane" in host.roles for host in inventory.hosts.values())
    if replicas is not None and count and replicas != count:
        yield (*key, "replicas"), f"{replicas} replicas, but {count} hosts with the role control-plane"


def _release(inventory: InventoryFile, releases: Collection[str] | None) -> Iterator[Finding]:
    version = inventory.config.control_plane.distro.k8s.version
    if releases is not None and version not in releases:
        known = ", ".join(sorted(releases)) or "none"
        said = f"no release lock for Kubernetes {version}; there is one for: {known}"
        yield ("config", "controlPlane", "distro", "k8s", "version"), said


def _pod_network(inventory: InventoryFile) -> Iterator[Finding]:
    flannel = inventory.config.deploy.cni.flannel
    if not flannel.enabled and "backend" in flannel.model_fields_set:
        yield ("config", "deploy", "cni", "flannel", "backend"), "flannel is not enabled"


def _cluster_dns(inventory: InventoryFile) -> Iterator[Finding]:
    coredns = inventory.config.control_plane.coredns
    if coredns.embedded and coredns.deployment.model_fields_set:
        yield (
            ("config", "controlPlane", "coredns", "deployment"),
            "coredns.embedded is true, so there are no pods",
        )


def _volume_classes(inventory: InventoryFile) -> Iterator[Finding]:
    classes = inventory.config.deploy.local_path_provisioner.all_classes()
    key: Path = ("config", "deploy", "localPathProvisioner", "classes")
    defaults = [name for name, found in classes.items() if found.default]
    for name in defaults[1:]:
        yield (*key, name, "default"), f"{defaults[0]} is the default class already"
    for name, found in classes.items():
        for other in classes.values():
            if found.path.startswith(other.path + "/"):
                yield (*key, name, "path"), f"{found.path} lies in {other.path}, which holds volumes itself"
                break


def _manifests(inventory: InventoryFile, path: FilePath) -> Iterator[Finding]:
    for index, text in enumerate(inventory.manifests):
        target = resolve(text, path)
        if "://" in text:
            yield (
                ("manifests", index),
                "a file is expected, not an address: nothing is fetched while applying",
            )
        elif not target.is_file():
            yield ("manifests", index), f"{target} is not a file"
