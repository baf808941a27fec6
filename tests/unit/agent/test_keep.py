"""The resident loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.a_node import a_document, lab
from tests.support.kept_node import CHANGE, KeptNode

from freehold_agent import keep
from freehold_agent.contract import paths
from freehold_agent.converge import Summary
from freehold_agent.errors import StepFailed
from freehold_agent.keep import BUSY_PAUSE, INTERVAL, Keeper
from freehold_agent.machine.lock import LockBusyError
from freehold_agent.standing import FILE as STATUS


@pytest.fixture
def node(tmp_path: Path) -> KeptNode:
    return KeptNode(tmp_path)


def test_a_quiet_node_is_silent_and_writes_once(node: KeptNode) -> None:
    """While nothing differs nothing is logged, and no file changes after the first look."""
    node.keeper.round()
    before = node.path(STATUS).stat()
    for _ in range(3):
        assert INTERVAL * 0.8 <= node.keeper.round() <= INTERVAL * 1.2
    after = node.path(STATUS).stat()
    assert node.log == []
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_an_old_document_never_takes_a_control_plane_back(node: KeptNode) -> None:
    """While an apply has moved the control plane's release and not yet this node's document, nothing is put back."""
    newer = {**lab(), "release": "1.99.0-abc"}
    node.host = dataclasses.replace(node.host, facts=lambda: newer)
    node.keeper = Keeper(node.host, lambda level, text: node.log.append((level, text)))
    records = node.path(paths.RECORDS)
    records.mkdir(parents=True)
    content = {
        "version": 1,
        "owner": "control",
        "entries": [{"key": "link:/opt/freehold/current", "before": {}}],
    }
    (records / "control.json").write_text(json.dumps(content))
    assert [node.keeper.round() for _ in range(3)] == [BUSY_PAUSE] * 3
    assert node.looks == 0
    assert [level for level, _ in node.log] == [keep.NOTICE], "said once"
    assert json.loads(node.path(STATUS).read_text())["state"] == "waiting"
    (records / "control.json").unlink()
    node.keeper.round()
    assert node.looks > 0, "on a worker its own document is what moves the release"


def test_a_repair_is_one_line(node: KeptNode) -> None:
    """What was put back stands in the journal and in the status."""
    node.made(CHANGE.key)
    node.changes = (CHANGE,)
    node.keeper.round()
    assert node.log == [(keep.NOTICE, "update: file:/etc/freehold/kubelet.json")]
    assert json.loads(node.path(STATUS).read_text())["repaired"] == [CHANGE.key]


def test_what_was_put_back_beside_a_failure_is_told(node: KeptNode) -> None:
    """The status of a look that failed has it too, but not what this node gets for the first time."""
    node.made(CHANGE.key)

    def converge(_resources: Any, _owner: str, _deliver: Any, progress: Any, _only: Any = None) -> Summary:
        for key in (CHANGE.key, "file:/new"):
            progress({"event": "change", "key": key, "action": "create", "state": "done", "title": "words"})
        raise StepFailed("unit:kubelet.service", "kubelet is failed")

    node.keeper._host = dataclasses.replace(node.host, converge=converge)
    node.keeper.round()
    status = json.loads(node.path(STATUS).read_text())
    assert (status["state"], status["repaired"]) == ("failed", [CHANGE.key])


def test_trouble_beside_the_resources_is_said_once(node: KeptNode) -> None:
    """What no resource shows is a line when it comes, one when it goes, and the status meanwhile; repairs go on."""
    node.trouble = "the certificate expired"
    node.keeper.round()
    assert node.keeper.round() <= INTERVAL * 1.2
    assert node.log == [(keep.ERROR, "the certificate expired")]
    assert node.looks == 2
    status = json.loads(node.path(STATUS).read_text())
    assert (status["state"], status["message"]) == ("failed", "the certificate expired")
    document = node.path(paths.JOIN_DOCUMENT)
    kept = document.read_bytes()
    document.write_bytes(b"damaged")
    node.keeper.round()
    assert "not JSON" in node.log.pop()[1], "which says nothing about the certificate"
    document.write_bytes(kept)
    node.keeper.round()
    assert node.log.pop() == (keep.NOTICE, "this node is as its document says again")
    node.trouble = ""
    node.keeper.round()
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"
    node.trouble = "the certificate expired"
    node.keeper.round()
    assert node.log[1:] == [
        (keep.NOTICE, "gone again: the certificate expired"),
        (keep.ERROR, "the certificate expired"),
    ]


def test_trouble_beside_the_resources_is_told_to_the_cluster(node: KeptNode) -> None:
    """Whoever describes the Node reads of a program that dies, though nothing differs; drift stands beside it."""
    said: list[Any] = []
    node.keeper._report = SimpleNamespace(  # type: ignore[assignment]
        condition=lambda *words: said.append(words),
        event=lambda *words: said.append(words),
        follow=lambda _uid: None,
    )
    node.trouble = "kubelet does not stay up"
    node.keeper.round()
    assert said == [
        ("Warning", "FreeholdTrouble", "kubelet does not stay up"),
        (True, "Trouble", "kubelet does not stay up"),
    ]
    node.path(paths.CNI_CONFIG).mkdir(parents=True)
    node.path(paths.CNI_CONFIG + "/99-mine.conf").touch()
    node.keeper.round()
    (drifts, reason, message) = said[-1]
    assert (drifts, reason) == (True, "Trouble")
    assert message.startswith("kubelet does not stay up; ")
    assert "99-mine.conf" in message
    node.trouble = ""
    node.path(paths.CNI_CONFIG + "/99-mine.conf").unlink()
    node.keeper.round()
    assert said[-1][:2] == (False, "AsDocumented")


def test_a_machine_that_moved_is_left_alone(node: KeptNode) -> None:
    """Without the node's address nothing is put back; the journal names its addresses and the command."""
    document = a_document()
    moved = json.loads(json.dumps(lab()).replace(document.addresses[0], "192.0.2.77"))
    moved["interfaces"].append({"name": "cni0", "mtu": 1450, "addresses": ["10.244.1.1/24", "fe80::1/64"]})
    node.host = dataclasses.replace(node.host, facts=lambda: moved)
    node.keeper = Keeper(node.host, lambda level, text: node.log.append((level, text)))
    started: list[str] = []
    node.keeper._channel = SimpleNamespace(offered=lambda: None, start=lambda: started.append("anew"))  # type: ignore[assignment]
    node.keeper.round()
    node.keeper.round()
    assert node.looks == 0
    assert started == ["anew"], "the open question came from an address that is gone"
    (level, text) = node.log[0]
    assert level == keep.ERROR
    assert f"has the address of node {document.node}, {document.addresses[0]}; it has 192.0.2.77 (" in text
    assert f"freehold node set-address {document.node} 192.0.2.77" in text


def test_glances_call_for_no_look_that_would_note_nothing(node: KeptNode) -> None:
    """A machine that moved looks as rarely as after other failures, although all its routes are others now."""
    node.keeper.round()
    node.path(paths.NODE_KUBECONFIG).parent.mkdir(parents=True, exist_ok=True)
    node.path(paths.NODE_KUBECONFIG).touch()
    assert node.keeper.glance(), "something changed since the look"
    here = node.facts
    node.facts = json.loads(json.dumps(here).replace(a_document().addresses[0], "192.0.2.77"))
    node.keeper.round()
    assert not node.keeper.glance()
    node.facts = here
    node.keeper.round()
    node.path(paths.NODE_KUBECONFIG).write_text("once more")
    assert node.keeper.glance()


def test_failures_back_off_and_recover(node: KeptNode) -> None:
    """A failure is one clear line; the pause grows up to a limit, and falls back once it works."""
    node.error = StepFailed("unit:kubelet.service", "kubelet is failed", hint="journalctl -u kubelet")
    pauses = [node.keeper.round() for _ in range(12)]
    assert node.log[0] == (keep.ERROR, "kubelet is failed (journalctl -u kubelet)")
    assert pauses[0] <= keep.FIRST_PAUSE * 1.2
    assert pauses[-1] >= keep.LONGEST_PAUSE * 0.8
    assert max(pauses) <= keep.LONGEST_PAUSE * 1.2
    assert json.loads(node.path(STATUS).read_text())["state"] == "failed"
    node.error = None
    assert node.keeper.round() <= INTERVAL * 1.2
    assert node.log[-1][0] == keep.NOTICE
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"


def test_a_mistake_of_ours_does_not_end_the_loop(node: KeptNode) -> None:
    """Even an unforeseen error is one line and another try."""
    node.error = KeyError("nobody thought of this")
    node.keeper.round()
    assert node.log == [(keep.ERROR, "internal error: KeyError: 'nobody thought of this'")]


def test_a_mistake_in_what_stands_beside_repairs_keeps_none_from_being_made(node: KeptNode) -> None:
    """A look at health that fails is trouble, said once; the rest is put back all the same."""

    def health(_node: str, _now: float) -> str:
        raise KeyError("nobody thought of this")

    keeper = Keeper(
        dataclasses.replace(node.host, health=health), lambda level, text: node.log.append((level, text))
    )
    for _ in range(2):
        assert keeper.round() >= INTERVAL * 0.8
    assert node.looks == 2
    assert node.log == [(keep.ERROR, "internal error of health: KeyError: 'nobody thought of this'")]


def test_no_mistake_around_a_repair_ends_the_loop(node: KeptNode) -> None:
    """What is asked and told before and after it may fail as well."""

    def offered() -> None:
        raise KeyError("nobody thought of this")

    node.keeper._channel = SimpleNamespace(offered=offered)  # type: ignore[assignment]
    assert node.keeper.round() <= keep.FIRST_PAUSE * 1.2
    assert node.log == [(keep.ERROR, "internal error: KeyError: 'nobody thought of this'")]


def test_what_a_newer_document_changes_is_no_repair(node: KeptNode) -> None:
    """The Node is told of repairs by what was put back, not of a newer document, though it could not be made whole."""
    events: list[tuple[str, str]] = []
    node.keeper._report = SimpleNamespace(  # type: ignore[assignment]
        event=lambda _kind, reason, message: events.append((reason, message)),
        condition=lambda *_: None,
        follow=lambda _uid: None,
    )
    node.made(CHANGE.key)

    def converge(_resources: Any, _owner: str, _deliver: Any, progress: Any, _only: Any = None) -> Summary:
        progress({"event": "change", "key": CHANGE.key, "action": "update", "state": "done"})
        raise StepFailed("unit:kubelet.service", "kubelet is failed")

    node.keeper._host = dataclasses.replace(node.host, converge=converge)
    offers = iter([a_document(generation=2), None])
    node.keeper._channel = SimpleNamespace(offered=lambda: next(offers))  # type: ignore[assignment]
    node.keeper.round()
    assert events == [(keep.FAILURE_EVENT, "kubelet is failed")]
    assert "repaired" not in json.loads(node.path(STATUS).read_text())
    node.keeper.round()
    assert events[1] == (keep.REPAIR_EVENT, "put back: " + CHANGE.key)


def test_another_run_is_not_disturbed(node: KeptNode) -> None:
    """While an installer changes the machine the agent neither looks nor complains, unless it does not end."""
    clock, is_busy = [1000.0], True

    @contextlib.contextmanager
    def lock(timeout: float = 0) -> Iterator[None]:
        if is_busy:
            raise LockBusyError("busy")
        yield

    keeper = Keeper(
        dataclasses.replace(node.host, lock=lock, now=lambda: clock[0]),
        lambda level, text: node.log.append((level, text)),
    )
    for clock[0] in (1000.0, 1000.0 + keep.LONGEST_RUN - 1):
        assert keeper.round() == BUSY_PAUSE
    assert (node.looks, node.log) == (0, [])
    is_busy = False
    keeper.round()
    is_busy = True
    for seconds in (0, keep.LONGEST_RUN - 1):  # this is another one
        clock[0] += seconds
        keeper.round()
    assert node.log == []
    for _ in range(2):
        clock[0] += 5
        assert keeper.round() == BUSY_PAUSE
    assert node.log == [(keep.WARNING, keep.KEPT_OUT)]
    status = json.loads(node.path(STATUS).read_text())
    assert (status["state"], status["message"]) == ("waiting", keep.KEPT_OUT)
    is_busy = False
    keeper.round()
    assert node.log[1:] == [(keep.NOTICE, "this node is as its document says again")]
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"


def test_life_signs_during_a_repair(node: KeptNode) -> None:
    """Each step of a repair tells systemd that we live: a long one is no hang."""
    node.changes = (CHANGE, CHANGE)
    node.keeper.round()
    assert node.told.count("WATCHDOG=1") == 2


def test_a_damaged_document_is_one_line(node: KeptNode) -> None:
    """A document that cannot be read is said so, and the node stays as it is."""
    node.path(paths.JOIN_DOCUMENT).write_text('{"version": 99}')
    node.keeper.round()
    assert node.log == [(keep.ERROR, "join document version 99; this agent knows version 1")]


LOOP = """
import sys
from freehold_agent import keep

class Quiet(keep.Keeper):
    def round(self):
        print("look", flush=True)
        return 3600.0

sys.exit(keep.run(Quiet()))
"""


def test_signals() -> None:
    """SIGHUP looks at once, SIGTERM ends at once with success."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "look\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "look\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 10


def test_drift_is_said_once_and_stands_in_the_status(node: KeptNode) -> None:
    """What others changed is a line when it comes and one when it goes, and part of the outcome in between."""
    node.keeper.round()
    dropin = node.path("/etc/systemd/system/kubelet.service.d/mine.conf")
    dropin.parent.mkdir(parents=True)
    dropin.touch()
    for _ in range(3):
        node.keeper.glance()
    assert [text for _, text in node.log if "mine.conf" in text] == [node.log[-1][1]]
    assert "mine.conf" in json.loads(node.path(STATUS).read_text())["drift"][0]
    dropin.unlink()
    node.keeper.glance()
    assert json.loads(node.path(STATUS).read_text())["drift"] == []
    assert len(node.log) == 2


def test_a_glance_that_sees_something_ends_the_wait(node: KeptNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks when a glance says so, long before its minute is over."""
    monkeypatch.setattr(keep, "GLANCE", 0.01)
    node.keeper.round()
    node.keeper.round()
    reader, writer = os.pipe()
    try:
        node.path(paths.NODE_KUBECONFIG).parent.mkdir(parents=True, exist_ok=True)
        node.path(paths.NODE_KUBECONFIG).touch()
        begun = time.monotonic()
        keep._wait(reader, 600, node.keeper.glance)
        assert time.monotonic() - begun < 60
    finally:
        os.close(reader)
        os.close(writer)


def test_an_outcome_that_could_not_be_written_is_written_later(node: KeptNode) -> None:
    """A full /run does not leave an old outcome behind for ever."""
    node.path(STATUS).parent.mkdir(parents=True, exist_ok=True)
    node.path(STATUS).mkdir()
    node.keeper.round()
    node.path(STATUS).rmdir()
    node.keeper.round()
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"
