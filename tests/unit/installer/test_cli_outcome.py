"""The command line turns whatever happens into one message and a documented exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from freehold_installer import errors
from freehold_installer.cli.outcome import guarded
from freehold_installer.engine.lanes import InternalError
from freehold_installer.engine.run import DeclinedError
from freehold_installer.phases import workflow

DOCS = Path(__file__).parents[3] / "docs/reference/exit-codes.md"
INVENTORY = """
name: t
hosts:
  cp1: {address: 192.0.2.1, roles: [control-plane]}
"""


@pytest.fixture
def inventory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FREEHOLD_INVENTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "freehold.yaml"
    path.write_text(INVENTORY)
    return path


@pytest.mark.parametrize("arguments", [["nope"], ["plan", "--nope"], ["--output", "xml", "plan"], []])
def test_usage_errors_exit_with_3(arguments, capsys):
    """2 means that a plan has changes, so a wrong command line must not exit with it."""
    assert guarded(arguments) == 3
    assert "error: " in capsys.readouterr().err


def test_a_missing_inventory_is_one_message(tmp_path, monkeypatch, capsys):
    """No file, no option: exit code 3 and how to name one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FREEHOLD_INVENTORY", raising=False)
    assert guarded(["plan"]) == 3
    assert "FREEHOLD_INVENTORY" in capsys.readouterr().err


def test_apply_without_a_terminal_needs_yes(inventory, capsys):
    """Nobody can be asked, so nothing starts."""
    assert guarded(["apply"]) == 3
    assert "--yes" in capsys.readouterr().err


def test_an_error_names_the_command_that_continues(inventory, monkeypatch, capsys):
    """A failed apply ends with the command that goes on from there."""

    def fail(run):
        raise errors.StepError("cp1", "etcd", "port 2379 is taken", hint="free it")

    monkeypatch.setattr(workflow, "apply", fail)
    assert guarded(["apply", "--yes"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: cp1: etcd failed: port 2379 is taken",
        "       free it",
        "to continue: freehold apply --yes",
    ]


@pytest.mark.parametrize("internal", [True, False])
def test_a_defect_keeps_its_traceback_in_a_file(inventory, monkeypatch, capsys, internal):
    """The terminal gets one sentence and a path; the traceback is there."""

    def fail(run):
        error = KeyError("surprise")
        raise InternalError("cp1", "etcd", error) if internal else error

    monkeypatch.setattr(workflow, "status", fail)
    assert guarded(["status"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "defect of freehold" in said
    kept = Path(re.search(r"details are in (\S+)", said).group(1))
    assert "KeyError: 'surprise'" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_interruption_exits_with_130(inventory, monkeypatch, capsys):
    """Ctrl-C is no success and no failure."""

    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "apply", interrupt)
    assert guarded(["apply", "--yes"]) == 130
    assert "to continue: freehold apply --yes" in capsys.readouterr().err


def test_errors_are_json_when_output_is(inventory, monkeypatch, capsys):
    """In JSON mode standard error has JSON lines only and standard output stays empty."""

    def fail(run):
        raise errors.UnreachableError("cp1 is gone", hint="look")

    monkeypatch.setattr(workflow, "status", fail)
    assert guarded(["status", "--output", "json"]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = {"message": "cp1 is gone", "hint": "look", "exitCode": 5, "continue": ""}
    assert [json.loads(line) for line in captured.err.splitlines()] == [{"error": expected}]


def test_the_kubeconfig_file_is_private(inventory, capsys):
    """It holds a private key: mode 0600, and an existing file is replaced whole."""
    state = inventory.parent / "state/freehold/t"
    assert guarded(["kubeconfig"]) == 3
    state.mkdir(parents=True, mode=0o700)
    (state / "kubeconfig").write_text("kind: Config\n")
    target = inventory.parent / "out"
    target.write_text("old")
    target.chmod(0o644)
    assert guarded(["kubeconfig", "-o", str(target)]) == 0
    assert target.read_text() == "kind: Config\n"
    assert target.stat().st_mode & 0o777 == 0o600


def test_the_documented_exit_codes_are_those_of_the_code():
    """Every error class's code and meaning stand in docs/reference/exit-codes.md."""
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    classes = [
        errors.FreeholdError,
        errors.InputError,
        errors.UnfitError,
        errors.UnreachableError,
        errors.LockedError,
        errors.BundleError,
        DeclinedError,
    ]
    for kind in classes:
        assert rows[str(kind.exit_code)] == kind.meaning
    assert set(rows) == {"0", "1", "2", "3", "4", "5", "6", "130"}


def test_an_interrupt_while_we_start_leaves_no_traceback(tmp_path):
    """Ctrl-C before the command line has begun ends the process at once, without a word."""
    (tmp_path / "gevent.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "freehold_installer", "version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
