"""A node that was removed: its certificate is valid for days, and gets nothing (property 10 of the design)."""

from typing import Any

import pytest
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import (
    Machine,
    ask,
    create_request,
    eventually,
    next_key,
    outcome,
    serving_request,
    status_of,
)

from freehold_bootstrap import node_record

pytestmark = pytest.mark.bundle

NODES = "/api/v1/nodes"
PLACE = "/api/v1/namespaces/removed"
FORBIDDEN, NOT_FOUND, GONE, OK, CREATED = 403, 404, 410, 200, 201


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def token_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Return a request for a token of the pod's account, as a kubelet makes it."""
    reference = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"boundObjectRef": reference, "expirationSeconds": 3600, "audiences": []},
    }


@pytest.fixture
def at_work(plane: ControlPlane) -> tuple[Machine, dict[str, Any]]:
    """A live node with a pod that uses a Secret and has an account; what a kubelet may, it may."""
    machine = judged.with_certificate(plane)
    machine.goes_live()
    api = plane.admin
    if status_of(api, "GET", PLACE) == NOT_FOUND:
        api.create(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "removed"}}
        )
    for _ in plane.attempts():
        if status_of(api, "GET", f"{PLACE}/serviceaccounts/default") == OK:
            break
    name = machine.node
    api.create(
        f"{PLACE}/secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {"password": "swordfish"},
        },
    )
    pod = api.create(
        f"{PLACE}/pods",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeName": name,
                "containers": [{"name": "main", "image": "x.invalid/y:1"}],
                "volumes": [{"name": "password", "secret": {"secretName": name}}],
            },
        },
    )
    kubelet = machine.api()
    eventually(plane, kubelet, OK, "GET", f"{PLACE}/secrets/{name}")
    account = f"{PLACE}/serviceaccounts/default/token"
    assert status_of(kubelet, "POST", account, token_of(pod)) == CREATED
    assert machine.document().node == name
    return machine, pod


def removed(plane: ControlPlane, machine: Machine) -> None:
    """Remove a node as `kubectl delete node` does, and its pods at once, as a removal must."""
    plane.admin.delete(f"{PLACE}/pods/{machine.node}?gracePeriodSeconds=0")
    plane.admin.delete(f"{NODES}/{machine.node}")


def test_a_removed_node_gets_nothing(plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]) -> None:
    """With the certificate of a removed node no Node, Pod, certificate or token is to be had, and no Secret read."""
    machine, pod = at_work
    removed(plane, machine)
    api, name = machine.api(), machine.node
    eventually(plane, api, FORBIDDEN, "GET", f"{PLACE}/secrets/{name}")
    mirror = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "mirror", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": name, "containers": [{"name": "main", "image": "x.invalid/y:1"}]},
    }
    asked: list[tuple[str, str, Any]] = [
        ("POST", NODES, node(name)),
        ("POST", NODES, node("another")),
        ("GET", f"{NODES}/{name}", None),
        ("PATCH", f"{NODES}/{name}", {"metadata": {"labels": {"a": "b"}}}),
        ("PATCH", f"{NODES}/{name}/status", {"status": {"nodeInfo": {"kubeletVersion": "v1"}}}),
        ("POST", f"{PLACE}/pods", mirror),
        ("GET", f"{PLACE}/pods/{name}", None),
        ("GET", f"{PLACE}/pods", None),
        ("POST", f"{PLACE}/serviceaccounts/default/token", token_of(pod)),
    ]
    answers = [(status_of(api, *question), question) for question in asked]
    assert [answer for answer in answers if answer[0] not in (FORBIDDEN, NOT_FOUND)] == []
    requests = [create_request(api, machine.client_pem(next_key())), serving_request(machine)]
    assert {outcome(plane, request) for request in requests} == {(judged.DENIED, "NodeRemoved")}


def test_a_removed_node_is_told_so_by_the_join_service(
    plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]
) -> None:
    """Document and end of join of a removed node are 410, from the moment its Node is gone."""
    machine, _ = at_work
    removed(plane, machine)
    for method, path in (("GET", f"/v1/document/{machine.node}"), ("POST", "/v1/finish")):
        body = b"" if method == "POST" else None
        answer = ask(plane, method, path, body, certificate=machine.credential)
        assert (answer.status, answer.reason) == (GONE, "node-removed")


def test_a_namesake_that_nobody_admitted_helps_it_nothing(
    plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]
) -> None:
    """If somebody makes the Node again by hand, the old certificate renews nothing and gets no serving one."""
    machine, _ = at_work
    removed(plane, machine)
    plane.admin.create(NODES, node(machine.node))
    requests = [create_request(machine.api(), machine.client_pem(next_key())), serving_request(machine)]
    assert {outcome(plane, request) for request in requests} == {(judged.DENIED, "NodeRemoved")}


def test_the_old_disk_of_a_name_that_joined_again(
    plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]
) -> None:
    """When another machine has joined under the name, the old certificate renews nothing: it ends within a week."""
    machine, _ = at_work
    removed(plane, machine)
    successor = Machine.invited(plane, node=machine.node).joined()
    successor.goes_live()
    requests = [create_request(machine.api(), machine.client_pem(next_key())), serving_request(machine)]
    reasons = [outcome(plane, request) for request in requests]
    assert reasons[0] == (judged.DENIED, "CertificateSuperseded")
    assert reasons[1][0] == judged.DENIED
    good = [create_request(successor.api(), successor.client_pem(next_key())), serving_request(successor)]
    assert [outcome(plane, request)[0] for request in good] == [judged.APPROVED, judged.APPROVED]
    # A certificate as young as this one may just not be known yet; later it is 410.
    assert ask(plane, "GET", "/v1/document/" + machine.node, certificate=machine.credential).status in (
        503,
        GONE,
    )
    assert successor.document().node == machine.node


def test_its_record_stays_unreadable(plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]) -> None:
    """What the control plane knows of a node is no business of the node, before and after."""
    machine, _ = at_work
    path = node_record.record_path(machine.node)
    assert status_of(machine.api(), "GET", path) == FORBIDDEN
    removed(plane, machine)
    assert status_of(machine.api(), "GET", path) == FORBIDDEN


def test_a_removal_has_to_delete_the_pods_too(
    plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]
) -> None:
    """While its pods are listed (a minute when nobody deletes them) a removed node still reads what they use."""
    machine, pod = at_work
    plane.admin.delete(f"{NODES}/{machine.node}")
    api, own = machine.api(), f"{PLACE}/secrets/{machine.node}"
    assert status_of(api, "GET", own) == OK, "Kubernetes looks at pods alone: see `removed` for what helps"
    plane.admin.delete(f"{PLACE}/pods/{machine.node}?gracePeriodSeconds=0")
    eventually(plane, api, FORBIDDEN, "GET", own)
    assert status_of(api, "POST", f"{PLACE}/serviceaccounts/default/token", token_of(pod)) == FORBIDDEN


def test_what_a_removed_node_still_reads(
    plane: ControlPlane, at_work: tuple[Machine, dict[str, Any]]
) -> None:
    """Until its certificate ends it may list what every node may, and that holds no secret; this is all."""
    machine, _ = at_work
    removed(plane, machine)
    lists = ("/api/v1/nodes", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices",
             "/apis/networking.k8s.io/v1/servicecidrs", "/api/v1/pods", "/api/v1/secrets", "/api/v1/configmaps",
             "/api/v1/persistentvolumes", "/api/v1/persistentvolumeclaims", "/api/v1/namespaces",
             "/api/v1/serviceaccounts", "/api/v1/events", "/apis/storage.k8s.io/v1/csinodes",
             "/apis/coordination.k8s.io/v1/leases")  # fmt: skip
    readable = {path.rpartition("/")[2] for path in lists if status_of(machine.api(), "GET", path) == OK}
    assert readable == {"nodes", "services", "endpointslices", "servicecidrs"}
