"""The services as processes: ready when they listen, signs of life through systemd, an orderly end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict

import pytest
from tests.support.served import Client

from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest

START = "import json, sys; from freehold_bootstrap.{} import serve; serve(json.load(sys.stdin))"


def process(service: str, config: Dict[str, Any], notify: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "NOTIFY_SOCKET": notify, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(
        [sys.executable, "-c", START.format(service)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert running.stdin is not None
    with running.stdin as stream:
        stream.write(json.dumps(config))
    return running


@pytest.mark.parametrize("service", ["artifact_service", "join_service"])
def test_a_service_tells_systemd_and_ends_when_told(
    service: str, cluster_pki: PkiDirectory, tmp_path: Path, client: Callable[..., Client]
) -> None:
    """READY comes once it accepts (without any API server), SIGTERM ends it with 0."""
    name = "freehold-artifacts" if service == "artifact_service" else "freehold-join"
    served = CertificateRequest(name, (), "cp1")
    caller = CertificateRequest("freehold-join-client", (), "cp1")
    config = {
        "listen": "127.0.0.1",
        "port": 0,
        "certificate": cluster_pki.certificate_path(served),
        "key": cluster_pki.key_path(served),
        "ca": cluster_pki.path + "/ca.crt",
        "server": "https://127.0.0.1:1",
        "client_certificate": cluster_pki.certificate_path(caller),
        "client_key": cluster_pki.key_path(caller),
        "store": str(tmp_path),
        "digests": [],
        "transfers": 8,
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        running = process(service, config, str(tmp_path / "notify"))
        try:
            assert systemd.recv(100) == b"READY=1"
            assert running.stderr is not None
            line = running.stderr.readline()
            while "listens" not in line:
                line = running.stderr.readline()
            found = re.search(r"port=(\d+)", line)
            assert found is not None

            with client(SimpleNamespace(port=int(found.group(1)))) as connection:
                assert connection.ask("GET", "/healthz").body == b"ok\n"
            running.send_signal(signal.SIGTERM)
            assert systemd.recv(100) == b"STOPPING=1"
            assert running.wait(20) == 0
        finally:
            running.kill()
            running.wait()
            if running.stderr is not None:
                running.stderr.close()


@pytest.mark.parametrize("service", ["artifact_service", "join_service"])
@pytest.mark.parametrize(
    "config", [{}, {"listen": 5}, {"listen": "127.0.0.1", "port": "x"}, {"listen": "127.0.0.1"}]
)
def test_an_unusable_configuration_is_one_error(service: str, config: Dict[str, Any]) -> None:
    """What is missing is a ValueError, which the entry point turns into a line and exit code 3."""
    import importlib

    with pytest.raises(ValueError, match=r"listen|incomplete"):
        importlib.import_module("freehold_bootstrap." + service).serve(config)
