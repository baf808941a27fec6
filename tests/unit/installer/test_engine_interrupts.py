"""Signals end a run in order whatever the process happens to do, in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import gevent.monkey

gevent.monkey.patch_all()
import os, threading, signal
from freehold_installer.engine.adapter import in_parallel
from freehold_installer.engine.interrupts import interrupts_reach_us

class Machine:
    name = "cp1"

def connection():
    os.kill(os.getpid(), signal.{number})
    for _ in range(1000):  # Python asks for signals between two of these
        pass

def look(machine):
    threading.Thread(target=connection).start()
    threading.Event().wait(60)

interrupts_reach_us()
try:
    in_parallel([Machine()], look)
except KeyboardInterrupt:
    print("interrupted", end="")
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_in_a_thread_of_a_connection(number: str) -> None:
    """A signal that arrives while a connection's own thread works, before any phase, is not lost there."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(number=number)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted", "")
