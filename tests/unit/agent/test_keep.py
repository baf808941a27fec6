"""The resident loop and the agent's command line."""

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

from freehold_agent import cli, keep
from freehold_agent.contract import paths
from freehold_agent.contract.resources import Change
from freehold_agent.converge import Summary
from freehold_agent.errors import StepFailed
from freehold_agent.keep import BUSY_PAUSE, INTERVAL, Keeper
from freehold_agent.machine.lock import LockBusyError
from freehold_agent.records import Record
from freehold_agent.repair import Host, NotJoinedError, repair
from freehold_agent.standing import FILE as STATUS

CHANGE = Change("file:/etc/freehold/kubelet.json", "update", {}, {})


class Node:
    """A joined node on disk, whose converge does what a test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: tuple[Change, ...] = ()
        self.error: Exception | None = None
        self.trouble = ""
        self.facts = lab()
        self.looks = 0
        self.told: list[str] = []
        self.log: list[tuple[int, str]] = []
        self.path(paths.JOIN_DOCUMENT).parent.mkdir(parents=True)
        self.path(paths.JOIN_DOCUMENT).write_bytes(a_document().dumps())
        self.path(paths.KUBELET_CLIENT_CERTIFICATE).parent.mkdir(parents=True)
        self.path(paths.KUBELET_CLIENT_CERTIFICATE).touch()
        self.host = Host(
            facts=lambda: self.facts,
            converge=self._converge,
            lock=self._lock,
            notify=self._notify,
            now=lambda: 1000.0 + self.looks,
            health=lambda _node, _now: self.trouble,
            root=str(root),
        )
        self.keeper = Keeper(self.host, lambda level, text: self.log.append((level, text)))

    def path(self, name: str) -> Path:
        return self.root / name[1:]

    def _notify(self, state: str) -> bool:
        self.told.append(state)
        return True

    @contextlib.contextmanager
    def _lock(self, timeout: float = 0) -> Iterator[None]:
        assert timeout == 0
        yield

    def _converge(
        self, _resources: Any, owner: str, _deliver: Any, progress: Any, _only: Any = None
    ) -> Summary:
        assert owner == "node"
        self.looks += 1
        if self.error:
            raise self.error
        for change in self.changes:
            progress({"event": "change", "key": change.key, "action": change.action, "state": "done"})
        return Summary(self.changes, 0.1)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_quiet_node_is_silent_and_writes_once(node: Node) -> None:
    """While nothing differs nothing is logged, and no file changes after the first look."""
    node.keeper.round()
    before = node.path(STATUS).stat()
    for _ in range(3):
        assert INTERVAL * 0.8 <= node.keeper.round() <= INTERVAL * 1.2
    after = node.path(STATUS).stat()
    assert node.log == []
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_an_old_document_never_takes_a_control_plane_back(node: Node) -> None:
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


def test_a_repair_is_one_line(node: Node) -> None:
    """What was put back stands in the journal and in the status."""
    node.changes = (CHANGE,)
    node.keeper.round()
    assert node.log == [(keep.NOTICE, "update: file:/etc/freehold/kubelet.json")]
    assert json.loads(node.path(STATUS).read_text())["repaired"] == [CHANGE.key]


def test_trouble_beside_the_resources_is_said_once(node: Node) -> None:
    """What no resource shows stands in the journal once and in the status until it is over; repairs go on."""
    node.trouble = "the certificate expired"
    node.keeper.round()
    assert node.keeper.round() <= INTERVAL * 1.2
    assert node.log == [(keep.ERROR, "the certificate expired")]
    assert node.looks == 2
    status = json.loads(node.path(STATUS).read_text())
    assert (status["state"], status["message"]) == ("failed", "the certificate expired")
    node.trouble = ""
    node.keeper.round()
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"
    node.trouble = "the certificate expired"
    node.keeper.round()
    assert len(node.log) == 2, "it is news again"


def test_trouble_beside_the_resources_is_told_to_the_cluster(node: Node) -> None:
    """Whoever describes the Node reads of a program that dies, though nothing differs; drift stands beside it."""
    said: list[Any] = []
    node.keeper._report = SimpleNamespace(  # type: ignore[assignment]
        condition=lambda *words: said.append(words), event=lambda *words: said.append(words)
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


def test_a_machine_that_moved_is_left_alone(node: Node) -> None:
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


def test_glances_call_for_no_look_that_would_note_nothing(node: Node) -> None:
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


def test_failures_back_off_and_recover(node: Node) -> None:
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


def test_a_mistake_of_ours_does_not_end_the_loop(node: Node) -> None:
    """Even an unforeseen error is one line and another try."""
    node.error = KeyError("nobody thought of this")
    node.keeper.round()
    assert node.log == [(keep.ERROR, "internal error: KeyError: 'nobody thought of this'")]


def test_another_run_is_not_disturbed(node: Node) -> None:
    """While an installer changes the machine the agent neither looks nor complains."""

    @contextlib.contextmanager
    def busy(timeout: float = 0) -> Iterator[None]:
        raise LockBusyError("busy")
        yield

    keeper = Keeper(
        dataclasses.replace(node.host, lock=busy), lambda level, text: node.log.append((level, text))
    )
    assert keeper.round() == BUSY_PAUSE
    assert (node.looks, node.log) == (0, [])


def test_life_signs_during_a_repair(node: Node) -> None:
    """Each step of a repair tells systemd that we live: a long one is no hang."""
    node.changes = (CHANGE, CHANGE)
    node.keeper.round()
    assert node.told.count("WATCHDOG=1") == 2


def test_a_left_bootstrap_credential_is_removed(node: Node) -> None:
    """A token that a killed join left behind does not stay."""
    node.path(paths.BOOTSTRAP_KUBECONFIG).parent.mkdir(parents=True)
    node.path(paths.BOOTSTRAP_KUBECONFIG).write_text("token")
    node.keeper.round()
    assert not node.path(paths.BOOTSTRAP_KUBECONFIG).exists()


def test_a_machine_that_is_no_node_is_left_alone(node: Node) -> None:
    """Without a document or a certificate nothing is touched."""
    node.path(paths.KUBELET_CLIENT_CERTIFICATE).unlink()
    with pytest.raises(NotJoinedError, match="no certificate"):
        repair(node.host, lambda _e: None)
    node.path(paths.JOIN_DOCUMENT).unlink()
    with pytest.raises(NotJoinedError, match="is no node"):
        repair(node.host, lambda _e: None)
    assert node.looks == 0


def test_a_damaged_document_is_one_line(node: Node) -> None:
    """A document that cannot be read is said so, and the node stays as it is."""
    node.path(paths.JOIN_DOCUMENT).write_text('{"version": 99}')
    node.keeper.round()
    assert node.log == [(keep.ERROR, "join document version 99; this agent knows version 1")]


def test_a_newer_document_is_taken_and_an_older_one_is_not(node: Node) -> None:
    """What is offered counts when it is a newer document of the same join."""
    seen: list[str] = []

    def converge(resources: Any, *_: Any) -> Summary:
        seen.extend(r.content.decode() for r in resources if r.name == paths.JOIN_DOCUMENT)
        return Summary((), 0.1)

    host = dataclasses.replace(node.host, converge=converge)
    for changes in ({"generation": 7}, {"generation": 0}, {"generation": 9, "node_uid": "another"}):
        repair(host, lambda _e: None, a_document(**changes))
    assert [json.loads(text)["generation"] for text in seen] == [7, 1, 1]


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


class TestCommandLine:
    def test_help_names_the_exit_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever calls it from a program finds its exit codes."""
        with pytest.raises(SystemExit) as caught:
            cli.main(["--help"])
        assert caught.value.code == 0
        assert "exit codes:" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments", [[], ["nonsense"], ["status", "--output", "xml"], ["leave", "--force"]]
    )
    def test_a_bad_command_line_is_bad_input(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A wrong command ends with 3, never with 2: that means changes."""
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 3
        assert "usage:" in capsys.readouterr().err

    def test_joining_says_what_is_missing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """join-node without a CA file is bad input, in one sentence."""
        arguments = ["--server", "https://10.0.0.2:6444", "--node", "w1", "--ca", str(tmp_path / "none")]
        assert cli.main(["join-node", *arguments]) == 3
        assert "no CA certificate" in capsys.readouterr().err

    def test_leaving_needs_a_yes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing is removed without --yes."""
        assert cli.main(["leave"]) == 3
        assert "leave --yes" in capsys.readouterr().err

    def test_facts_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Data on stdout can be read by a program."""
        assert cli.main(["facts", "--output", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["cpus"] >= 1

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The version is one line."""
        assert cli.main(["version"]) == 0
        assert capsys.readouterr().out.startswith("freehold-agent ")

    @pytest.mark.parametrize("verb", ["status", "plan", "converge"])
    def test_no_node_is_one_message(
        self, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """On a machine that is no node each verb says so, without a traceback."""
        monkeypatch.setattr(paths, "JOIN_DOCUMENT", str(tmp_path / "none.json"))
        monkeypatch.setattr(
            "freehold_agent.repair.Host", lambda: Host(lock=lambda timeout: contextlib.nullcontext())
        )
        assert cli.main([verb]) == 3
        error = capsys.readouterr().err
        assert "is no node" in error
        assert "Traceback" not in error

    @pytest.mark.parametrize(
        ("outcome", "status", "words"),
        [
            ({"result": {"changes": []}}, 0, "nothing differs"),
            (
                {"result": {"changes": [{"key": "artifact:ab", "action": "create", "title": "bin/kubelet"}]}},
                2,
                "+ artifact:ab (bin/kubelet)",
            ),
            ({"error": {"kind": "locked", "message": "another run", "hint": "wait"}}, 6, "another run"),
            ({"error": {"kind": "internal", "message": "oops", "detail": "Traceback"}}, 1, "oops"),
        ],
    )
    def test_plan(
        self,
        outcome: dict[str, Any],
        status: int,
        words: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """plan ends with 0 without and 2 with changes; a failure is one message."""
        monkeypatch.setattr("freehold_agent.repair.read_document", lambda: a_document())
        monkeypatch.setattr("freehold_agent.remote.perform", lambda request, stream, tell: tell(outcome))
        assert cli.main(["plan"]) == status
        captured = capsys.readouterr()
        assert words in captured.out + captured.err
        assert "Traceback" not in captured.err


def test_a_step_that_fails_keeps_no_other_from_being_made(node: Node) -> None:
    """Everything but the failed step is tried again at once; the failure is what the look ends with."""
    asked: list[Any] = []

    def converge(_resources: Any, _owner: str, _deliver: Any, progress: Any, only: Any = None) -> Summary:
        asked.append(only)
        for key in ("file:/etc/freehold/kubelet.json", "unit:kubelet.service"):
            if only is None or key in only:
                progress({"event": "change", "key": key, "action": "update", "state": "failed"})
                raise StepFailed(key, key + " cannot be made")
        return Summary((CHANGE,), 0.1)

    with pytest.raises(StepFailed, match="cannot be made"):
        repair(dataclasses.replace(node.host, converge=converge), lambda _e: None)
    assert asked[0] is None
    assert [key in asked[2] for key in ("file:/etc/freehold/kubelet.json", "unit:kubelet.service")] == [
        False
    ] * 2
    assert "unit:containerd.service" in asked[2]
    assert len(asked) == 3


def test_a_unit_that_lost_something_is_marked_for_another_start(node: Node) -> None:
    """It stands in the record, so that whoever converges next starts it anew."""
    repair(node.host, lambda _e: None, prepare=lambda _d, _r: {"kube-proxy.service": ["table ip kube-proxy"]})
    assert Record("node", str(node.path(paths.RECORDS))).stale == {"unit:kube-proxy.service"}


def test_drift_is_said_once_and_stands_in_the_status(node: Node) -> None:
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


def test_a_glance_that_sees_something_ends_the_wait(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_outcome_that_could_not_be_written_is_written_later(node: Node) -> None:
    """A full /run does not leave an old outcome behind for ever."""
    node.path(STATUS).parent.mkdir(parents=True, exist_ok=True)
    node.path(STATUS).mkdir()
    node.keeper.round()
    node.path(STATUS).rmdir()
    node.keeper.round()
    assert json.loads(node.path(STATUS).read_text())["state"] == "converged"
