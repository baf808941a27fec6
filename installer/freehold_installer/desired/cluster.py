"""A control-plane machine as one ordered list of resources.

The order is the start order and, with it, the speed: small files first, then each program as soon as its bytes are
there. The installer streams artifacts in the same order while the machine converges.
"""

from freehold_agent.contract.artifacts import ArtifactEntry
from freehold_agent.contract.release import (
    START_ORDER,
    current_link,
    entry_link,
    in_start_order,
    release_directories,
)
from freehold_agent.contract.resources import Artifact, Resource, Unit
from freehold_installer.desired import control_plane, dns, etcd, services
from freehold_installer.desired.control_plane_context import ControlPlaneContext

OWNER = "control"
"""Name of the record that holds what a control plane made on its machine."""

ROLE = "control-plane"


def control_plane_resources(context: ControlPlaneContext) -> list[Resource]:
    """Return everything that makes this machine a control plane."""
    embedded = context.inventory.config.control_plane.coredns.embedded
    prerequisites = [
        *control_plane.prerequisites(context),
        *etcd.prerequisites(context),
        *services.prerequisites(context),
        *(dns.prerequisites(context) if embedded else []),
        *release_links(context),
    ]
    fresh = not context.facts.get("release")
    current = current_link(context.manifest)
    steps: list[tuple[tuple[str, ...], list[Resource]]] = [
        (("freehold-services.pyz",), services.unit(context, "artifacts")),
        (("etcd",), etcd.unit(context)),
        (("kube-apiserver",), control_plane.api_server(context)),
        (
            ("kube-controller-manager",),
            [
                *control_plane.api_ready(context),
                *control_plane.controller_manager(context),
                *services.unit(context, "controller"),
                *services.unit(context, "join"),
                *(services.unit(context, "pod-routes") if "pod-routes" in services.names(context) else []),
            ],
        ),
        (
            ("kube-scheduler", "coredns") if embedded else ("kube-scheduler",),
            [*control_plane.scheduler(context), *(dns.unit(context) if embedded else [])],
        ),
    ]
    needed = {name for programs, _ in steps for name in programs}
    # Unit files come before the first unit, so that systemd reads them once.
    files = [r for _, resources in steps for r in resources if not isinstance(r, Unit)]
    started: list[Resource] = []
    for programs, resources in steps:
        started += [context.manifest.entry(f"bin/{name}").artifact() for name in programs]
        started += [r for r in resources if isinstance(r, Unit)]
    rest = [entry.artifact() for entry in entries(context) if entry.name.removeprefix("bin/") not in needed]
    if fresh:
        # The link comes early, so that each program starts as soon as its own bytes are there.
        return [*prerequisites, current, *files, *started, *rest]
    # Later it moves only once the whole new release is there.
    artifacts = [r for r in [*started, *rest] if isinstance(r, Artifact)]
    units = [r for r in started if not isinstance(r, Artifact)]
    return [*prerequisites, *files, *artifacts, current, *units]


def entries(context: ControlPlaneContext) -> list[ArtifactEntry]:
    """Return the manifest's entries that lie on a control plane: its own, then those it gives to nodes.

    The release directory holds both, so that the link to it can move in one step when the machine is a node too.
    """
    return [*context.manifest.for_roles(ROLE), *in_start_order(context.manifest.for_roles("node"))]


def artifacts_in_order(resources: list[Resource]) -> list[Artifact]:
    """Return the artifacts of a list, each once, in the order they are needed."""
    seen: dict[str, Artifact] = {}
    for resource in resources:
        if isinstance(resource, Artifact):
            seen.setdefault(resource.sha256, resource)
    return list(seen.values())


def stream_order(resources: list[Resource]) -> list[Artifact]:
    """Return the artifacts in the order in which their bytes are sent.

    What a cluster waits for longest comes first: the API server, then what makes nodes (they fetch it from here while
    the API server starts), then what may come a second later.
    """
    artifacts = artifacts_in_order(resources)
    urgent = ("bin/freehold-services.pyz", "bin/etcd", "bin/kube-apiserver", "bin/kube-controller-manager")
    nodes = START_ORDER[: START_ORDER.index("bin/kubelet") + 1]

    def place(artifact: Artifact) -> int:
        if artifact.title in urgent:
            return 0
        if artifact.title.startswith(nodes):
            return 1
        return 3 if artifact.title.startswith("images/") else 2

    return sorted(artifacts, key=place)


def release_links(context: ControlPlaneContext) -> list[Resource]:
    """Return the release directory: links into the store."""
    return [
        *release_directories(context.manifest),
        *(entry_link(context.manifest, entry) for entry in entries(context)),
    ]
