"""Machines lose power, reboot, and come up in any order: the cluster is as it was, and nothing has to be applied."""

import contextlib
import secrets
import threading
from collections.abc import Iterator

import pytest
from tests.support import whole
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.whole import Accident, network_works, nothing_to_apply

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi

AGENT = "freehold-agent.service"
ENOUGH = 200
"""Objects that are written before the power goes."""


def test_a_rebooted_worker_comes_back(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """After a reboot a worker is Ready, its pods run, its network works, and there is nothing to apply."""
    worker = cluster.workers[-1]
    story = Accident(f"reboot of {worker}")
    cluster.lab.reboot(worker)
    story.tell("systemd answers")
    story.node_is_back(kubectl, worker)
    story.pods_are_back(echo, worker)
    network_works(cluster, echo)
    story.tell("network")
    nothing_to_apply(cluster)


def test_a_worker_boots_before_its_control_plane(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """A worker that boots while the control plane is off joins in by itself once that comes up."""
    worker, plane = cluster.workers[0], cluster.control_plane
    story = Accident(f"{worker} without power, {plane} off")
    cluster.lab.power_cut(worker, stay_off=True)
    cluster.lab.stop(plane)
    story.tell("both off")
    cluster.lab.start(worker)
    story.tell(f"{worker} up")
    wait_for(
        lambda: _active(cluster, worker, "kubelet"), whole.PATIENCE, f"kubelet of {worker} runs on its own"
    )
    cluster.lab.start(plane)
    story.tell(f"{plane} up")
    story.node_is_back(kubectl, worker, plane)
    story.pods_are_back(echo, worker, plane)
    network_works(cluster, echo)
    story.tell("network")
    nothing_to_apply(cluster)


def test_no_acknowledged_write_is_lost(
    cluster: Cluster, kubectl: Kubectl, here: Kubectl, echo: Kubectl
) -> None:
    """The control plane dies in the middle of writes: each acknowledged object is there, and all goes on at once."""
    plane = cluster.control_plane
    with contextlib.closing(whole.administrator(cluster)) as api:
        writer = Writer(api, here.namespace)
        writer.thread.start()
        wait_for(lambda: len(writer.acknowledged) >= ENOUGH, whole.PATIENCE, f"{ENOUGH} objects written")
        story = Accident(f"{plane} killed without sync")
        cluster.lab.power_cut(plane)
        story.tell("systemd answers")
        wait_for(api.healthy, whole.PATIENCE, "the API answers again")
        story.tell("API ready")
        writer.stop.set()
        _acts(cluster, here)
        story.tell("a new pod is placed")
        _waited_for_no_lease(kubectl)
        writer.thread.join(30)
        found = {item["metadata"]["name"]: item for item in api.list(writer.path)["items"]}
    for name, (version, uid, data) in writer.acknowledged.items():
        assert name in found, f"{name} was acknowledged and is lost"
        meta = found[name]["metadata"]
        assert (meta["resourceVersion"], meta["uid"], found[name]["data"]) == (version, uid, data), name
    print(f"{len(writer.acknowledged)} objects acknowledged and read back")
    story.node_is_back(kubectl, plane)
    story.pods_are_back(echo, plane)
    here.wait("pod --selector=app=new", "condition=Ready")
    network_works(cluster, echo)
    story.tell("network and names")
    nothing_to_apply(cluster)


def test_all_machines_lose_power(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, without_agents: None
) -> None:
    """All at once, and no agent at boot: units alone bring back all of it, routes and settings included."""
    story = Accident("all machines without power")
    cluster.lab.power_cut(*cluster.nodes)
    story.tell("systemd answers")
    story.node_is_back(kubectl, *cluster.nodes)
    story.pods_are_back(echo, *cluster.nodes)
    network_works(cluster, echo)
    story.tell("network")
    expected = {f"{node} unit:{AGENT}" for node in cluster.nodes}
    assert whole.changes(cluster.freehold("plan", "--output", "json")) == expected
    for node in cluster.nodes:
        cluster.run(node, f"systemctl start {AGENT}")
    wait_for(lambda: nothing_to_apply(cluster), whole.PATIENCE, "agents put themselves back into the boot")


@pytest.fixture
def without_agents(cluster: Cluster) -> Iterator[None]:
    """No agent is started at boot."""
    for node in cluster.nodes:
        cluster.run(node, f"systemctl disable --now {AGENT}")
    yield
    for node in cluster.nodes:
        cluster.run(node, f"systemctl enable --now {AGENT}")


class Writer:
    """Makes ConfigMaps one after the other, and remembers those that the API server acknowledged."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.acknowledged: dict[str, tuple[str, str, dict[str, str]]] = {}
        """Name -> resource version, UID, data."""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._write, args=(api,), daemon=True)

    def _write(self, api: KubernetesApi) -> None:
        number = 0
        while not self.stop.wait(0.005):
            number += 1
            name, data = f"w-{number}", {"content": secrets.token_hex(200)}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
            try:
                made = api.create(self.path, body)
            except (ApiError, OSError):
                # Nobody said that it is kept; it may be there nevertheless.
                self.stop.wait(0.1)
                continue
            self.acknowledged[name] = (made["metadata"]["resourceVersion"], made["metadata"]["uid"], data)
        api.close()


def _waited_for_no_lease(kubectl: Kubectl) -> None:
    """One that a killed controller left would cost 15 s; how long it takes otherwise depends on the host."""
    leases = kubectl.within("kube-system")("get", "leases", "--output=name").stdout
    assert "kube-controller-manager" not in leases
    assert "kube-scheduler" not in leases


def _acts(cluster: Cluster, here: Kubectl) -> None:
    """A Deployment's pod is made by the controller manager and placed by the scheduler."""
    container = {"name": "pause", "image": cluster.bundle.image("pause")}
    template = {
        "metadata": {"labels": {"app": "new"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    spec = {"selector": {"matchLabels": {"app": "new"}}, "template": template}
    here.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "new"}, "spec": spec})

    def placed() -> bool:
        items = here.json("get", "pods", "--selector=app=new")["items"]
        return bool(items and items[0]["spec"].get("nodeName"))

    wait_for(placed, whole.PATIENCE, "a new pod is placed")


def _active(cluster: Cluster, machine: str, unit: str) -> bool:
    return cluster.run(machine, f"systemctl is-active {unit}", check=False) == "active"
