"""What freehold leaves on a node and about it whenever it writes: where two looks are equal, nothing was written.

A file that was written has other times, one that came and went leaves other times of its directory, and the kernel
counts what the agent and the programs that it ran had written to disks.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.cluster import Cluster
from tests.support.kubectl import wait_for
from tests.support.outside import Snapshot

from freehold_agent.contract import paths
from freehold_agent.contract.conditions import DRIFT
from freehold_agent.node_report import NOTHING

AGENT = "freehold-agent"
UNITS = ("containerd", "freehold-images", "kubelet", "kube-proxy", "flannel", AGENT)
OURS = (
    paths.ETC,
    paths.STATE,
    paths.OPT,
    paths.RUN,
    paths.KUBERNETES,
    "/etc/containerd",
    "/etc/cni",
    "/etc/systemd",
    "/etc/sysctl.d",
    "/etc/modules-load.d",
)
"""Where freehold writes on a machine."""


@dataclass(frozen=True)
class Traces:
    """One node at one moment."""

    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Everything below directories of ours, with inode and times."""
    machine: str
    """Bytes written, lines that the agent wrote to the journal, and what names this very run of each unit."""
    told: Mapping[str, Any]
    """The Node's condition, and the versions of the node's ConfigMaps and of the newest Event that its agent made."""

    @classmethod
    def of(cls, cluster: Cluster, node: str) -> "Traces":
        """Look now; this writes nothing itself."""
        return cls(
            Snapshot.take(cluster.lab, node).below(*OURS), cluster.run(node, MACHINE), _told(cluster, node)
        )


@dataclass(frozen=True)
class Watched:
    """A node that nobody disturbs, from when on, and what it was then."""

    node: str
    begun: float
    before: Traces
    used: float

    @classmethod
    def begin(cls, cluster: Cluster, node: str) -> "Watched":
        """Watch from the moment on at which its agent has said that it is as its document says."""

        def told() -> bool:
            return [one["reason"] for one in _told(cluster, node)["condition"]] == [NOTHING]

        wait_for(told, 120, f"the agent of {node} to have looked")
        return cls(node, time.monotonic(), Traces.of(cluster, node), seconds_used(cluster, node))

    def share(self, cluster: Cluster) -> float:
        """Return the share of a core that its agent has taken since."""
        return (seconds_used(cluster, self.node) - self.used) / (time.monotonic() - self.begun)


def seconds_used(cluster: Cluster, node: str) -> float:
    """Return the processor time of the agent and of the programs it has run, to a hundredth of a second."""
    fields = cluster.run(node, f"cat /proc/{PID}/stat").rpartition(") ")[2].split()
    return sum(int(one) for one in fields[11:15]) / 100


PID = f"$(systemctl show --property=MainPID --value {AGENT})"
MACHINE = f"""
grep ^write_bytes /proc/{PID}/io
journalctl --no-pager --output=cat _SYSTEMD_UNIT={AGENT}.service | wc --lines
systemctl show --property=Id,InvocationID {" ".join(UNITS)}
"""


def _told(cluster: Cluster, node: str) -> dict[str, Any]:
    kubectl = cluster.kubectl
    conditions = kubectl.json("get", "node", node)["status"]["conditions"]
    records = kubectl.json("get", "configmaps", "--namespace=freehold-nodes")["items"]
    events = kubectl.json("get", "events", "--field-selector", f"involvedObject.name={node},source={AGENT}")
    return {
        "condition": [one for one in conditions if one["type"] == DRIFT],
        "records": {
            one["metadata"]["name"]: one["metadata"]["resourceVersion"]
            for one in records
            if one["metadata"]["name"].endswith("-" + node)
        },
        "last event": max((int(one["metadata"]["resourceVersion"]) for one in events["items"]), default=0),
    }
