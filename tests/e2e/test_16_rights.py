"""Rights: what a worker's own credential cannot do, whoever holds it; and what nobody can without one."""

import base64
from pathlib import Path
from typing import Any

import pytest
from tests.support.api_from_machine import ApiFromMachine
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for

from freehold_bootstrap import identities

GOLDEN = Path(__file__).with_name("golden") / "system-nodes-can-i.txt"
FORBIDDEN, UNAUTHORIZED, OK = 403, 401, 200


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> ApiFromMachine:
    """The API as root of the first worker reaches it, with the kubelet's certificate."""
    api = ApiFromMachine(cluster, cluster.workers[0])
    assert api.get(f"/api/v1/nodes/{api.machine}").status == OK, "the credential itself works"
    return api


@pytest.fixture
def elsewhere(cluster: Cluster, here: Kubectl) -> str:
    """A pod with a Secret on the second worker; the path of the namespace."""
    here("create", "secret", "generic", "password", "--from-literal=password=swordfish")
    here("create", "secret", "generic", "unused", "--from-literal=password=octopus")
    here.apply(*cluster.objects("with-secret", node=cluster.workers[1]))
    here.wait("pod/with-secret", "condition=Ready")
    return f"/api/v1/namespaces/{here.namespace}"


def test_a_node_reads_secrets_of_its_own_pods_only(
    cluster: Cluster, worker: ApiFromMachine, elsewhere: str
) -> None:
    """A Secret is readable on the node whose pod uses it and on no other; nobody lists them."""
    other = ApiFromMachine(cluster, cluster.workers[1])
    assert other.get(f"{elsewhere}/secrets/password").status == OK
    assert worker.get(f"{elsewhere}/secrets/password").status == FORBIDDEN
    assert other.get(f"{elsewhere}/secrets/unused").status == FORBIDDEN
    lists = (f"{elsewhere}/secrets", "/api/v1/secrets", f"{elsewhere}/configmaps", "/api/v1/configmaps")
    assert worker.statuses(lists) == dict.fromkeys(lists, FORBIDDEN)


def test_a_node_touches_no_foreign_pod(worker: ApiFromMachine, cluster: Cluster, elsewhere: str) -> None:
    """A node makes no pods for other nodes, and deletes or changes none of theirs."""
    image = cluster.bundle.image("busybox")
    for node in cluster.workers:
        pod = _pod("intruder", node, image)
        assert worker("POST", f"{elsewhere}/pods", pod).status == FORBIDDEN, node
    mirror = _pod("mirror", cluster.workers[1], image)
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert worker("POST", f"{elsewhere}/pods", mirror).status == FORBIDDEN
    assert worker("DELETE", f"{elsewhere}/pods/with-secret").status == FORBIDDEN
    phase = {"status": {"phase": "Failed"}}
    assert worker.merge(f"{elsewhere}/pods/with-secret/status", phase).status == FORBIDDEN
    assert worker("POST", f"{elsewhere}/pods/with-secret/eviction", {}).status in (FORBIDDEN, 400)


def test_a_node_makes_no_nodes(worker: ApiFromMachine, cluster: Cluster) -> None:
    """A Node is made by admission only: a node creates neither others nor itself, and deletes none."""
    for name in ("ghost", worker.machine):
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        assert worker("POST", "/api/v1/nodes", body).status == FORBIDDEN, name
    for name in cluster.workers:
        assert worker("DELETE", f"/api/v1/nodes/{name}").status == FORBIDDEN, name


def test_a_node_changes_itself_only_and_not_its_role(worker: ApiFromMachine, cluster: Cluster) -> None:
    """A node changes no other Node, and of its own neither role nor restricted labels nor taints."""
    other = f"/api/v1/nodes/{cluster.workers[1]}"
    own = f"/api/v1/nodes/{worker.machine}"
    harmless = {"metadata": {"annotations": {"test.freehold.io/x": "y"}}}
    for path in (other, f"{other}/status"):
        assert worker.merge(path, harmless).status == FORBIDDEN, path
    for label in ("node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/safe"):
        assert worker.merge(own, {"metadata": {"labels": {label: ""}}}).status == FORBIDDEN, label
    taint = [{"key": "mine", "value": "", "effect": "NoSchedule"}]
    assert worker.merge(own, {"spec": {"taints": taint}}).status == FORBIDDEN


def test_a_node_approves_nothing(worker: ApiFromMachine, kubectl: Kubectl) -> None:
    """A node approves no request for a certificate, and asks for none of another signer."""
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    name = kubectl.json("get", "csr")["items"][0]["metadata"]["name"]
    current = kubectl.json("get", "csr", name)
    assert worker("PUT", f"{requests}/{name}/approval", current).status == FORBIDDEN
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "intruder"},
        "spec": {
            "request": current["spec"]["request"],
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    }
    said = worker("POST", requests, body)
    assert said.status == FORBIDDEN
    assert "kubelet certificates only" in said.message


def test_a_node_gets_no_credential_of_others(worker: ApiFromMachine) -> None:
    """A node reads and writes neither tokens, records nor roles, and gets no token of a foreign account."""
    nodes = f"/api/v1/namespaces/{identities.NAMESPACE}"
    foreign = (
        f"{nodes}/configmaps",
        f"{nodes}/configmaps/node-{worker.machine}",
        f"{nodes}/configmaps/cluster-settings",
        f"{nodes}/secrets",
        "/api/v1/namespaces/kube-system/secrets",
        f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{worker.machine}",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    )
    assert worker.statuses(foreign) == dict.fromkeys(foreign, FORBIDDEN)
    token = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "data": {"token-id": base64.b64encode(b"abcdef").decode()},
    }
    assert worker("POST", "/api/v1/namespaces/kube-system/secrets", token).status == FORBIDDEN
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    account = "/api/v1/namespaces/kube-system/serviceaccounts/clusterrole-aggregation-controller/token"
    assert worker("POST", account, wanted).status == FORBIDDEN


def test_a_node_reaches_no_other_kubelet(worker: ApiFromMachine, cluster: Cluster) -> None:
    """A node's credential opens no other kubelet: no commands, no logs, no configuration."""
    credential = worker.credential
    for path in ("pods", "configz", "metrics", "logs/"):
        url = f"https://{cluster.address(cluster.workers[1])}:10250/{path}"
        said = cluster.run(
            worker.machine,
            "curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' "
            f"--cacert /etc/kubernetes/pki/ca.crt --cert {credential} --key {credential} {url}",
        )
        assert said == str(FORBIDDEN), path


def test_the_rights_of_nodes_are_the_golden_ones(kubectl: Kubectl) -> None:
    """What RBAC gives to nodes at a live API server is what the golden file says, neither more nor less."""
    answer = kubectl(
        "auth", "can-i", "--list", "--no-headers", "--as=system:node:x", "--as-group=system:nodes"
    )
    lines = {" ".join(line.split()) for line in answer.stdout.splitlines()}
    expected = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(expected)


def test_without_a_credential(cluster: Cluster) -> None:
    """Without a credential only health is told, from wherever one asks."""
    nobody = ApiFromMachine(cluster, cluster.workers[0], credential="")
    health = ("/readyz", "/livez", "/healthz")
    assert nobody.statuses(health) == dict.fromkeys(health, OK)
    cluster_info = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
    others = (
        "/",
        "/version",
        "/api",
        "/apis",
        "/openapi/v2",
        "/metrics",
        "/readyz/etcd",
        "/api/v1/nodes",
        cluster_info,
    )
    assert nobody.statuses(others) == dict.fromkeys(others, UNAUTHORIZED)


def test_kubelets_refuse_strangers(cluster: Cluster) -> None:
    """A kubelet answers nothing without a credential, and has no read-only port."""
    for node in cluster.nodes:
        url = f"https://{cluster.address(node)}:10250/pods"
        told = "--silent --max-time 30 --output /dev/null --write-out '%{http_code}'"
        said = cluster.run(cluster.workers[0], f"curl {told} --cacert /etc/kubernetes/pki/ca.crt {url}")
        assert said == str(UNAUTHORIZED), node
        plain = cluster.run(
            cluster.workers[0], f"curl {told} http://{cluster.address(node)}:10255/pods || true"
        )
        assert plain == "000", node


def test_an_account_without_rights(here: Kubectl) -> None:
    """A pod's own account may do nothing until somebody allows it."""
    account = f"--as=system:serviceaccount:{here.namespace}:default"
    for verb, resource in (("list", "pods"), ("get", "secrets"), ("create", "deployments")):
        assert here("auth", "can-i", verb, resource, account, check=False).stdout.strip() == "no"
    here("create", "role", "reader", "--verb=get,list", "--resource=pods")
    here("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={here.namespace}:default")

    def allowed() -> bool:
        return here("auth", "can-i", "list", "pods", account, check=False).stdout.strip() == "yes"

    # The authorizer follows roles by a watch: it may hear of a new one after whoever made it.
    wait_for(allowed, 20, "the new right")
    assert here("auth", "can-i", "delete", "pods", account, check=False).stdout.strip() == "no"


def _pod(name: str, node: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": image}]},
    }
