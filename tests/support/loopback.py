"""What a control plane on loopback is made of: processes, API clients that leave nothing open, free addresses."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freehold_agent.contract import paths
from freehold_agent.machine.kubernetes_api import KubernetesApi

PORTS = (2379, 2380, 2381, paths.API_PORT, paths.JOIN_PORT, 10257)


def oldest_python() -> str:
    """Return the path of a Python 3.9, the oldest that machines have; else the interpreter of the tests."""
    found = [*sorted(Path.home().glob(".pyenv/versions/3.9*/bin/python3.9")), shutil.which("python3.9")]
    for candidate in filter(None, found):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([str(candidate), "-c", "import ssl"], check=True, capture_output=True, timeout=60)
            return str(candidate)
    return sys.executable


class Program:
    """One process with a process group of its own and its journal in a file."""

    def __init__(self, name: str, command: Sequence[str], directory: Path) -> None:
        """Start it; must be called from the main thread, because it dies with the thread that started it."""
        self.name = name
        self.journal = directory / f"{name}.log"
        keeper = shutil.which("setpriv")
        # A killed test run must leave nothing: the kernel ends its programs.
        prefix = [keeper, "--pdeathsig", "KILL", "--"] if keeper else []
        with self.journal.open("ab") as journal:
            self._process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                start_new_session=True,
                cwd=directory,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        self._process.wait(30)

    def stop(self) -> None:
        """Ask it to end, and insist after 20 s."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self) -> str:
        """Return its journal so far."""
        return self.journal.read_text(errors="replace")


class Client(KubernetesApi):
    """An API client that leaves no connection open: it closes each at once, or hands them to `kept`."""

    def __init__(self, server: str, kept: list[http.client.HTTPConnection] | None, **options: Any) -> None:
        super().__init__(server, **options)
        self._kept = kept

    def raw(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        try:
            return super().raw(method, path, body, content_type)
        finally:
            if self._kept is None:
                self.close()

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        connection = super()._open(timeout)
        if self._kept is not None:
            self._kept.append(connection)
        return connection


def free_address() -> str:
    """Return an address of loopback on which none of our ports is taken."""
    seed = os.getpid()
    for number in range(seed, seed + 4000, 16):
        address = f"127.{70 + (number >> 15 & 63)}.{number >> 8 & 127}.{1 + (number & 127)}"
        if all(_is_free(address, port) for port in PORTS):
            return address
    raise AssertionError("no address of loopback has these ports free: {}".format(PORTS))


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
