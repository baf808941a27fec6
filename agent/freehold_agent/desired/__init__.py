"""What a node is made of: a pure function from its document and the machine's facts to resources, in order.

Order is speed and safety: small files first (one reload of systemd serves all units), then the programs
containerd needs, then the rest, the kubelet, and last what needs the kubelet's certificate.
"""

from typing import Any, List, Mapping, Set, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import (
    current_link,
    entry_resources,
    in_start_order,
    release_directories,
)
from freehold_agent.contract.resources import Directory, File, Resource, Unit, key_of
from freehold_agent.desired import (
    agent_unit,
    containerd,
    credential,
    kube_proxy,
    kubelet,
    machine,
    network,
    proxy,
)

ROLE = "node"
NEEDS_CREDENTIAL = tuple(unit + ".service" for unit in (network.UNIT, kube_proxy.UNIT, agent_unit.UNIT))
KUBELET_UNIT = kubelet.UNIT + ".service"
CONTAINERD_UNIT = containerd.UNIT + ".service"
ADDON_IMAGES_UNIT = containerd.ADDON_IMAGES_UNIT + ".service"


def desired_node(
    document: JoinDocument, facts: Mapping[str, Any], credential_ready: bool = True
) -> List[Resource]:
    """Return every resource of the node, in the order to make them.

    Without `credential_ready` (the kubelet has no certificate yet) the Units that use it and images of add-ons are
    left out, while their files are in place; the kubelet's Unit is the last resource then.
    """
    everything: List[Resource] = [
        *machine.machine_resources(document, facts),
        *machine.boot_routes(document, facts),
        *proxy.proxy_resources(document, facts),
        *containerd.containerd_resources(document, facts),
        *network.network_resources(document, facts),
        *credential.credential_resources(document),
        *kube_proxy.kube_proxy_resources(document, facts),
        *kubelet.kubelet_resources(document, facts),
        *agent_unit.agent_resources(document, facts),
    ]
    files = [resource for resource in everything if not isinstance(resource, Unit)]
    units = {resource.name: resource for resource in everything if isinstance(resource, Unit)}
    last = (KUBELET_UNIT, *NEEDS_CREDENTIAL, ADDON_IMAGES_UNIT)
    first, rest, addons = _release(document)
    # On a control plane the release in use is the control plane's to choose: its own programs depend on it, and
    # an agent with an older document must not turn it back.
    link = [] if document.control_plane else [current_link(document.manifest)]
    # On a machine without a release the link comes early, so that containerd starts while the rest arrives.
    # Later it moves only once the whole new release is there.
    fresh = not facts.get("release")
    resources: List[Resource] = [
        *_directories(document),
        File(paths.JOIN_DOCUMENT, document.dumps(), mode=0o600),
        *files,
        *first,
        *(link if fresh else [*rest, *link]),
        units[CONTAINERD_UNIT],
        *(rest if fresh else []),
        *machine.service_routes(document, facts),
        *(unit for name, unit in units.items() if name not in (CONTAINERD_UNIT, *last)),
        units[KUBELET_UNIT],
    ]
    if credential_ready:
        resources.append(credential.kubelet_kubeconfig_resource(document))
        resources += [units[name] for name in NEEDS_CREDENTIAL if name in units]
        resources += addons
        resources += [units[name] for name in (ADDON_IMAGES_UNIT,) if name in units]
    return resources


def addon_keys(document: JoinDocument) -> Set[str]:
    """Return the keys of what a node can be Ready without: images of add-ons. They are made after the join."""
    _first, _rest, addons = _release(document)
    return {key_of(resource) for resource in addons} | {"unit:" + ADDON_IMAGES_UNIT}


def _directories(document: JoinDocument) -> List[Resource]:
    resources: List[Resource] = [
        Directory(paths.ETC),
        Directory(paths.STATE),
        # Pods write to what lies in it, each to its own: nobody else on this machine gets in.
        Directory(paths.VOLUMES, 0o700),
        Directory(paths.KUBERNETES),
    ]
    if not document.control_plane:
        # A control plane's own record holds these; a node that leaves must not take them with it.
        resources += [Directory(paths.PKI), File(paths.CLUSTER_CA, document.ca_pem.encode())]
    return resources + release_directories(document.manifest)


def _release(document: JoinDocument) -> Tuple[List[Resource], List[Resource], List[Resource]]:
    """Return the release in three parts: what containerd needs, the rest, images of add-ons."""
    first: List[Resource] = []
    rest: List[Resource] = []
    addons: List[Resource] = []
    for entry in in_start_order(document.manifest.for_roles(ROLE)):
        part = rest
        if entry.name.startswith(containerd.NEEDED_AT_START):
            part = first
        elif containerd.is_addon_image(entry):
            part = addons
        part.extend(entry_resources(document.manifest, entry))
    return first, rest, addons
