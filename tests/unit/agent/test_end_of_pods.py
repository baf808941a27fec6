"""The end of pods at shutdown: who is asked, who is killed at once, and who after a while; real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from freehold_agent.remains import pods

DEAF, LISTENS = "0000000000000000", "0000000000004000"
OBEDIENT = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


class Pods:
    """Processes that stand in the control groups of pods of a pretended machine."""

    def __init__(self, place: Path) -> None:
        self.cgroups, self.proc = place / "cg", place / "proc"
        (self.cgroups / "kubepods/pod1").mkdir(parents=True)
        self.running: List[subprocess.Popen[bytes]] = []

    def add(self, program: str, *, caught: str = LISTENS, inside: str = "1", name: str = "app") -> Any:
        """Start a program and describe it in /proc as the first process of a container."""
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        self.running.append(process)
        place = self.proc / str(process.pid)
        place.mkdir(parents=True)
        text = "Name:\tapp\nPPid:\t7\nNSpid:\t{}\t{}\nSigCgt:\t{}\n".format(process.pid, inside, caught)
        (place / "status").write_text(text)
        (place / "cmdline").write_bytes(name.encode() + b"\0-x\0")
        return process

    def members(self, _root: str = "") -> "set[int]":
        return {process.pid for process in self.running if process.poll() is None}

    def end(self, patience: float = 20.0) -> List[int]:
        return pods.end_pods(str(self.cgroups), str(self.proc), patience)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Pods(tmp_path)
    monkeypatch.setattr(pods, "members_of_pods", made.members)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


def test_who_listens_is_asked(machine: Pods) -> None:
    """A program with a handler gets SIGTERM and ends in its own way; nobody had to be killed."""
    process = machine.add(OBEDIENT)
    assert machine.end() == []
    assert process.wait(5) == -signal.SIGTERM


def test_who_cannot_hear_is_killed_at_once(machine: Pods) -> None:
    """The first process of a namespace without a handler would ignore SIGTERM for ever."""
    process = machine.add(STUBBORN, caught=DEAF)
    assert machine.end() == []
    assert process.wait(5) == -signal.SIGKILL


def test_who_does_not_end_is_killed_in_the_end(machine: Pods) -> None:
    """A program that handles SIGTERM and stays is waited for, killed, and said."""
    process = machine.add(STUBBORN)
    assert machine.end(patience=0.2) == [process.pid]
    assert process.wait(5) == -signal.SIGKILL


def test_the_process_that_holds_a_pods_namespaces_goes_last(
    machine: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never asked: in a pod with one process namespace its end is the end of all."""
    order: List[int] = []
    sandbox, program = machine.add(STUBBORN, name="/pause"), machine.add(OBEDIENT)
    kill = os.kill

    def noted(pid: int, number: int) -> None:
        order.append(pid)
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    assert machine.end() == []
    assert order == [program.pid, sandbox.pid]
    assert sandbox.wait(5) == -signal.SIGKILL


def test_nothing_ends_while_the_machine_stays_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only systemd's own word that it is stopping counts; a restart of the unit ends nothing."""
    for said, expected in (("running\n", False), ("degraded\n", False), ("stopping\n", True)):
        monkeypatch.setattr(pods, "run", lambda *_args, said=said, **_options: said)
        assert pods.machine_goes_down() is expected
