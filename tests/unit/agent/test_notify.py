"""What a program tells systemd about itself."""

import os
import socket
from pathlib import Path

import pytest

from freehold_agent.machine.systemd import notify


def test_a_sign_that_nobody_takes_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives where systemd listens; without a listener it is lost, and no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("WATCHDOG=1")
    # A path below a test's directory may be too long for a socket's name.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    assert not notify("WATCHDOG=1"), "no such socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("notify")
        assert notify("READY=1")
        assert channel.recv(64) == b"READY=1"
    assert os.path.exists("notify")
    assert not notify("WATCHDOG=1"), "its listener is gone"
