"""An SSH server on loopback, and code that talks to it in a process of its own, which gevent may patch.

The server runs in a mount namespace with a private /opt (the store) and a user without sudo, so nothing of this
machine is touched.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRELUDE = """
import gevent.monkey
gevent.monkey.patch_all()
import hashlib, json, pathlib, sys, time
import gevent
from freehold_installer.engine.adapter import Fleet
from freehold_installer.engine.endpoint import Endpoint
from freehold_installer.engine.host_keys import KnownHosts, settle
from freehold_installer.engine.machine import Machine
from freehold_installer.errors import FreeholdError
directory, port, user = pathlib.Path(sys.argv[1]), int(sys.argv[2]), "root"
known = KnownHosts(directory / "known")
fleet = Fleet(known)

def machine(name="cp1", address="127.0.0.1", user="root"):
    endpoint = Endpoint(name, address, port, user, str(directory / "id"))
    settle([endpoint], known, scan=fleet.scan, accept_new=True)
    opened = Machine(None, endpoint, fleet.connect([endpoint])[name], known.path)
    opened.probe()
    return opened

def failure(work):
    try:
        work()
    except FreeholdError as error:
        return {"exit": error.exit_code, "message": error.message, "hint": error.hint}
    return None
"""
PASSWD = "freehold-plain:x:54321:54321::/tmp:/bin/sh\n"
SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")


class SshServer:
    """Listens on 127.0.0.1 and 127.0.0.2; root logs in with the key `id` of its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes]
        for name in ("id", "host"):
            self._make_key(name)
        (directory / "passwd").write_text(Path("/etc/passwd").read_text() + PASSWD)
        (directory / "authorized").write_bytes((directory / "id.pub").read_bytes())
        (directory / "authorized").chmod(0o644)
        for parent in (directory, *list(directory.parents)[:3]):
            if parent != Path("/tmp"):
                parent.chmod(0o755)
        self.configuration = directory / "conf"
        self.configuration.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey {directory}/host\n"
            f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nPidFile none\n"
        )
        os.makedirs("/run/sshd", exist_ok=True)

    def start(self) -> None:
        """Start it; return when it listens."""
        mount = f"mount -t tmpfs tmpfs /opt && mount --bind {self.directory}/passwd /etc/passwd && "
        daemon = f"{mount}exec {SSHD} -D -f {self.configuration} -E {self.directory}/log"
        self._process = subprocess.Popen(["unshare", "--mount", "sh", "-c", daemon])
        for _ in range(1500):
            assert self._process.poll() is None, "sshd ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("sshd does not listen")

    def stop(self) -> None:
        """End it; its sessions stay."""
        self._process.terminate()
        self._process.wait(10)

    def change_key(self) -> None:
        """Start it anew with another host key, and with what its configuration says now."""
        self.stop()
        (self.directory / "host").unlink()
        (self.directory / "host.pub").unlink()
        self._make_key("host")
        self.start()

    def run(self, code: str) -> Any:
        """Run code after the prelude; return what it printed as JSON."""
        done = subprocess.run(
            self.program(code), capture_output=True, text=True, timeout=120, env=environment(), check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    def program(self, code: str) -> list[str]:
        """Return the command that runs code after the prelude."""
        return [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(self.directory), str(self.port)]

    def _make_key(self, name: str) -> None:
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
        subprocess.run(keygen, check=True)


@contextmanager
def ssh_server(directory: Path) -> Iterator[SshServer]:
    """Yield a server that listens."""
    server = SshServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, with what it can import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **more}
