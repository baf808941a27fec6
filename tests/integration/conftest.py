"""What several integration tests stand on: a control plane and an SSH server on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.control_plane_on_loopback import ControlPlane, running
from tests.support.ssh_on_loopback import SSHD, SshServer, ssh_server


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane, with join service and controller: made by the first that asks, ended after the last."""
    with running(tmp_path_factory.mktemp("control-plane")) as control_plane:
        print(
            "control plane on loopback: ",
            ", ".join(f"{what} {t:.1f} s" for what, t in control_plane.times.items()),
        )
        yield control_plane


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    """An SSH server of this test."""
    if SSHD is None:
        pytest.skip("no sshd: apt-get install openssh-server")
    if os.geteuid() != 0:
        pytest.skip("the server needs root for its mount namespace")
    with ssh_server(tmp_path) as listening:
        yield listening
