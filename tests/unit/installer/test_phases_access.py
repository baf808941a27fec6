"""The API through a machine's SSH connection: what is said when that goes."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.config import loads
from freehold_installer.errors import StepError
from freehold_installer.phases import access, control_plane, trust

INVENTORY = "name: t\nhosts: {cp1: {address: 192.0.2.1, roles: [control-plane]}}\n"


class Machine:
    """Its API server hangs up in the middle; with it goes the SSH connection, or not."""

    name = "cp1"

    def __init__(self, connected: bool) -> None:
        self.connected = connected

    def lost(self, doing: str) -> StepError:
        return StepError(self.name, doing, "the connection was lost")

    def api_socket(self, _host: str, _port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PkiDirectory:
    """Keys of a cluster."""
    made = PkiDirectory(str(tmp_path_factory.mktemp("pki") / "pki"))
    trust.issue(loads(INVENTORY), made)
    return made


@pytest.mark.parametrize(("connected", "kind"), [(True, OSError), (False, StepError)])
def test_a_lost_connection_is_called_so(pki: PkiDirectory, connected: bool, kind: type[Exception]) -> None:
    """An API server that hangs up may come back and is asked again; a machine that goes away ends the step."""
    api = access.api_of(Machine(connected), "192.0.2.1", pki, trust.ADMIN)  # type: ignore[arg-type]
    with pytest.raises(kind) as raised:
        api.get("/version")
    assert ("the connection was lost" in str(raised.value)) is not connected


def test_an_api_that_goes_away_is_a_failed_step(pki: PkiDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the objects of a new cluster are made: no defect of freehold."""
    monkeypatch.setattr(control_plane, "wait_until_ready", lambda _api, _name: None)
    lane: Any = SimpleNamespace(
        name="cp1",
        machine=Machine(connected=True),
        host=SimpleNamespace(name="cp1", internal_address="192.0.2.1"),
        step=lambda _text: None,
    )
    started = control_plane.Started(lane)
    started.api_server.set()
    state: Any = SimpleNamespace(pki=pki)
    plan: Any = SimpleNamespace(objects=["some"])
    with pytest.raises(StepError, match="cp1: rights, policies and DNS failed: "):
        control_plane._access(lane, state, plan, started)
