"""The second `apply` changes nothing at all, proved from outside."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support import running
from tests.support.cluster import Cluster
from tests.support.kubectl import Answer, Kubectl
from tests.support.outside import Snapshot, differences

STATE_OF_PROGRAMS = (
    "/dev",
    "/run",
    "/tmp",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log",
)
"""Where running programs write all the time; everything else on the machines must stay as it is."""
SECTIONS = (
    "files",
    "units",
    "accounts",
    "links",
    "addresses",
    "routes",
    "rules",
    "sysctls",
    "iptables",
    "mounts",
)
OF_PODS = (": links: veth", ": units: unit run-", ": units: unit var-lib-kubelet-")
"""Pods that other tests have deleted may still be on their way out."""


@dataclass(frozen=True)
class Seen:
    """Everything that must not change, at one moment."""

    machines: dict[str, Snapshot]
    units: dict[str, dict[str, running.Unit]]
    objects: dict[str, str]
    nodes: dict[str, Any]
    requests: set[str]
    operator: dict[str, tuple[int, int]]

    @classmethod
    def now(cls, cluster: Cluster) -> "Seen":
        return cls(
            Snapshot.of_all(cluster.lab),
            {machine: running.units(cluster, machine) for machine in cluster.nodes},
            running.object_versions(cluster),
            running.nodes_as_asked(cluster),
            running.certificate_requests(cluster),
            {
                str(path.relative_to(cluster.state)): (path.stat().st_mtime_ns, path.stat().st_ino)
                for path in cluster.state.rglob("*")
                if path.is_file()
            },
        )


@dataclass(frozen=True)
class Twice:
    """Before and after a second apply and two plans."""

    before: Seen
    after: Seen
    answers: tuple[Answer, ...]
    written: list[str]


@pytest.fixture(scope="module")
def twice(cluster: Cluster, kubectl: Kubectl) -> Twice:
    """Apply and plan again, nothing having changed."""
    if cluster.inventory["config"]["deploy"]["metricsServer"]["enabled"]:
        # Its status settles some seconds after the first apply.
        kubectl.within("kube-system").wait("deployment/metrics-server", "condition=Available")
        kubectl.wait("apiservice/v1beta1.metrics.k8s.io", "condition=Available")
    running.wait_until_tests_are_gone(cluster)
    position = running.audit_position(cluster)
    before = Seen.now(cluster)
    freehold = cluster.freehold
    answers = (
        freehold("apply", "--yes"),
        freehold("apply", "--yes", "--output", "json"),
        freehold("plan"),
        freehold("plan", "--output", "json"),
    )
    after = Seen.now(cluster)
    return Twice(before, after, answers, running.writes_of_operators(cluster, position))


def test_second_apply_says_that_nothing_is_to_be_done(twice: Twice) -> None:
    """Exit code 0 for apply and plan, in both forms; nothing listed as changed."""
    assert [answer.code for answer in twice.answers] == [0, 0, 0, 0], "\n".join(map(str, twice.answers))
    applied, as_json, planned, planned_json = twice.answers
    assert "nothing to change" in applied.stdout + applied.stderr
    assert "nothing to change" in planned.stdout
    for data in (as_json.json["plan"], planned_json.json):
        assert not data["objects"]
        assert not data["toBeIssued"]
        assert not any(machine["changes"] for machine in data["machines"])


def test_no_file_on_any_machine_was_touched(twice: Twice) -> None:
    """Content, mode, owner, times and inode of each file, and all that the machine is beside them, stay the same."""
    found = [
        line
        for name, before in twice.before.machines.items()
        for line in differences(
            before, twice.after.machines[name], ignore=STATE_OF_PROGRAMS, sections=SECTIONS
        )
        if not any(word in line for word in OF_PODS)
    ]
    assert found == []


def test_no_unit_was_restarted(twice: Twice) -> None:
    """Process, start time and restart count of each unit of ours are the same."""
    for machine, before in twice.before.units.items():
        assert before, machine
        assert running.restarted(before, twice.after.units[machine]) == set(), machine
        assert all(unit.active == "active" for unit in before.values()), machine


def test_no_object_has_a_new_version(twice: Twice) -> None:
    """Objects in freehold's places, and each Node's labels, taints and spec, are untouched."""
    assert "Service kube-system/kube-dns" in twice.before.objects
    assert "ConfigMap freehold-nodes/cluster-settings" in twice.before.objects
    assert twice.before.objects == twice.after.objects
    assert twice.before.nodes == twice.after.nodes


def test_no_certificate_was_asked_for(twice: Twice) -> None:
    """The number of requests stays the same, and no key or certificate of the operator was made anew."""
    assert twice.before.requests == twice.after.requests
    kept = {
        name: seen for name, seen in twice.before.operator.items() if not name.startswith(("journal", "lock"))
    }
    assert "pki/ca.key" in kept
    assert {name: twice.after.operator.get(name) for name in kept} == kept


def test_the_audit_log_has_no_write_of_the_installer(twice: Twice) -> None:
    """What the API server itself recorded: the installer only read."""
    assert twice.written == []


def test_the_journal_has_both_runs(twice: Twice, cluster: Cluster) -> None:
    """Each apply is in the operator's journal with its end; a plan is not."""
    lines = [json.loads(line) for line in (cluster.state / "journal.jsonl").read_text().splitlines()]
    last = lines[-4:]
    assert [line["what"] for line in last] == ["run-started", "run-finished"] * 2
    assert last[1]["outcome"] == last[3]["outcome"] == "done"
