"""What runs and what is stored in a cluster, in a form in which 'nothing changed' can be compared.

Units with their start times, the versions of our objects, what the audit log says of the installer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.cluster import Cluster
from tests.support.kubectl import wait_for

AUDIT_LOG = "/var/log/kubernetes/audit.log"
OPERATORS = ("freehold:installer", "freehold:installer-bootstrap", "kubernetes-admin")
"""Whoever the installer is at the API server."""
WRITES = ("create", "update", "patch", "delete", "deletecollection", "apply")
UNITS = "ls /etc/systemd/system | grep -E '[.](service|slice)$' | xargs systemctl show --no-pager --property="
REMOTE = "from freehold_agent.remote"
"""Stands in the command line of every program that the installer runs on a machine."""

OURS = {
    "": (
        "apiservices",
        "clusterroles",
        "clusterrolebindings",
        "namespaces",
        "roles",
        "rolebindings",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ),
    "freehold-nodes": ("configmaps", "secrets", "roles", "rolebindings"),
    "kube-system": ("services", "endpointslices", "deployments", "secrets", "serviceaccounts"),
}
"""Namespace -> kinds in which freehold keeps objects."""


@dataclass(frozen=True)
class Unit:
    """A unit of ours as systemd sees it."""

    active: str
    started: int
    """Monotonic microseconds at which it became active."""
    restarts: int
    pid: int


def units(cluster: Cluster, machine: str) -> dict[str, Unit]:
    """Return every unit that somebody put into /etc/systemd/system and that runs."""
    properties = "Id,ActiveState,ActiveEnterTimestampMonotonic,NRestarts,MainPID"
    found = {}
    for block in cluster.run(machine, UNITS + properties).split("\n\n"):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        if shown.get("ActiveState") not in (None, "inactive"):
            found[shown["Id"]] = Unit(
                shown["ActiveState"],
                int(shown["ActiveEnterTimestampMonotonic"]),
                int(shown.get("NRestarts") or 0),
                int(shown.get("MainPID") or 0),
            )
    return found


def restarted(before: Mapping[str, Unit], after: Mapping[str, Unit]) -> set[str]:
    """Return the names of units that are not as they were."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def object_versions(cluster: Cluster) -> dict[str, str]:
    """Return the resourceVersion of every object in the places where freehold keeps some."""
    found = {}
    for namespace, kinds in OURS.items():
        where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"]
        for item in cluster.kubectl.json("get", ",".join(kinds), *where)["items"]:
            metadata = item["metadata"]
            if metadata.get("namespace", "").startswith(("t-", "e2e-")) or metadata["name"].startswith(
                ("t-", "e2e-")
            ):
                continue
            key = f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
            found[key] = metadata["resourceVersion"]
    return found


def nodes_as_asked(cluster: Cluster) -> dict[str, Any]:
    """Return what the control plane decides of each Node: its heartbeat left out."""
    return {
        node["metadata"]["name"]: (
            node["metadata"]["uid"],
            node["metadata"].get("labels"),
            node["metadata"].get("annotations"),
            node["spec"],
        )
        for node in cluster.kubectl.json("get", "nodes")["items"]
    }


def certificate_requests(cluster: Cluster) -> set[str]:
    """Return the names of all requests for certificates."""
    items = cluster.kubectl.json("get", "certificatesigningrequests")["items"]
    return {item["metadata"]["name"] for item in items}


def audit_position(cluster: Cluster) -> int:
    """Return the length of the audit log in bytes."""
    return int(cluster.run(cluster.control_plane, f"stat -c %s {AUDIT_LOG}"))


def writes_of_operators(cluster: Cluster, since: int) -> list[str]:
    """Return `user verb path` for each change that the installer or the administrator asked for since then."""
    text = cluster.run(cluster.control_plane, f"tail -c +{since + 1} {AUDIT_LOG}")
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert events, "the audit log is written"
    return [
        f"{event['user']['username']} {event['verb']} {event['requestURI']}"
        for event in events
        if event["user"]["username"] in OPERATORS and event["verb"] in WRITES
    ]


def remote_programs(cluster: Cluster, machine: str) -> list[str]:
    """Return the installer's programs that run on a machine now."""
    script = (
        "for file in /proc/[0-9]*/cmdline; do "
        f"tr '\\0' ' ' <$file 2>/dev/null | grep -F '{REMOTE}' | head -n 1 || true; done"
    )
    lines = cluster.run(machine, script).splitlines()
    return [line for line in lines if line.strip() and "bash -euc" not in line]


def wait_until_nothing_runs_remotely(cluster: Cluster, seconds: float = 60) -> None:
    """Return once no program of an installer runs on any machine; AssertionError names those that stay.

    It takes one or two seconds, and on a busy host some more to look.
    """

    def gone() -> bool:
        left = {machine: remote_programs(cluster, machine) for machine in cluster.nodes}
        assert not any(left.values()), left
        return True

    wait_for(gone, seconds, "the installer's programs on the machines end with it")


def wait_until_tests_are_gone(cluster: Cluster, seconds: float = 180) -> None:
    """Return once the namespaces of single tests, which are deleted in their own time, are gone."""

    def gone() -> bool:
        names = [item["metadata"]["name"] for item in cluster.kubectl.json("get", "namespaces")["items"]]
        left = [name for name in names if name.startswith("t-")]
        assert not left, left
        return True

    wait_for(gone, seconds, "namespaces of tests to be gone")
