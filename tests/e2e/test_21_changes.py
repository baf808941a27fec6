"""A changed setting changes just what it must; drift is seen and mended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import running
from tests.support.cluster import Cluster
from tests.support.kubectl import Answer, wait_for

from freehold_agent.contract import paths

SCHEDULER = {"file:/etc/systemd/system/kube-scheduler.service", "unit:kube-scheduler.service"}
KUBELET = {
    "file:/etc/freehold/kubelet.json",
    "file:/etc/systemd/system/kubelet.service",
    "unit:kubelet.service",
}
DOCUMENT = f"file:{paths.JOIN_DOCUMENT}"
MAX_PODS = 97


@pytest.fixture(scope="module")
def changed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same inventory with one more flag for the scheduler and another limit for kubelets."""
    inventory: dict[str, Any] = json.loads(json.dumps(cluster.inventory))
    config = inventory.setdefault("config", {})
    config["controlPlane"] = {"distro": {"k8s": {"scheduler": {"extraArgs": ["--v=1"]}}}}
    config["privateNodes"] = {"kubelet": {"config": {"maxPods": MAX_PODS}}}
    path = tmp_path_factory.mktemp("changed") / "inventory.yaml"
    path.write_text(yaml.safe_dump(inventory))
    return path


@pytest.fixture(scope="module")
def restored(cluster: Cluster) -> Iterator[None]:
    """Whatever happens, the cluster is what its own inventory says afterwards."""
    yield
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)


@pytest.fixture(scope="module")
def plan(cluster: Cluster, changed: Path, restored: None) -> Answer:
    """The plan of both changes as text."""
    return cluster.freehold("plan", inventory=changed)


def test_plan_names_exactly_what_changes(cluster: Cluster, changed: Path, plan: Answer) -> None:
    """One unit on the control plane, one on each node, the node document; nothing else."""
    assert plan.code == 2, str(plan)
    data = cluster.freehold("plan", "--output", "json", inventory=changed).json
    for one in data["machines"]:
        keys = {change["key"] for change in one["changes"]}
        expected = KUBELET | {DOCUMENT} | (SCHEDULER if one["machine"] == cluster.control_plane else set())
        assert keys == expected, one["machine"]
        assert {change["action"] for change in one["changes"]} == {"update"}, one["machine"]
    assert [change["key"] for change in data["objects"]] == [
        "object:ConfigMap freehold-nodes/cluster-settings"
    ]
    assert data["toBeIssued"] == []


def test_plan_shows_a_readable_difference(plan: Answer) -> None:
    """The new flag and the new value stand in unified diffs, and a restart is called a restart."""
    lines = [line.strip() for line in plan.stdout.splitlines()]
    assert "+  --v=1" in lines
    assert any(line.startswith("+") and f'"maxPods": {MAX_PODS}' in line for line in lines)
    assert any("kube-scheduler.service" in line and "restart" in line for line in lines)


def test_a_plan_of_something_else_is_refused(
    cluster: Cluster, changed: Path, plan: Answer, tmp_path: Path
) -> None:
    """`apply --plan` does what that file says or nothing: here the inventory has changed since."""
    kept = tmp_path / "plan.json"
    cluster.freehold("plan", "--out", str(kept), inventory=changed)
    before = running.units(cluster, cluster.control_plane)
    answer = cluster.freehold("apply", "--yes", "--plan", str(kept))
    assert answer.code == 3, str(answer)
    assert "nothing was changed" in answer.stderr
    assert running.units(cluster, cluster.control_plane) == before


def test_apply_restarts_only_what_is_affected(cluster: Cluster, changed: Path, plan: Answer) -> None:
    """The scheduler and the kubelets start anew with the new settings; every other unit keeps its process."""
    before = {machine: running.units(cluster, machine) for machine in cluster.nodes}
    answer = cluster.freehold("apply", "--yes", inventory=changed)
    assert answer.code == 0, str(answer)
    for machine in cluster.nodes:
        expected = {"kubelet.service"} | (
            {"kube-scheduler.service"} if machine == cluster.control_plane else set()
        )
        assert running.restarted(before[machine], running.units(cluster, machine)) == expected, machine
    assert cluster.freehold("plan", inventory=changed).code == 0

    def capacity() -> bool:
        nodes = cluster.kubectl.json("get", "nodes")["items"]
        found = {node["metadata"]["name"]: node["status"]["capacity"]["pods"] for node in nodes}
        assert found == dict.fromkeys(cluster.nodes, str(MAX_PODS))
        return True

    # A kubelet that has started says so when it reports next.
    wait_for(capacity, 60, "the new limit on each Node")
    arguments = cluster.run(cluster.control_plane, "tr '\\0' ' ' </proc/$(pgrep -x kube-scheduler)/cmdline")
    assert "--v=1" in arguments


def test_changed_back_it_is_what_it_was(cluster: Cluster, changed: Path, plan: Answer) -> None:
    """The old inventory takes both settings away again."""
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    arguments = cluster.run(cluster.control_plane, "tr '\\0' ' ' </proc/$(pgrep -x kube-scheduler)/cmdline")
    assert "--v=1" not in arguments
    for machine in cluster.nodes:
        assert "maxPods" not in json.loads(cluster.run(machine, "cat /etc/freehold/kubelet.json")), machine


def test_drift_is_seen_and_mended(cluster: Cluster) -> None:
    """A file changed by hand, a unit stopped and a link removed are in the plan; apply puts them back."""
    worker = cluster.workers[-1]
    file = "/etc/freehold/kube-proxy.json"
    original = cluster.run(worker, f"cat {file}; stat -c %a {file}")
    # The resident agent would mend it before anybody could look.
    cluster.run(worker, "systemctl stop freehold-agent.service")
    cluster.run(worker, f"sed -i 's/nftables/iptables/' {file}; chmod 0666 {file}")
    cluster.run(
        worker,
        "systemctl stop flannel.service; rm /etc/systemd/system/multi-user.target.wants/flannel.service",
    )
    planned = cluster.freehold("plan")
    assert planned.code == 2, str(planned)
    assert any(line.strip().startswith('- "mode": "iptables"') for line in planned.stdout.splitlines())
    assert "0666 -> 0644" in planned.stdout
    data = cluster.freehold("plan", "--output", "json").json
    keys = {one["machine"]: {change["key"] for change in one["changes"]} for one in data["machines"]}
    # kube-proxy may have read the damaged file: it is restarted.
    assert keys.pop(worker) == {
        f"file:{file}",
        "unit:flannel.service",
        "unit:freehold-agent.service",
        "unit:kube-proxy.service",
    }
    assert not any(keys.values())
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    assert cluster.run(worker, f"cat {file}; stat -c %a {file}") == original
    for unit in ("flannel", "freehold-agent"):
        assert (
            cluster.run(worker, f"systemctl is-active {unit}; systemctl is-enabled {unit}")
            == "active\nenabled"
        )
    assert cluster.freehold("plan").code == 0
