"""A program that is killed comes back by itself, and what depends on it does not die with it."""

import json
from typing import Any

import pytest
from tests.support import whole
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.whole import Accident, network_works, nothing_to_apply

CONTROL = (
    ("etcd",),
    ("kube-apiserver",),
    ("kube-controller-manager", "kube-scheduler", "coredns"),
    ("freehold-join", "freehold-artifacts", "freehold-controller"),
)
NODE = (("containerd",), ("kubelet",), ("kube-proxy", "flannel", "freehold-agent"))
SLICES = "endpointslices.discovery.k8s.io"


@pytest.mark.parametrize("units", CONTROL, ids=" ".join)
def test_killed_control_plane_programs_come_back(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, units: tuple[str, ...]
) -> None:
    """They are started again within seconds, the API answers, and no container was restarted."""
    before = _containers(echo)
    _killed(cluster, cluster.control_plane, units)
    wait_for(lambda: _answers(kubectl), whole.PATIENCE, "the API answers")
    assert _containers(echo) == before, "pods have nothing to do with it"


@pytest.mark.parametrize("units", NODE, ids=" ".join)
def test_killed_node_programs_come_back(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, units: tuple[str, ...]
) -> None:
    """They are started again within seconds; containers run on, and the node takes commands for them."""
    node = cluster.workers[0]
    before = _containers(echo)
    story = _killed(cluster, node, units)
    if "kubelet" in units:
        story.node_is_back(kubectl, node)
    assert _containers(echo) == before, "containers outlive it"
    shell = next(name.partition("/")[2] for name in before if name.startswith(f"{node}/shell"))
    wait_for(lambda: _says(echo, shell) == "hello", whole.PATIENCE, f"exec into {shell} on {node}")


def test_a_restart_of_the_api_server_refuses_nobody(cluster: Cluster, kubectl: Kubectl) -> None:
    """While it starts, who connects waits: kubectl succeeds, and no program of a node sees a failed watch."""
    plane = cluster.control_plane
    since = cluster.run(plane, "date +%s")
    cluster.run(plane, "systemctl restart --no-block kube-apiserver; " + CLOSED, timeout=whole.PATIENCE)
    answer = kubectl("get", "namespace", "default", "--output=name", "--request-timeout=60s")
    assert answer.stdout.strip() == "namespace/default"
    wait_for(lambda: _answers(kubectl), whole.PATIENCE, "the API answers")
    for machine in cluster.nodes:
        units = " ".join(f"--unit={unit}" for unit in ("kubelet", "kube-proxy", "flannel"))
        said = cluster.run(machine, f"journalctl --since=@{since} --output=cat {units}")
        failed = [line for line in said.splitlines() if "Failed to watch" in line or "is forbidden" in line]
        assert failed == [], machine


def test_names_outlive_the_controller(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """While freehold-controller is down, DNS keeps its endpoints; its return changes nothing."""
    dns = kubectl.within("kube-system")
    before = _endpoints(dns)
    assert before, "CoreDNS has endpoints"
    cluster.run(cluster.control_plane, "systemctl stop freehold-controller")
    try:
        assert _endpoints(dns) == before
        network_works(cluster, echo)
    finally:
        cluster.run(cluster.control_plane, "systemctl start freehold-controller")
    assert _endpoints(dns) == before


def test_nothing_has_to_be_applied(cluster: Cluster, echo: Kubectl) -> None:
    """After all of these deaths the network works and the plan is empty."""
    network_works(cluster, echo)
    nothing_to_apply(cluster)


CLOSED = "until nft list set inet freehold closed | grep -q 6443; do sleep 0.01; done"
KILL = r"""
declare -A old
for unit in $*; do
  until old[$unit]=$(systemctl show --property=MainPID --value $unit); test ${old[$unit]} != 0; do sleep 0.1; done
done
kill -9 ${old[@]}
for unit in $*; do
  until new=$(systemctl show --property=MainPID --value $unit); test $new != 0 -a $new != ${old[$unit]}
  do sleep 0.1; done
  until systemctl is-active --quiet $unit; do sleep 0.1; done
done
"""


def _killed(cluster: Cluster, machine: str, units: tuple[str, ...]) -> Accident:
    """Kill the main processes of units at once, and wait until others are active."""
    story = Accident(f"kill -9 {' '.join(units)} on {machine}")
    cluster.run(machine, f"set -- {' '.join(units)}\n{KILL}", timeout=whole.PATIENCE)
    story.tell("active")
    return story


def _answers(kubectl: Kubectl) -> bool:
    return not kubectl("get", "--raw", "/readyz", "--request-timeout=5s", check=False).failed


def _containers(kubectl: Kubectl) -> dict[str, Any]:
    """Return identity and start of each container."""
    return {
        f"{pod['spec']['nodeName']}/{pod['metadata']['name']}": [
            (state["containerID"], state["restartCount"], state["state"]["running"]["startedAt"])
            for state in pod["status"]["containerStatuses"]
        ]
        for pod in kubectl.json("get", "pods")["items"]
    }


def _says(kubectl: Kubectl, pod: str) -> str:
    answer = kubectl.exec(pod, "echo", "hello", check=False)
    assert not answer.failed, answer.stderr
    return answer.stdout.strip()


def _endpoints(kubectl: Kubectl) -> str:
    """Return the addresses of kube-dns, and whether they are ready, as text."""
    slices = kubectl.json("get", SLICES, "--selector=kubernetes.io/service-name=kube-dns")["items"]
    return json.dumps([entry for one in slices for entry in one["endpoints"]], sort_keys=True)
