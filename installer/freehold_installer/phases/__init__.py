"""What apply does, in reading order. The list is the documentation: each phase says where it runs and what it needs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freehold_installer.engine.lanes import Phase
    from freehold_installer.phases.cluster_state import ClusterState
    from freehold_installer.plan import Plan


def phases_of_apply(state: "ClusterState", plan: "Plan") -> "list[Phase]":
    """Return the phases of one apply."""
    from freehold_installer.engine.lanes import Phase
    from freehold_installer.phases import addons, control_plane, nodes, verify

    # A control plane that is a node too joins while its last components start: it is one phase there.
    workers = {host.name for host in state.inventory.nodes if not host.is_control_plane}
    joined = any(host.is_control_plane for host in state.inventory.nodes)
    return [
        Phase(
            "control-plane",
            "etcd, API server, controllers, DNS" + ("; its own node" if joined else ""),
            lambda lane: control_plane.run(lane, state, plan),
            concerns=lambda host: host.is_control_plane,
            signals=(control_plane.ARTIFACTS, control_plane.API),
        ),
        Phase(
            "node",
            "containerd, kubelet and pod network",
            lambda lane: nodes.run(lane, state),
            concerns=lambda host: host.name in workers,
        ),
        Phase(
            "verify",
            "nodes, names and Services answer",
            lambda lane: verify.run(lane, state),
            concerns=lambda host: host.is_control_plane,
            needs=("control-plane", "node"),
        ),
        Phase("settle", "images of add-ons; every byte durable", nodes.settle),
        Phase(
            "add-ons",
            "metrics-server and your manifests",
            lambda lane: addons.run(lane, state, plan),
            concerns=lambda host: host.is_control_plane,
            needs=("settle",),
        ),
    ]
