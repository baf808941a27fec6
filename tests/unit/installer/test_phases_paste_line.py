"""The line to paste, pasted: a shell, a TLS server on loopback, and an agent that says how it was called."""

import hashlib
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.served import Served

from freehold_bootstrap.artifact_service.files_by_digest import FilesByDigest
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import control_plane_requests
from freehold_installer.phases import paste_line

REQUESTS = control_plane_requests("cp1", ["10.0.0.2"], ["10.96.0.0/12"], "cluster.local")
AGENT = """
import json, os, sys
ca = sys.argv[sys.argv.index("--ca") + 1]
print(json.dumps({"arguments": sys.argv[1:], "ca": open(ca).read(), "place": os.path.dirname(ca),
                  "mode": os.stat(os.path.dirname(ca)).st_mode & 0o777, "read": sys.stdin.readline()}))
sys.exit(7)
"""


class Place:
    """An artifact service with an agent in it, and the line for it."""

    def __init__(self, directory: Path) -> None:
        self.pki = PkiDirectory(str(directory / "pki"))
        self.pki.ensure(REQUESTS)
        self.store = directory / "store"
        self.store.mkdir()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("__main__.py", AGENT)
        self.sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        (self.store / self.sha256).write_bytes(buffer.getvalue())
        request = next(request for request in REQUESTS if request.profile == "freehold-artifacts")
        answer = FilesByDigest(str(self.store)).answer
        self.served = Served(self.pki, request, answer, mutual=False)
        self.programs = directory / "bin"
        self.programs.mkdir()
        (self.programs / "python3").symlink_to(sys.executable)
        sudo = self.programs / "sudo"  # for those who do not run the tests as root
        sudo.write_text('#!/bin/sh\nexec "$@"\n')
        sudo.chmod(0o755)

    def line(self, **changes: Any) -> str:
        ca = changes.pop("ca_pem", None) or self.pki.ca_pem()
        values: dict[str, Any] = {
            "artifact_url": f"https://localhost:{self.served.port}/v1/artifacts/{self.sha256}",
            "sha256": self.sha256,
            "servers": ["https://10.0.0.2:6444", "https://10.0.0.4:6444"],
            "ca_der": ssl.PEM_cert_to_DER_cert(ca),
            "node": "w2",
            "made": int(time.time()),
        }
        return paste_line.line(**{**values, **changes})

    def paste(self, line: str, after: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.programs}:{os.environ['PATH']}", "TMPDIR": str(self.programs.parent)}
        shell = shutil.which("dash") or "sh"
        return subprocess.run(
            [shell, "-c", line + after],
            input="a line\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    made.served.stop()


def test_it_starts_the_agent_that_it_names(place: Place) -> None:
    """The agent gets servers, CA and node, what stands behind the line, and the terminal; nothing stays behind."""
    before = set(place.programs.parent.iterdir())
    done = place.paste(place.line(), " --token-file /run/token")
    assert done.returncode == 7, done.stderr
    said = json.loads(done.stdout)
    assert said["arguments"][0] == "join-node"
    assert said["arguments"][3:] == [
        "--node",
        "w2",
        "--server",
        "https://10.0.0.2:6444",
        "--server",
        "https://10.0.0.4:6444",
        "--token-file",
        "/run/token",
    ]
    assert said["ca"].split() == place.pki.ca_pem().split()
    assert said["mode"] == 0o700
    assert said["read"] == "a line\n"
    assert set(place.programs.parent.iterdir()) == before


def test_it_is_one_short_line(place: Place) -> None:
    """It fits into a terminal's line buffer and has no character that a shell or a terminal would change."""
    line = place.line()
    assert len(line) < 4000
    assert line.isprintable()
    assert line.isascii()
    assert line.count("'") == 2


def test_a_proxy_is_not_asked(place: Place) -> None:
    """Whatever the environment says, the control plane is reached directly."""
    line = "https_proxy=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9 " + place.line()
    assert place.paste(line).returncode == 7


@pytest.mark.parametrize("what", ["bytes", "authority", "clock", "nobody", "missing"])
def test_what_is_wrong_is_one_sentence(place: Place, what: str, tmp_path: Path) -> None:
    """Other bytes, another authority, a clock that is behind, no answer: nothing is started."""
    if what == "bytes":
        line, said = place.line(sha256="b" * 64), "what came is not the agent"
    elif what == "authority":
        foreign = PkiDirectory(str(tmp_path / "pki"))
        foreign.ensure(REQUESTS[:1])
        line, said = place.line(ca_pem=foreign.ca_pem()), "CERTIFICATE_VERIFY_FAILED"
    elif what == "clock":
        line, said = place.line(made=int(time.time()) + 86400), "s behind; set it, then paste again"
    elif what == "nobody":
        line, said = place.line(artifact_url="https://127.0.0.1:9/v1/artifacts/x"), "refused"
    else:
        url = f"https://localhost:{place.served.port}/v1/artifacts/{'c' * 64}"
        line, said = place.line(artifact_url=url), "Not Found"
    done = place.paste(line)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("freehold: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
