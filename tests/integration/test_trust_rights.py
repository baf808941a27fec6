"""Rights, asked for one by one with real credentials: what each program, token and node gets beyond its job is 403."""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import (
    REQUESTS,
    Machine,
    create_request,
    eventually,
    next_key,
    now,
    request_object,
    status_of,
)

from freehold_agent.contract import paths
from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap import tokens
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.tokens import BOOTSTRAP_TOKENS, JOIN_TOKENS
from freehold_installer.bundle.store import Store
from freehold_installer.phases import trust

pytestmark = pytest.mark.bundle

GOLDEN = Path(__file__).parents[1] / "e2e" / "golden" / "system-nodes-can-i.txt"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ELSEWHERE = "/api/v1/namespaces/default"
SYSTEM = "/api/v1/namespaces/kube-system"
NODES = "/api/v1/nodes"
RECORDS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
FORBIDDEN, UNAUTHORIZED, OK = 403, 401, 200

Asked = tuple[str, str, Any]
"""Method, path, body."""


def secret(name: str, kind: str = "Opaque", **data: str) -> dict[str, Any]:
    encoded = {
        key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()
    }
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": encoded}


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "x.invalid/y:1"}]
    body = {"nodeName": node, "containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def forbidden(api: KubernetesApi, *asked: Asked) -> None:
    """Fail unless each of these is refused with 403."""
    answers = [(status_of(api, method, path, body), method, path, body) for method, path, body in asked]
    assert [answer for answer in answers if answer[0] != FORBIDDEN] == []


@pytest.fixture(scope="module")
def precious(plane: ControlPlane) -> Iterator[str]:
    """A Secret of a component, in the namespace where bootstrap tokens lie too; its name."""
    plane.admin.create(f"{SYSTEM}/secrets", secret("precious", password="swordfish"))
    plane.admin.create(f"{ELSEWHERE}/secrets", secret("precious", password="swordfish"))
    yield "precious"
    for place in (SYSTEM, ELSEWHERE):
        plane.admin.delete(f"{place}/secrets/precious")


@pytest.fixture(scope="module")
def member(plane: ControlPlane) -> Machine:
    """A node that has joined."""
    return judged.with_certificate(plane)


@pytest.fixture(scope="module")
def pending(plane: ControlPlane) -> str:
    """A request of a signer that is not ours, and nobody has judged yet; its name."""
    pem = Machine(plane, "someone").client_pem(next_key())
    return create_request(plane.admin, pem, signer="example.com/mine")


def approval(plane: ControlPlane, name: str) -> dict[str, Any]:
    """Return a request as approved by whoever sends it."""
    body = plane.admin.get(f"{REQUESTS}/{name}")
    condition = {"type": "Approved", "status": "True", "reason": "Mine", "message": ""}
    body["status"] = {"conditions": [condition]}
    return body


def of_everybody(plane: ControlPlane, pending: str) -> list[Asked]:
    """Return what no program of ours, no node and no token may do."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [],
    }
    account = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    asked: list[Asked] = [
        ("GET", f"{SYSTEM}/secrets", None),
        ("GET", "/api/v1/secrets", None),
        ("GET", f"{ELSEWHERE}/secrets/precious", None),
        ("GET", f"{SYSTEM}/configmaps", None),
        ("POST", f"{RBAC}/clusterrolebindings", binding),
        ("PATCH", f"{RBAC}/clusterroles/freehold:node", {"rules": []}),
        ("GET", f"{RBAC}/clusterroles", None),
        ("POST", f"{SYSTEM}/serviceaccounts/clusterrole-aggregation-controller/token", account),
        ("PUT", f"{REQUESTS}/{pending}/approval", approval(plane, pending)),
        ("PUT", f"{REQUESTS}/{pending}/status", approval(plane, pending)),
        ("DELETE", f"{REQUESTS}/{pending}", None),
        ("DELETE", f"{NODES}/nobody", None),
        ("DELETE", f"{NODES}", None),
        ("DELETE", f"{SYSTEM}/secrets", None),
        ("DELETE", f"{SYSTEM}/secrets/precious", None),
        ("POST", f"{SYSTEM}/secrets", secret("mine")),
        ("POST", f"{ELSEWHERE}/secrets", secret("mine")),
        ("POST", f"{ELSEWHERE}/pods", pod("mine", "cp1")),
        ("GET", "/apis/storage.k8s.io/v1/volumeattachments", None),
        (
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/freehold-nodes-are-admitted",
            None,
        ),
        ("GET", "/metrics", None),
        ("GET", "/logs/", None),
    ]
    return asked


def opened_by(pid: int) -> Iterator[str]:
    """Yield what a process holds open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that ended just now
            yield os.readlink(link)


def test_the_join_service_does_its_job_only(plane: ControlPlane, precious: str, pending: str) -> None:
    """Whoever takes over the network-facing join service approves nothing, reads no Secret, removes no Node."""
    api = plane.api(plane.pair_of("freehold-join-client"))
    forbidden(
        api,
        *of_everybody(plane, pending),
        ("GET", "/api/v1/persistentvolumes", None),
        ("GET", f"{SYSTEM}/secrets/{precious}", None),
        ("PUT", f"{SYSTEM}/secrets/{precious}", secret(precious)),
        ("PATCH", f"{SYSTEM}/secrets/{precious}", {"data": {}}),
        ("GET", REQUESTS, None),
        ("POST", REQUESTS, request_object(Machine(plane, "x").client_pem(next_key()))),
        ("DELETE", f"{RECORDS}/cluster-settings", None),
        ("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases", None),
    )


def test_the_join_service_makes_tokens_of_one_kind_only(plane: ControlPlane) -> None:
    """A bootstrap token of another group, or one that signs, is refused by policy: it would skip our approver."""
    api = plane.api(plane.pair_of("freehold-join-client"))
    kind = tokens.BOOTSTRAP_TOKEN_TYPE
    asked: list[Asked] = [
        ("POST", BOOTSTRAP_TOKENS, secret("bootstrap-token-aaaaaa", kind, auth_extra_groups=group, **more))
        for group, more in (
            ("system:bootstrappers:kubeadm:default-node-token", {}),
            ("system:bootstrappers:freehold,system:bootstrappers:other", {}),
            ("system:masters", {}),
            ("system:bootstrappers:freehold", {"usage_bootstrap_signing": "true"}),
        )
    ]
    forbidden(
        api, *asked, ("POST", BOOTSTRAP_TOKENS, secret("bootstrap-token-aaaaaa", kind, token_id="aaaaaa"))
    )


def test_the_controller_does_its_job_only(plane: ControlPlane, precious: str, pending: str) -> None:
    """The controller approves requests of two signers, and makes neither Nodes nor tokens nor certificates."""
    api = plane.api(plane.pair_of("freehold-controller"))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mine"}}
    forbidden(
        api,
        *of_everybody(plane, pending),
        (
            "PUT",
            f"{SYSTEM}/secrets/{precious}",
            {**plane.admin.get(f"{SYSTEM}/secrets/{precious}"), "data": {}},
        ),
        ("POST", NODES, node),
        ("PATCH", f"{NODES}/x", {"metadata": {"labels": {"a": "b"}}}),
        ("GET", JOIN_TOKENS, None),
        ("GET", f"{JOIN_TOKENS}/join-token-aaaaaaaaaa", None),
        ("POST", JOIN_TOKENS, secret("mine", tokens.JOIN_TOKEN_TYPE)),
        ("POST", REQUESTS, request_object(Machine(plane, "x").client_pem(next_key()))),
        ("DELETE", f"{RECORDS}/cluster-settings", None),
    )


def test_no_service_is_told_where_the_signing_key_is(plane: ControlPlane) -> None:
    """Neither command line nor configuration of a service names a file of the CA's key; only its owner may read it."""
    for program in ("freehold-join", "freehold-controller"):
        command = Path(f"/proc/{plane.programs[program].pid}/cmdline").read_text().split("\0")
        config = Path(command[command.index("--config") + 1]).read_text()
        assert "ca.key" not in " ".join([*command, config, *opened_by(plane.programs[program].pid)])
    key = plane.root / paths.PKI[1:] / "ca.key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_node_does_its_job_only(plane: ControlPlane, member: Machine, precious: str, pending: str) -> None:
    """A worker's root makes and changes no other Node, gets no role, reads no foreign Secret, approves nothing."""
    other = judged.with_certificate(plane)
    api = member.api()
    own, others = f"{NODES}/{member.node}", f"{NODES}/{other.node}"
    mirror = pod("mirror", other.node)
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    taint = [{"key": "mine", "value": "", "effect": "NoSchedule"}]
    asked: list[Asked] = [
        ("GET", others, None),
        ("GET", "/api/v1/persistentvolumes", None),
        ("PATCH", others, {"metadata": {"annotations": {"a": "b"}}}),
        ("PATCH", f"{others}/status", {"metadata": {"annotations": {"a": "b"}}}),
        ("DELETE", others, None),
        ("DELETE", own, None),
        ("PATCH", own, {"spec": {"taints": taint}}),
        ("POST", f"{ELSEWHERE}/pods", mirror),
        ("GET", f"{SYSTEM}/secrets/{precious}", None),
        ("GET", JOIN_TOKENS, None),
        ("GET", RECORDS, None),
        ("GET", f"{RECORDS}/node-{member.node}", None),
        ("GET", f"{RECORDS}/document-{member.node}", None),
        ("GET", f"{RECORDS}/cluster-settings", None),
        ("PATCH", f"{RECORDS}/node-{member.node}", {"data": {}}),
        ("POST", BOOTSTRAP_TOKENS, tokens.mint_bootstrap(member.node, "", "", now())[1]),
        ("POST", JOIN_TOKENS, tokens.mint(member.node, now())[1].to_object()),
    ]
    asked += [
        ("POST", NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        for name in (member.node, other.node, "ghost")
    ]
    asked += [
        ("PATCH", own, {"metadata": {"labels": {label: ""}}})
        for label in (
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/worker2",
            "node-restriction.kubernetes.io/safe",
        )
    ]
    forbidden(api, *of_everybody(plane, pending), *asked)
    assert status_of(api, "GET", own) == OK, "the credential itself works"


def test_a_node_may_not_register_itself(member: Machine) -> None:
    """The refusal to make a Node has the reason Forbidden: with any other a kubelet would never look for its own."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": member.node}}
    status, answer = member.api().raw("POST", NODES, json.dumps(body).encode())
    assert status == FORBIDDEN
    assert b'"reason":"Forbidden"' in answer.replace(b" ", b"")


def test_a_node_asks_for_kubelet_certificates_only(plane: ControlPlane, member: Machine) -> None:
    """A node cannot even ask another signer; neither can a bootstrap token."""
    machine = judged.admitted(plane)
    for api, asking in ((member.api(), member), (plane.api(token=machine.bootstrap), machine)):
        for _ in plane.attempts():
            if status_of(api, "GET", REQUESTS) != UNAUTHORIZED:
                break
        pem = asking.client_pem(next_key())
        for signer in (
            "kubernetes.io/kube-apiserver-client",
            "example.com/mine",
        ):
            assert status_of(api, "POST", REQUESTS, request_object(pem, signer)) == FORBIDDEN, signer


def test_a_bootstrap_token_asks_for_one_certificate_only(
    plane: ControlPlane, precious: str, pending: str
) -> None:
    """Whoever steals a bootstrap token reads nothing but requests for certificates, and writes nothing else."""
    machine = judged.admitted(plane)
    api = plane.api(token=machine.bootstrap)
    eventually(plane, api, OK, "GET", REQUESTS)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": machine.node}}
    forbidden(
        api,
        *of_everybody(plane, pending),
        ("GET", NODES, None),
        ("GET", f"{NODES}/{machine.node}", None),
        ("POST", NODES, node),
        ("PATCH", f"{NODES}/{machine.node}", {"metadata": {"labels": {"a": "b"}}}),
        ("GET", f"{BOOTSTRAP_TOKENS}/bootstrap-token-{machine.bootstrap.split('.')[0]}", None),
        ("GET", f"{RECORDS}/node-{machine.node}", None),
        ("GET", JOIN_TOKENS, None),
        ("GET", "/api/v1/services", None),
        ("GET", "/api/v1/pods", None),
        ("GET", "/api/v1/persistentvolumes", None),
        ("GET", "/api/v1/namespaces/kube-public/configmaps/cluster-info", None),
    )


def test_an_expired_or_deleted_bootstrap_token_is_none(plane: ControlPlane) -> None:
    """After its time, or once the node has finished its join, the API server does not know the token."""
    late, gone = judged.admitted(plane), judged.admitted(plane)
    past = base64.b64encode(b"2020-01-01T00:00:00Z").decode()
    path = f"{BOOTSTRAP_TOKENS}/bootstrap-token-"
    plane.admin.merge(path + late.bootstrap.split(".")[0], {"data": {"expiration": past}})
    plane.admin.delete(path + gone.bootstrap.split(".")[0])
    for machine in (late, gone):
        eventually(plane, plane.api(token=machine.bootstrap), UNAUTHORIZED, "GET", REQUESTS)
    wrong = late.bootstrap.split(".")[0] + "." + "a" * 16
    assert status_of(plane.api(token=wrong), "GET", REQUESTS) == UNAUTHORIZED


def test_a_join_token_is_nothing_at_the_api_server(plane: ControlPlane) -> None:
    """Our own tokens open nothing but the join service."""
    machine = Machine.invited(plane)
    for path in (NODES, REQUESTS, "/version"):
        assert status_of(plane.api(token=machine.token), "GET", path) == UNAUTHORIZED


def test_without_a_credential_only_health_is_told(plane: ControlPlane) -> None:
    """No cluster-info and no anonymous read exists."""
    nobody = plane.api()
    assert status_of(nobody, "GET", "/readyz") == OK
    for path in (
        "/",
        "/version",
        "/api",
        "/metrics",
        NODES,
        "/api/v1/namespaces/kube-public/configmaps/cluster-info",
    ):
        assert status_of(nobody, "GET", path) == UNAUTHORIZED, path


def test_the_rights_of_nodes_are_the_golden_ones(plane: ControlPlane) -> None:
    """`kubectl auth can-i --list` for a node says what the golden file says, neither more nor less."""
    config = plane.directory / "admin.conf"
    config.touch(mode=0o600)
    config.write_text(yaml.safe_dump(plane.pki.kubeconfig("loopback", plane.server, trust.ADMIN)))
    kubectl = str(Store().path(plane.state.manifest.entry("bin/kubectl").sha256))
    command = [kubectl, "--kubeconfig", str(config), "auth", "can-i", "--list", "--no-headers"]
    identity = ["--as=system:node:x", "--as-group=system:nodes"]
    done = subprocess.run([*command, *identity], check=True, capture_output=True, text=True, timeout=120)
    lines = {" ".join(line.split()) for line in done.stdout.splitlines()}
    expected = [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(expected)
