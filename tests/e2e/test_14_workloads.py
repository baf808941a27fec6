"""Workloads: rolled out, scaled, spread over nodes, and run to their end."""

from collections import Counter
from typing import Any

from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl


def test_a_deployment_rolls_out(cluster: Cluster, here: Kubectl) -> None:
    """A changed Deployment replaces its pods one after another, and an undo brings the old ones back."""
    here.apply(*cluster.objects("web"))
    here.rolled_out("deployment/web")
    before = _pods(here)
    here("set", "env", "deployment/web", "COLOUR=blue")
    here.rolled_out("deployment/web")
    after = _pods(here)
    assert not set(before) & set(after), "every pod is new"
    assert {_colour(pod) for pod in after.values()} == {"blue"}
    here("rollout", "undo", "deployment/web")
    here.rolled_out("deployment/web")
    assert {_colour(pod) for pod in _pods(here).values()} == {"green"}


def test_a_deployment_is_scaled_and_spread(cluster: Cluster, here: Kubectl) -> None:
    """Scaled from one to six, the pods are spread evenly over the nodes; scaled back, one is left."""
    here.apply(*cluster.objects("web"))
    here("scale", "deployment/web", "--replicas=6")
    here.rolled_out("deployment/web")
    counted = Counter(pod["spec"]["nodeName"] for pod in _pods(here).values())
    assert counted == dict.fromkeys(cluster.nodes, 2)
    here("scale", "deployment/web", "--replicas=1")
    here.wait("deployment/web", "jsonpath={.status.replicas}=1")


def test_a_job_runs_to_its_end(cluster: Cluster, here: Kubectl) -> None:
    """A Job with three pods of which two may run at once completes, and its words can be read."""
    here.apply(*cluster.objects("job"))
    here.wait("job/sums", "condition=Complete")
    assert here.json("get", "job", "sums")["status"]["succeeded"] == 3
    assert here("logs", "--selector=job-name=sums").stdout.split() == ["42"] * 3


def test_a_pod_gets_its_configuration(cluster: Cluster, here: Kubectl) -> None:
    """ConfigMap, Secret, downward API and a token of the own ServiceAccount reach a container."""
    here("create", "configmap", "settings", "--from-literal=greeting=hello")
    here("create", "secret", "generic", "password", "--from-literal=password=swordfish")
    here.apply(*cluster.objects("configured"))
    here.wait("pod/configured", "jsonpath={.status.phase}=Succeeded")
    said = dict(line.split("=", 1) for line in here("logs", "configured").stdout.splitlines())
    assert said["greeting"] == "hello"
    assert said["password"] == "swordfish"
    assert said["node"] in cluster.nodes
    assert said["account"] == f"system:serviceaccount:{here.namespace}:default"


def test_a_killed_container_is_started_again(cluster: Cluster, here: Kubectl) -> None:
    """A container whose process dies is started again on the same node."""
    here.apply(*cluster.objects("web"))
    here.rolled_out("deployment/web")
    (pod,) = _pods(here).values()
    name = pod["metadata"]["name"]
    reference = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node = pod["spec"]["nodeName"]
    cluster.run(
        node,
        f"kill -KILL $(/opt/freehold/current/bin/ctr -n k8s.io tasks list | awk '/{reference}/ {{print $2}}')",
    )
    here.wait(f"pod/{name}", "jsonpath={.status.containerStatuses[0].restartCount}=1")
    here.wait(f"pod/{name}", "condition=Ready")


def _pods(kubectl: Kubectl) -> dict[str, Any]:
    items = kubectl.json("get", "pods", "--selector=app=web")["items"]
    return {item["metadata"]["name"]: item for item in items if "deletionTimestamp" not in item["metadata"]}


def _colour(pod: dict[str, Any]) -> str:
    return str({entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}["COLOUR"])
