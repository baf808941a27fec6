"""What is written down about joins: everything that an audit asks for, and no secret; runs after all the others."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import Machine, next_key, outcome

from freehold_agent.contract import paths
from freehold_bootstrap.identities import NAMESPACE

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def refused(plane: ControlPlane) -> Machine:
    """A machine that joined, whose token a thief tried, and whose bootstrap token another key tried."""
    machine = Machine.invited(plane, "noted").joined()
    assert replace(machine, claim="thief").ask("/v1/join").status == 403
    assert outcome(plane, machine.first_request(next_key())) == (judged.DENIED, "TokenSpent")
    return machine


def events(plane: ControlPlane) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = plane.admin.list("/api/v1/events")["items"]
    return items


def test_use_refusal_and_issue_are_events(plane: ControlPlane, refused: Machine) -> None:
    """An Event and a journal line tell of each token used or refused and each certificate issued or denied."""
    token = refused.token.split(".")[1]
    wanted = {"TokenUsed", "JoinRefused", "CredentialIssued", "NodeJoins", "TokenSpent"}
    for _ in plane.attempts():  # the Event comes after the verdict
        ours = [
            event for event in events(plane) if token in json.dumps(event) or of_node(plane, event, refused)
        ]
        if wanted <= {str(event["reason"]) for event in ours}:
            break
    journal = plane.programs["freehold-join"].said()
    assert all(f'reason="{reason}" token="{token}"' in journal for reason in ("TokenUsed", "JoinRefused"))
    # Controllers come and go in other tests.
    controllers = "".join(file.read_text() for file in plane.directory.glob("freehold-controller*.log"))
    assert f'node="{refused.node}"' in controllers


def of_node(plane: ControlPlane, event: dict[str, Any], machine: Machine) -> bool:
    """Tell whether an Event is about a request by the machine's bootstrap token."""
    request = plane.requests.get(str(event["involvedObject"].get("name"))) or {}
    requester = str(request.get("spec", {}).get("username"))
    return requester == "system:bootstrap:" + machine.bootstrap.split(".")[0]


def places(plane: ControlPlane) -> Iterator[tuple[str, bytes]]:
    """Return what others than the owner of a secret may come to see: (what, content)."""
    for file in plane.directory.glob("*.log"):
        yield file.name, file.read_bytes()
    yield "audit log", (plane.root / "var/log/kubernetes/audit.log").read_bytes()
    for name, program in plane.programs.items():
        if program.running:
            for what in ("cmdline", "environ"):
                yield f"{what} of {name}", Path(f"/proc/{program.pid}/{what}").read_bytes()
    for folder in (paths.UNITS, paths.ETC):
        for file in (plane.root / folder[1:]).rglob("*"):
            if file.is_file() and file.suffix in (".json", ".service"):
                yield file.name, file.read_bytes()
    records = f"/api/v1/namespaces/{NAMESPACE}"
    for path in ("/api/v1/events", f"{records}/configmaps", f"{records}/secrets", "/api/v1/nodes"):
        yield path, json.dumps(plane.admin.list(path)).encode()
    yield "requests for certificates", plane.requests.everything().encode()
    # Bootstrap tokens lie in Secrets, and those are encrypted before they reach the data store.
    for file in (plane.root / paths.ETCD_STATE[1:]).rglob("*"):
        if file.is_file():
            yield file.name, file.read_bytes()


def test_no_secret_is_written_down(plane: ControlPlane, refused: Machine) -> None:
    """No token's secret and no private key stands in a journal, an Event, an object, a command line or the store."""
    secrets = {secret for secret in plane.secrets if secret}
    assert min(map(len, secrets)) >= 16
    assert len(secrets) > 4
    found = [
        (what, secret[:4] + "...")
        for what, content in places(plane)
        for secret in secrets
        if secret.encode() in content
    ]
    assert found == []


def test_the_search_would_find_one(plane: ControlPlane, refused: Machine) -> None:
    """The ids of the same tokens, which are no secret, are found there: the search looks at the right places."""
    token, bootstrap = refused.token.split(".")[1], refused.bootstrap.split(".")[0]
    found = {what for what, content in places(plane) if token.encode() in content}
    assert {
        "freehold-join.log",
        "audit log",
        "/api/v1/events",
        f"/api/v1/namespaces/{NAMESPACE}/secrets",
    } <= found
    assert "requests for certificates" in {
        what for what, content in places(plane) if bootstrap.encode() in content
    }
    assert any(what == "db" and token.encode() in content for what, content in places(plane)), (
        "etcd holds its name"
    )
