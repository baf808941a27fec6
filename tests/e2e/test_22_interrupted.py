"""An installer that is killed, interrupted or started twice leaves nothing that the next one cannot go on from."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import program, running
from tests.support.applying import Applying, Moment, step
from tests.support.cluster import Cluster

MOMENTS: dict[str, Moment] = {
    "when it has planned": lambda event: event.get("event") == "plan",
    "while units restart": step("starting"),
    "while a node is admitted": step("joining"),
    "while pods are probed": step("names and Services"),
}


@pytest.fixture(scope="module")
def inventories(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two inventories that differ in flags of all three Kubernetes components; the cluster is whole afterwards."""
    paths = []
    for number in (1, 2):
        inventory: dict[str, Any] = json.loads(json.dumps(cluster.inventory))
        config = inventory.setdefault("config", {})
        flags = {"extraArgs": [f"--v={number}"]}
        config["controlPlane"] = {
            "distro": {"k8s": dict.fromkeys(("apiServer", "controllerManager", "scheduler"), flags)}
        }
        config["privateNodes"] = {"kubelet": {"config": {"maxPods": 100 + number}}}
        path = tmp_path_factory.mktemp("interrupted") / f"inventory-{number}.yaml"
        path.write_text(yaml.safe_dump(inventory))
        paths.append(path)
    yield paths
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=list(MOMENTS))
def test_a_killed_installer_leaves_nothing_running(
    cluster: Cluster, inventories: list[Path], moment: Moment, request: pytest.FixtureRequest
) -> None:
    """After kill -9 at any moment its programs on the machines end by themselves; the next run begins at once."""
    # Every other one, so that there is always something to change and a half-done change to cope with.
    inventory = inventories[list(MOMENTS.values()).index(moment) % 2]
    applying = Applying(cluster.freehold, inventory)
    assert applying.until(moment), "".join(applying.said)
    applying.process.send_signal(signal.SIGKILL)
    code, _ = applying.end()
    assert code == -signal.SIGKILL
    running.wait_until_nothing_runs_remotely(cluster)


def test_the_next_apply_converges_and_says_what_was_killed(cluster: Cluster, inventories: list[Path]) -> None:
    """After all those kills one apply makes the cluster whole, and nothing is left to change."""
    answer = cluster.freehold("apply", "--yes", inventory=inventories[0])
    assert answer.code == 0, str(answer)
    assert "was killed while it did" in answer.stderr
    assert cluster.freehold("plan", inventory=inventories[0]).code == 0
    for machine in cluster.nodes:
        assert {unit.active for unit in running.units(cluster, machine).values()} == {"active"}, machine
    pods = cluster.kubectl.json("get", "pods", "--namespace=kube-system")["items"]
    assert [pod["metadata"]["name"] for pod in pods if "verify" in pod["metadata"]["name"]] == []


@pytest.mark.parametrize(
    ("number", "moment", "inventory"),
    [(signal.SIGINT, "while units restart", 1), (signal.SIGTERM, "when it has planned", 0)],
    ids=["SIGINT", "SIGTERM"],
)
def test_an_interrupted_apply_ends_in_order(
    cluster: Cluster, inventories: list[Path], number: signal.Signals, moment: str, inventory: int
) -> None:
    """It exits with 130, says how to continue, and no program of it is left on any machine."""
    applying = Applying(cluster.freehold, inventories[inventory])
    assert applying.until(MOMENTS[moment]), "".join(applying.said)
    applying.process.send_signal(number)
    code, said = applying.end()
    assert code == 130, said
    error = applying.error()
    assert (error["message"], error["exitCode"]) == ("interrupted", 130)
    assert error["continue"].startswith("freehold apply")
    assert "Traceback" not in said
    running.wait_until_nothing_runs_remotely(cluster)
    last = json.loads((cluster.state / "journal.jsonl").read_text().splitlines()[-1])
    assert (last["what"], last["outcome"]) == ("run-finished", "interrupted")


def test_two_at_once(cluster: Cluster, inventories: list[Path]) -> None:
    """The second apply ends at once with 6 and names the first; a plan may look meanwhile; the first is undisturbed."""
    first = Applying(cluster.freehold, inventories[1])
    # Stopped before it has logged in everywhere, it would be the machines that give up on it.
    assert first.until(MOMENTS["when it has planned"]), "".join(first.said)
    first.process.send_signal(signal.SIGSTOP)
    try:
        second = cluster.freehold("apply", "--yes", inventory=inventories[1])
        assert second.code == 6, str(second)
        assert re.search(rf"freehold apply .*process {first.process.pid} ", second.stderr), second.stderr
        reset = cluster.freehold("reset", "--yes")
        assert reset.code == 6, str(reset)
        assert cluster.freehold("plan", inventory=inventories[1]).code == 2
    finally:
        first.process.send_signal(signal.SIGCONT)
    code, said = first.end(program.TIMEOUT)
    assert code == 0, said
