"""The agent's command line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_node import a_document

from freehold_agent import cli
from freehold_agent.contract import paths
from freehold_agent.repair import Host


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever calls it from a program finds its exit codes."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["status", "--output", "xml"], ["leave", "--force"]])
def test_a_bad_command_line_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command ends with 3, never with 2: that means changes."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 3
    assert "usage:" in capsys.readouterr().err


def test_joining_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """join-node without a CA file is bad input, in one sentence."""
    arguments = ["--server", "https://10.0.0.2:6444", "--node", "w1", "--ca", str(tmp_path / "none")]
    assert cli.main(["join-node", *arguments]) == 3
    assert "no CA certificate" in capsys.readouterr().err


def test_leaving_needs_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is removed without --yes."""
    assert cli.main(["leave"]) == 3
    assert "leave --yes" in capsys.readouterr().err


def test_facts_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Data on stdout can be read by a program."""
    assert cli.main(["facts", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["cpus"] >= 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is one line."""
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("freehold-agent ")


@pytest.mark.parametrize("verb", ["status", "plan", "converge"])
def test_no_node_is_one_message(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
