"""The operator's files: state directory, lock, journal."""

import os
import subprocess
import sys

import pytest

from freehold_installer.engine.journal import Journal, unfinished
from freehold_installer.engine.lock import locked
from freehold_installer.errors import InputError, LockedError
from freehold_installer.state_dir import StateDir


def test_a_second_run_is_told_who_holds_the_lock(tmp_path):
    """The message names process and command of the run that works on the cluster."""
    with (
        locked(tmp_path),
        pytest.raises(LockedError, match=f"process {os.getpid()}") as caught,
        locked(tmp_path),
    ):
        pass
    assert caught.value.exit_code == 6
    with locked(tmp_path):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    """After kill -9 the next run gets the lock at once."""
    code = (
        "import os, signal, sys, pathlib\n"
        "from freehold_installer.engine.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -9
    assert (tmp_path / "lock.json").exists()
    with locked(tmp_path):
        pass


def test_a_finished_run_has_nothing_unfinished(tmp_path):
    """A run that ended, well or badly, is not reported."""
    journal = Journal(tmp_path / "journal.jsonl", "apply")
    journal.write("phase-started", machine="cp1", phase="etcd")
    journal.close("failed")
    assert unfinished(tmp_path / "journal.jsonl") is None
    assert unfinished(tmp_path / "none.jsonl") is None


def test_a_killed_run_is_explained(tmp_path):
    """The next run can say which phases were going on where; a torn last line does not matter."""
    path = tmp_path / "journal.jsonl"
    Journal(path, "plan").close("done")
    journal = Journal(path, "apply")
    journal.write("phase-started", machine="cp1", phase="etcd")
    journal.write("phase-finished", machine="cp1", phase="etcd", outcome="done")
    journal.write("phase-started", machine="cp1", phase="api")
    journal.write("phase-started", machine="w1", phase="node")
    with path.open("a") as file:
        file.write('{"what": "phase-fin')
    found = unfinished(path)
    assert found is not None
    assert found.doing == (("cp1", "api"), ("w1", "node"))
    assert "`freehold apply`" in str(found)
    assert "cp1: api; w1: node" in str(found)
    journal.close("done")


def test_the_state_directory_is_private(tmp_path):
    """It is made 0700, and refused when others can read it: it holds private keys."""
    state = StateDir(tmp_path / "state" / "lab")
    state.create()
    assert state.path.stat().st_mode & 0o777 == 0o700
    state.path.chmod(0o755)
    with pytest.raises(InputError, match="others can get at it"):
        state.create()


def test_private_files_replace_each_other_whole(tmp_path):
    """A file is 0600 and never half written; no temporary stays behind."""
    state = StateDir(tmp_path)
    state.write_private("kubeconfig", b"one")
    path = state.write_private("kubeconfig", b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["kubeconfig"]
