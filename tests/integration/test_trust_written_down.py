"""What is written down about joins: everything that an audit asks for, and no secret; runs after all the others."""

import json
import subprocess
from collections.abc import Iterable
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


def written(plane: ControlPlane, seen: Path) -> list[Path]:
    """Return files with all that others than the owner of a secret may come to see, and the raw data store."""
    texts: dict[str, bytes] = {"requests": plane.requests.everything().encode()}
    records = f"/api/v1/namespaces/{NAMESPACE}"
    for path in ("/api/v1/events", f"{records}/configmaps", f"{records}/secrets", "/api/v1/nodes"):
        texts[path.rpartition("/")[2]] = json.dumps(plane.admin.list(path)).encode()
    for name, program in plane.programs.items():
        if program.running:
            for what in ("cmdline", "environ"):
                texts[f"{what}-{name}"] = Path(f"/proc/{program.pid}/{what}").read_bytes()
    for name, content in texts.items():
        (seen / name).write_bytes(content)
    configured = [
        file
        for folder in (paths.UNITS, paths.ETC)
        for file in (plane.root / folder[1:]).rglob("*")
        if file.suffix in (".json", ".service")
    ]
    # Bootstrap tokens lie in Secrets, and those are encrypted before they reach the data store.
    store = [file for file in (plane.root / paths.ETCD_STATE[1:]).rglob("*") if file.is_file()]
    audit = plane.root / "var/log/kubernetes/audit.log"
    return [*(seen / name for name in texts), *plane.directory.glob("*.log"), audit, *configured, *store]


def searched(plane: ControlPlane, seen: Path, wanted: Iterable[str]) -> set[str]:
    """Return the names of those files that hold one of the texts."""
    command = ["grep", "-laF", "-f", "-", *map(str, written(plane, seen))]
    patterns = "".join(text + "\n" for text in wanted)
    done = subprocess.run(command, input=patterns, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    return {Path(line).name for line in done.stdout.splitlines()}


def test_no_secret_is_written_down(plane: ControlPlane, refused: Machine, tmp_path: Path) -> None:
    """No token's secret and no private key stands in a journal, an Event, an object, a command line or the store."""
    secrets = {secret for secret in plane.secrets if secret}
    assert min(map(len, secrets)) >= 16
    assert len(secrets) > 4
    assert searched(plane, tmp_path, secrets) == set()


def test_the_search_would_find_one(plane: ControlPlane, refused: Machine, tmp_path: Path) -> None:
    """The ids of the same tokens, which are no secret, are found there: the search looks at the right places."""
    token, bootstrap = refused.token.split(".")[1], refused.bootstrap.split(".")[0]
    assert {"freehold-join.log", "audit.log", "events", "secrets", "db"} <= searched(plane, tmp_path, [token])
    assert "requests" in searched(plane, tmp_path, [bootstrap])
