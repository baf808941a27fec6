"""The join service of a real control plane, asked by honest machines and by thieves of tokens."""

import json
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import (
    Machine,
    ask,
    issued,
    next_key,
    now,
    outcome,
    serving_request,
    status_of,
)

from freehold_agent.contract.join_document import JoinDocument
from freehold_bootstrap import documents, node_record, tokens
from freehold_bootstrap.join_service.joining import SETTINGS, SETTINGS_KEY

pytestmark = pytest.mark.bundle

NODES = "/api/v1/nodes"
THIEF = "127.0.9.9"
"""Another address of loopback than honest machines come from."""


def refused(answer: object, status: int, reason: str) -> str:
    """Fail unless the answer is this refusal in one plain sentence; return the sentence."""
    assert (answer.status, answer.json.get("reason")) == (status, reason), answer.json  # type: ignore[attr-defined]
    message = str(answer.json["error"])  # type: ignore[attr-defined]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def no_such_node(plane: ControlPlane, name: str) -> bool:
    return status_of(plane.admin, "GET", f"{NODES}/{name}") == 404


def test_a_machine_joins(plane: ControlPlane) -> None:
    """Token, document, bootstrap credential, certificate: then it is a node, and says when it has finished."""
    machine = Machine.invited(
        plane, labels={"zone": "a"}, taints=({"key": "k", "value": "v", "effect": "NoSchedule"},)
    )
    begun = time.monotonic()
    document = machine.join()
    joined = time.monotonic()
    machine.take_credential()
    key = next_key()
    machine.certified(machine.first_request(key), key)
    print(f"join {joined - begun:.2f} s, first certificate {time.monotonic() - begun:.2f} s after the token")
    assert (document.node, document.addresses) == (machine.node, (machine.address,))
    assert document.network.node_pod_cidrs
    assert document.ca_pem == plane.pki.ca_pem()
    made = plane.admin.get(f"{NODES}/{machine.node}")
    assert made["metadata"]["labels"]["zone"] == "a"
    assert made["spec"]["taints"][0]["key"] == "k"
    machine.goes_live()
    name = serving_request(machine)
    served = x509.load_pem_x509_certificate(issued(plane, name))
    assert served.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert ask(plane, "POST", "/v1/finish", b"", certificate=machine.credential).status == 200
    path = tokens.bootstrap_token_path(machine.bootstrap.split(".")[0])
    assert status_of(plane.admin, "GET", path) == 404, "nothing of the join is left"


def test_wrong_tokens(plane: ControlPlane) -> None:
    """A wrong secret and an unknown id look alike; what is no token is said to be none; no Node is made."""
    machine = Machine.invited(plane, source=THIEF)
    version, token_id, _ = machine.token.split(".")
    said = set()
    for token in (".".join([version, token_id, "a" * 52]), ".".join([version, "b" * 10, "a" * 52])):
        said.add(refused(replace(machine, token=token).ask("/v1/join"), 401, "wrong-token"))
    assert len(said) == 1
    for token in ("fh1.x.y", "x", machine.token[:-1], machine.token.upper(), machine.token + ".x"):
        refused(replace(machine, token=token).ask("/v1/join"), 401, "bad-token")
    assert refused(replace(machine, token="").ask("/v1/join"), 401, "no-credential")
    assert no_such_node(plane, machine.node)
    machine.join()


def test_expired_used_foreign_and_other_nodes_tokens(plane: ControlPlane) -> None:
    """Each token that is none for this machine gets its own plain sentence."""
    old = Machine.invited(plane, now=now() - timedelta(minutes=11))
    assert "expired" in refused(old.ask("/v1/join"), 403, "expired")
    other = replace(Machine.invited(plane), node=plane.name("impostor"))
    assert "another node" in refused(other.ask("/v1/join"), 403, "other-node")
    foreign = Machine.invited(plane, cidr="198.51.100.0/24")
    assert foreign.source in refused(foreign.ask("/v1/join"), 403, "source-not-allowed")
    assert all(no_such_node(plane, machine.node) for machine in (old, other, foreign))
    used = Machine.invited(plane)
    used.join()
    assert "another machine" in refused(replace(used, claim="else").ask("/v1/join"), 403, "used")
    # A token of another cluster: it looks right and is known to nobody here.
    stranger, _ = tokens.mint(used.node, now())
    refused(replace(used, token=stranger.reveal(), source=THIEF).ask("/v1/join"), 401, "wrong-token")


def test_a_token_that_was_revoked(plane: ControlPlane) -> None:
    """A token whose Secret was deleted is worth nothing, also in the middle of a join."""
    machine = Machine.invited(plane, source="127.0.9.20")
    machine.join()
    plane.installer.delete(tokens.JOIN_TOKENS + "/" + tokens.join_token_name(machine.token.split(".")[1]))
    refused(machine.ask("/v1/credential"), 401, "wrong-token")


def test_a_recorded_join_is_replayed(plane: ControlPlane) -> None:
    """Token and body of a join, sent again from elsewhere or by who calls itself otherwise, give nothing."""
    machine = Machine.invited(plane)
    machine.join()
    machine.take_credential()
    for thief in (
        replace(machine, source=THIEF),
        replace(machine, claim="somebody else"),
        replace(machine, claim=""),
        replace(machine, claim="somebody else", source=THIEF),
    ):
        for path in ("/v1/join", "/v1/credential"):
            refused(thief.ask(path), 403, "used")
    key = next_key()
    assert machine.certified(machine.first_request(key), key), "the honest machine is not disturbed"


def test_a_thief_of_a_token_that_was_used(plane: ControlPlane) -> None:
    """After its node is live a token yields neither document nor credential, not even to the machine itself."""
    machine = Machine.invited(plane).joined()
    machine.goes_live()
    refused(machine.ask("/v1/credential"), 409, "node-exists")
    refused(replace(machine, source=THIEF, claim="x").ask("/v1/credential"), 403, "used")
    second = Machine.invited(plane, node=machine.node)
    refused(second.ask("/v1/join"), 409, "node-exists")
    refused(second.ask("/v1/credential"), 409, "node-exists")


def test_a_second_certificate_is_not_had_by_asking_twice(plane: ControlPlane) -> None:
    """Once the node's first certificate was approved, its join gives no second one to another key."""
    machine = Machine.invited(plane).joined()
    again = replace(machine, credential="")
    again.take_credential()
    assert outcome(plane, again.first_request(next_key())) == (judged.DENIED, "TokenSpent")
    machine.goes_live()
    refused(again.ask("/v1/credential"), 409, "node-exists")


def test_a_token_for_a_control_plane_or_a_strange_name(plane: ControlPlane) -> None:
    """No token makes a node whose serving certificate would speak for the control plane."""
    for name in ("kubernetes", "kubernetes.default.svc", "localhost", "metrics-server.kube-system.svc"):
        machine = Machine.invited(plane, node=name)
        refused(machine.ask("/v1/join"), 400, "bad-name")
        assert no_such_node(plane, name)
    for name in ("../x", "UPPER", "a b", "x" * 64, "*"):
        refused(Machine.invited(plane, node=name).ask("/v1/join"), 400, "bad-name")


def test_addresses_of_others(plane: ControlPlane) -> None:
    """Neither the address of another node nor one of the control plane can be had with a token."""
    owner = Machine.invited(plane)
    owner.join()
    thief = Machine.invited(plane, addresses=(owner.address,))
    assert owner.node in refused(thief.ask("/v1/join"), 409, "address-in-use")
    both = Machine.invited(plane, addresses=(plane.node_address(), owner.address))
    refused(both.ask("/v1/join"), 409, "address-in-use")
    refused(Machine.invited(plane).ask("/v1/join", addresses=[owner.address]), 403, "address-not-allowed")
    unusable = (
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "not an address",
        "::1",
        "169.254.200.1",
        "10.96.0.1",
        "10.128.0.9",
    )
    for address in unusable:
        refused(Machine.invited(plane, addresses=(address,)).ask("/v1/join"), 400, "bad-address")


def test_addresses_of_a_control_plane(plane: ControlPlane) -> None:
    """The address of a control plane that is no node is not to be had either."""
    settings = plane.settings
    elsewhere = replace(settings, join_endpoints=(*settings.join_endpoints, "https://192.0.2.55:6444"))
    plane.admin.merge(SETTINGS, {"data": {SETTINGS_KEY: json.dumps(elsewhere.to_json())}})
    try:
        thief = Machine.invited(plane, addresses=("192.0.2.55",))
        refused(thief.ask("/v1/join"), 409, "address-in-use")
    finally:
        plane.admin.merge(SETTINGS, {"data": {SETTINGS_KEY: json.dumps(settings.to_json())}})


def test_two_machines_want_one_address_at_the_same_time(plane: ControlPlane) -> None:
    """Of machines that come with the same address at the same time at most one gets it."""
    address = plane.node_address()
    machines = [Machine.invited(plane, addresses=(address,)) for _ in range(8)]
    answers = plane.many(lambda machine: machine.ask("/v1/join"), machines)
    assert [answer.status for answer in answers].count(200) <= 1
    for answer in answers:
        if answer.status != 200:
            refused(answer, 409, "address-in-use")
    holders = [
        record.node
        for machine in machines
        if (record := node_record.read(plane.admin, machine.node)) and address in record.addresses
    ]
    assert len(holders) <= 1, "no two nodes have a serving certificate for it"


def test_one_token_and_many_machines(plane: ControlPlane) -> None:
    """Of many machines that use one token at the same time one joins, the others are told."""
    first = Machine.invited(plane)
    machines = [replace(first, claim=f"machine {number}") for number in range(12)]
    answers = plane.many(lambda machine: machine.ask("/v1/join"), machines)
    assert [answer.status for answer in answers].count(200) == 1
    for answer in answers:
        if answer.status != 200:
            refused(answer, 403, "used")


def test_documents_are_read_by_their_node_only(plane: ControlPlane) -> None:
    """A node reads its own document and no other's; nobody reads one without a node's certificate."""
    own, other = judged.with_certificate(plane), judged.with_certificate(plane)
    mine = "/v1/document/" + own.node
    assert own.document().node == own.node
    refused(ask(plane, "GET", mine, certificate=other.credential), 403, "other-node")
    refused(ask(plane, "GET", mine), 401, "no-credential")
    refused(ask(plane, "GET", mine, token=Machine.invited(plane, node=own.node).token), 401, "no-credential")
    refused(ask(plane, "GET", mine, certificate=plane.pair_of("freehold-controller")), 403, "not-a-node")
    refused(
        ask(plane, "GET", mine, certificate=plane.certificate("system:node:" + own.node, "other")),
        403,
        "not-a-node",
    )
    serving = plane.certificate("system:node:" + own.node, "system:nodes", usage="server")
    with pytest.raises(OSError, match=r"(?i)ssl|reset|broken|closed|EOF"):
        ask(plane, "GET", mine, certificate=serving)


@pytest.mark.parametrize(
    "query",
    [
        "?generation=x",
        "?wait=x",
        "?wait=nan",
        "?generation=1&wait=-1",
        "?generation=" + "9" * 5000,
        "?wait=-inf",
    ],
)
def test_odd_questions_about_documents(plane: ControlPlane, query: str) -> None:
    """Whatever is asked about a document, the answer is a document or a plain refusal, never a fault."""
    machine = judged.with_certificate(plane)
    assert machine.document().node == machine.node
    answer = ask(plane, "GET", f"/v1/document/{machine.node}{query}", certificate=machine.credential)
    assert answer.status in (200, 204, 400), answer.body


def test_a_generation_never_goes_back(plane: ControlPlane) -> None:
    """New settings reach each node's long poll with the next generation; old ones again are another new one."""
    machine = judged.with_certificate(plane)
    seen = [machine.document()]
    settings = plane.settings
    changed = replace(settings, kubelet={"maxPods": 77})
    for wanted in (changed, settings, changed, settings):
        path = f"/v1/document/{machine.node}?generation={seen[-1].generation}&wait=60"
        poll = plane.pool.submit(ask, plane, "GET", path, certificate=machine.credential)
        plane.admin.merge(SETTINGS, {"data": {SETTINGS_KEY: json.dumps(wanted.to_json())}})
        seen.append(JoinDocument.loads(poll.result(120).body))
        assert seen[-1].kubelet == wanted.kubelet
    generations = [document.generation for document in seen]
    assert generations == sorted(set(generations))
    stored = plane.admin.get(documents.document_path(machine.node))
    assert documents.generation_of(stored) == generations[-1]


def test_a_node_that_takes_its_own_place(plane: ControlPlane) -> None:
    """With a token made to replace it, and only so, a live node's name joins again."""
    machine = Machine.invited(plane).joined()
    machine.goes_live()
    successor = Machine.invited(plane, node=machine.node, replace=True, addresses=(machine.address,))
    successor.joined()
    third = replace(successor, claim="else")
    refused(third.ask("/v1/join"), 403, "used")
