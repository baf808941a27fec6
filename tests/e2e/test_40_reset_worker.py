"""A worker leaves: nothing of ours stays on it, its credential is worth nothing, and it may come back."""

import base64
import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support import whole
from tests.support.a_request import a_request
from tests.support.cluster import Cluster
from tests.support.inventory_of_machine import Inventory, differences, inventory_of
from tests.support.kubectl import Answer, Kubectl, KubectlError, wait_for
from tests.support.pods import from_pod, make_namespace, pods_by_node
from tests.support.whole import Accident, network_works, nothing_to_apply

from freehold_agent.contract import paths
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.pki_directory import PkiDirectory

KEPT_BY_DESIGN = ("/etc/cni",)
"""Directories that stay, empty: a containerd that was there before would end without them."""
MOUNTED = f"{paths.KUBELET_STATE}/pods/foreign/volume"
OTHER_CNI = f"{paths.CNI_CONFIG}/99-other.conflist"
OTHER_NETWORK = '{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "loopback"}]}'
FOREIGN = f"""
mkdir -p /srv/foreign {MOUNTED}; echo precious > /srv/foreign/file
mount --bind /srv/foreign {MOUNTED}
echo '{OTHER_NETWORK}' > {OTHER_CNI}
nft add table inet other; nft add chain inet other rules; ip route add 203.0.113.0/24 dev eth0 proto static
"""
FOREIGN_IS_THERE = f"""
test "$(cat /srv/foreign/file)" = precious; test -f {OTHER_CNI}
nft list chain inet other rules > /dev/null; test -n "$(ip route show 203.0.113.0/24)"
"""
FOREIGN_GOES = f"""
rm -rf /srv/foreign {OTHER_CNI}; nft delete table inet other; ip route del 203.0.113.0/24
"""
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
FORBIDDEN, NOT_FOUND = 403, 404


@dataclass
class Left:
    """What was seen of a worker with everything on it that was reset."""

    worker: str
    busy: Answer
    answer: Answer
    seconds: float
    after: Inventory
    credential: Path
    secret: str
    """API path of a Secret that the node could read when it was one."""


@pytest.fixture(scope="module")
def left(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Left]:
    """A worker, full of pods and of things that are not ours, after its reset."""
    worker = cluster.workers[-1]
    zoo = make_namespace(kubectl, "zoo")
    cluster.run(worker, FOREIGN)
    zoo.apply(*cluster.objects("zoo", node=worker))
    zoo.rolled_out("deployment/zoo")
    zoo.wait("pod/port pod/host", "condition=Ready")
    credential = tmp_path_factory.mktemp("stolen") / "kubelet.pem"
    credential.write_text(cluster.run(worker, f"cat {paths.KUBELET_CLIENT_CERTIFICATE}"))
    secret = "/api/v1/namespaces/zoo/secrets/zoo"
    with _as_node(cluster, credential) as api:
        assert api.get(secret)["data"], (
            "a node reads the Secrets of its own pods: the test below means something"
        )
    session = subprocess.Popen(
        zoo.command("exec", "deployment/zoo", "--", "sleep", "1000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cluster.run(worker, f"systemd-run --quiet --unit=e2e-busy --working-directory={MOUNTED} sleep 1000")
    busy = cluster.freehold("reset", "--machine", worker, "--yes")
    cluster.run(worker, "systemctl stop e2e-busy; systemctl reset-failed e2e-busy || true", check=False)
    story = Accident(f"reset of {worker}")
    answer = cluster.freehold("reset", "--machine", worker, "--yes")
    seconds = story.seconds()
    story.tell("done")
    cluster.run(worker, FOREIGN_IS_THERE)
    cluster.run(worker, FOREIGN_GOES)
    # Or its pods would make the directory again once the worker is back.
    zoo("delete", "deployment", "zoo")
    yield Left(worker, busy, answer, seconds, inventory_of(cluster.lab, worker), credential, secret)
    session.kill()
    session.wait()
    kubectl("delete", "namespace", "zoo", "--wait=false", check=False)


def test_a_busy_mount_is_said_and_nothing_below_it_deleted(left: Left) -> None:
    """Somebody works in a mount below the kubelet's directory: exit code 1 and one clear message."""
    assert left.busy.code == 1, str(left.busy)
    assert re.search(rf"{left.worker}: .*{MOUNTED} cannot be unmounted: .*busy", left.busy.stderr), str(
        left.busy
    )
    assert "Traceback" not in left.busy.stderr


def test_the_second_try_goes_on(left: Left) -> None:
    """Once the mount is free the same command ends the reset."""
    assert left.answer.code == 0, str(left.answer)
    assert f"nothing of freehold is left on {left.worker}" in left.answer.stderr + left.answer.stdout


def test_nothing_is_left_on_the_machine(left: Left, untouched: dict[str, Inventory]) -> None:
    """Units, files, mounts, links, routes, rules, tables, processes, users, settings: as before the first apply."""
    found = differences(untouched[left.worker], left.after, expected=KEPT_BY_DESIGN)
    assert not found, "\n".join(found)


def test_nothing_is_left_in_the_cluster(cluster: Cluster, kubectl: Kubectl, left: Left) -> None:
    """Node, record, document, bootstrap token and pods of the worker are gone."""
    assert kubectl("get", "node", left.worker, check=False).failed
    ours = kubectl.within(NAMESPACE)("get", "configmaps,secrets", "--output=name").stdout.split()
    assert [name for name in ours if name.endswith(f"-{left.worker}")] == []
    tokens = kubectl.within("kube-system").json("get", "secrets")["items"]
    assert [t["metadata"]["name"] for t in tokens if t["type"] == "bootstrap.kubernetes.io/token"] == []
    on_it = f"--field-selector=spec.nodeName={left.worker}"
    wait_for(
        lambda: not kubectl.json("get", "pods", "--all-namespaces", on_it)["items"],
        whole.PATIENCE,
        "pods of the worker are gone",
    )


def test_other_nodes_go_on(cluster: Cluster, echo: Kubectl, left: Left) -> None:
    """A Service no longer leads to the worker that left; no request of the others is lost."""
    others = [node for node in cluster.nodes if node != left.worker]
    url = f"http://{echo.json('get', 'service', 'echo')['spec']['clusterIP']}/"
    servers = pods_by_node(echo, "echo")
    assert set(servers) == set(others)
    names = {server.name for server in servers.values()}

    def none_is_lost(shell: str) -> bool:
        replies = from_pod(echo, shell, [url] * 20)
        assert {reply.server for reply in replies} == names, replies
        return True

    for node in others:
        shell = pods_by_node(echo, "shell")[node].name
        # Its kube-proxy learns a moment later that the worker's pod is gone.
        wait_for(lambda shell=shell: none_is_lost(shell), whole.PATIENCE, f"the Service from {node}")  # type: ignore[misc]


def test_its_credential_is_worth_nothing(cluster: Cluster, kubectl: Kubectl, left: Left) -> None:
    """Whoever kept the disk gets no Node, no Secret, no pod, and no certificate."""
    node = f"/api/v1/nodes/{left.worker}"
    other = f"/api/v1/nodes/{cluster.workers[0]}/status"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": left.worker}}
    with _as_node(cluster, left.credential) as api:
        assert _refused(lambda: api.get(left.secret)) == FORBIDDEN
        assert _refused(lambda: api.list("/api/v1/namespaces/zoo/secrets")) == FORBIDDEN
        assert _refused(lambda: api.create("/api/v1/nodes", body)) == FORBIDDEN
        assert _refused(lambda: api.get(node)) in (FORBIDDEN, NOT_FOUND)
        assert _refused(lambda: api.merge(node, {"metadata": {}}, subresource="status")) in (
            FORBIDDEN,
            NOT_FOUND,
        )
        assert _refused(lambda: api.merge(other, {"status": {"phase": "x"}})) == FORBIDDEN
        assert _refused(lambda: api.list(f"/api/v1/namespaces/{NAMESPACE}/configmaps")) == FORBIDDEN
        for request in (
            _request(left.worker, "kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
            _request(
                left.worker, "kubernetes.io/kubelet-serving", "server auth", cluster.address(left.worker)
            ),
        ):
            name = api.create(REQUESTS, request)["metadata"]["name"]
            wait_for(lambda name=name: _denied(kubectl, name), whole.PATIENCE, f"{name} to be denied")  # type: ignore[misc]


def test_it_may_come_back(cluster: Cluster, kubectl: Kubectl, echo: Kubectl, left: Left) -> None:
    """One apply makes it a node again, with a new identity, and nothing is left to change."""
    story = Accident(f"{left.worker} again")
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    story.tell("applied")
    story.node_is_back(kubectl, left.worker)
    _load_images(cluster, echo, left.worker)
    network_works(cluster, echo)
    nothing_to_apply(cluster)


def test_a_reset_while_the_api_is_down(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, untouched: dict[str, Inventory]
) -> None:
    """The machine is cleaned all the same; the next plan says that the Node goes, and apply brings it back as new."""
    worker, plane = cluster.workers[-1], cluster.control_plane
    cluster.run(plane, "systemctl stop freehold-agent kube-apiserver", timeout=whole.PATIENCE)
    try:
        answer = cluster.freehold("reset", "--machine", worker, "--yes")
    finally:
        cluster.run(plane, "systemctl start kube-apiserver freehold-agent", timeout=whole.PATIENCE)
    assert answer.code == 0, str(answer)
    assert "the next apply removes the Nodes" in answer.stderr
    found = differences(untouched[worker], inventory_of(cluster.lab, worker), expected=KEPT_BY_DESIGN)
    assert not found, "\n".join(found)
    wait_for(lambda: _old_node(kubectl, worker), whole.PATIENCE, "the API answers")
    old = _old_node(kubectl, worker)
    plan = cluster.freehold("plan", "--output", "json")
    planned = [(change["key"], change["action"]) for change in plan.json["objects"]]
    assert (f"object:Node {worker}", "delete") in planned, planned
    applied = cluster.freehold("apply", "--yes")
    assert applied.code == 0, str(applied)
    assert _old_node(kubectl, worker) != old, "another Node of that name"
    _load_images(cluster, echo, worker)
    network_works(cluster, echo)
    nothing_to_apply(cluster)


@contextlib.contextmanager
def _as_node(cluster: Cluster, credential: Path) -> Iterator[KubernetesApi]:
    """Yield a client with a node's own certificate and key."""
    ca = PkiDirectory(str(cluster.state / "pki")).ca_pem()
    server = f"https://{cluster.address(cluster.control_plane)}:6443"
    with contextlib.closing(KubernetesApi(server, ca_pem=ca, client_certificate=str(credential))) as api:
        yield api


def _load_images(cluster: Cluster, echo: Kubectl, worker: str) -> None:
    """Give the node the test images, and its pods a new start: those that missed one wait longer each time."""
    cluster.load_images()
    echo("delete", "pods", f"--field-selector=spec.nodeName={worker}", "--wait=false")


def _refused(call: Any) -> int:
    """Return the status with which a call is refused; AssertionError when it is not."""
    try:
        answer = call()
    except ApiError as error:
        return error.status
    raise AssertionError(f"that was allowed: {str(answer)[:300]}")


def _request(node: str, signer: str, usage: str, address: str = "") -> dict[str, Any]:
    content = a_request(f"system:node:{node}", sans=[address] if address else ())
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-stolen-"},
        "spec": {
            "request": base64.b64encode(content).decode(),
            "signerName": signer,
            "usages": ["digital signature", usage],
        },
    }


def _denied(kubectl: Kubectl, name: str) -> bool:
    status = kubectl.json("get", "csr", name).get("status", {})
    conditions = {condition["type"] for condition in status.get("conditions", ())}
    if "Approved" in conditions or status.get("certificate"):
        raise KubectlError(f"{name} was approved")
    return "Denied" in conditions


def _old_node(kubectl: Kubectl, name: str) -> str:
    """Return the UID of the Node."""
    answer = kubectl("get", "node", name, "--output=json", "--request-timeout=5s", check=False)
    assert not answer.failed, answer.stderr
    return str(answer.json["metadata"]["uid"])
