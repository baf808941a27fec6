"""A program from memory does not outlive its caller: not in a wait, and not without cleaning up."""

import subprocess
import sys
import time
from pathlib import Path

AGENT = Path(__file__).parents[3] / "agent"
PROGRAM = """
import pathlib, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from freehold_agent import caller, remote

note = pathlib.Path(sys.argv[2])
ways = {
    "sleep": lambda: time.sleep(60),
    "program": lambda: subprocess.run(["sleep", "60"]),
}

def undisturbed(tell):
    with caller.undisturbed():
        # Said inside: who hears it hangs up at once, and that may not come before the work began.
        tell({"event": "begun"})
        subprocess.run(["sh", "-c", 'sleep 0.5; printf "ended by itself, " > "$0"', str(note)])
    time.sleep(60)

def verb(request, stream, tell):
    try:
        if sys.argv[3] == "undisturbed":
            undisturbed(tell)
        else:
            tell({"event": "begun"})
            ways[sys.argv[3]]()
    finally:
        note.write_text((note.read_text() if note.exists() else "") + "cleaned up")

remote.VERBS["wait"] = verb
sys.exit(remote.main({"verb": "wait"}))
"""


def start(tmp_path: Path, kind: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, str(AGENT), str(tmp_path / "note"), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def ends_in_order(tmp_path: Path, kind: str) -> None:
    with start(tmp_path, kind) as process:
        assert process.stdout is not None
        assert b"begun" in process.stdout.readline()
        began = time.monotonic()
        process.stdout.close()
        assert process.wait(20) == 1
        assert time.monotonic() - began < 20
    assert (tmp_path / "note").read_text() == "cleaned up"


def test_it_ends_while_it_waits(tmp_path: Path) -> None:
    """A closed output ends it although it says nothing for a minute; clean-ups are made."""
    ends_in_order(tmp_path, "sleep")


def test_it_ends_while_a_program_runs(tmp_path: Path) -> None:
    """The wait for a slow program, a unit's restart, is interrupted too."""
    ends_in_order(tmp_path, "program")


def test_what_must_end_by_itself_does(tmp_path: Path) -> None:
    """A program whose half-done work would stay on the machine is waited for; then it ends all the same."""
    with start(tmp_path, "undisturbed") as process:
        assert process.stdout is not None
        assert b"begun" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 1
    assert (tmp_path / "note").read_text() == "ended by itself, cleaned up"


def test_a_closed_input_is_no_reason_to_end(tmp_path: Path) -> None:
    """The caller may have nothing more to say and still listen."""
    with start(tmp_path, "sleep") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"begun" in process.stdout.readline()
        process.stdin.close()
        try:
            process.wait(0.5)
            raise AssertionError("it ended")
        except subprocess.TimeoutExpired:
            pass
        process.stdout.close()
        assert process.wait(20) == 1
