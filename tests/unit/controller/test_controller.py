"""The process: reads its configuration, tells systemd, leads, works and steps down."""

import json
import signal
import socket
from pathlib import Path
from threading import Event, Thread
from typing import Any, Dict, List

import pytest
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_bootstrap import journal
from freehold_controller import __main__ as entry
from freehold_controller import controller, dns_clients
from freehold_controller.config import ConfigError, ControllerConfig
from freehold_controller.controller import Controller, SignsOfLife
from freehold_controller.dns_endpoints import SLICES, DnsServer
from freehold_controller.leader import Timings

DATA: Dict[str, Any] = {
    "server": "https://10.73.0.11:6443",
    "ca": "/etc/kubernetes/pki/ca.crt",
    "certificate": "/c.crt",
    "key": "/c.key",
    "identity": "cp1",
    "dns": [{"node": "cp1", "address": "10.73.0.11", "ready_url": "http://127.0.0.1:1/ready"}],
    "single": True,
}


def test_reads_its_configuration() -> None:
    """Defaults are upstream's 15, 10 and 2 seconds."""
    config = ControllerConfig.from_json(DATA)
    assert config.dns == (DnsServer("cp1", "10.73.0.11", "http://127.0.0.1:1/ready"),)
    assert config.single
    assert config.timings == Timings(15, 10, 2)
    longer = ControllerConfig.from_json({**DATA, "leader_election": {"lease": 60, "renew": 40, "retry": 15}})
    assert longer.timings == Timings(60, 40, 15)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"identity": None}, "identity"),
        ({"leader_election": {"lease": 5}}, "retry < renew < lease"),
        ({"leader_election": {"lent": 5}}, "lent"),
        ({"dns": [{"node": "cp1"}]}, "address"),
    ],
)
def test_names_the_key_that_is_wrong(changes: Dict[str, Any], says: str) -> None:
    """A configuration that cannot be used says why."""
    data = {name: value for name, value in {**DATA, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        ControllerConfig.from_json(data)


def test_leads_works_and_steps_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd hears READY before the API answers; the DNS slice is written; a stop gives the lease back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "40000")
        api, stop, written = FakeKubernetes(), Event(), Event()
        api.fail("get", "/apis/coordination", ConnectionRefusedError("not up yet"))
        api.on("apply", SLICES, lambda *_: written.set())
        config = ControllerConfig.from_json(
            {**DATA, "leader_election": {"lease": 3, "renew": 2, "retry": 0.02}}
        )
        runner = Thread(target=Controller(config, api, api).run, args=(stop,), daemon=True)
        runner.start()
        heard: List[str] = []
        while "WATCHDOG=1" not in heard:
            heard += channel.recv(4096).decode().split("\n")
        assert heard[0] == "READY=1"
        assert written.wait(20)
        stop.set()
        runner.join(20)
        assert not runner.is_alive()
    (lease,) = [api.objects[path] for path in api.paths("/apis/coordination.k8s.io")]
    assert lease["spec"]["holderIdentity"] == ""


class NeverLeads(FakeKubernetes):
    """An API that lets nobody have a lease."""

    def get(self, path: str) -> Dict[str, Any]:
        raise ConnectionRefusedError(path)


def test_dns_clients_are_kept_without_the_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each control plane's CoreDNS reads a file of that machine, whoever leads."""
    monkeypatch.setattr(dns_clients, "INTERVAL", 0.01)
    monkeypatch.setattr(controller, "_RESTART_SECONDS", 0.01)
    path, stop = tmp_path / "dns-clients.acl", Event()
    wanted = {"path": str(path), "networks": ["10.73.0.0/24"]}
    config = ControllerConfig.from_json({**DATA, "dns_clients": wanted})
    runner = Thread(target=Controller(config, FakeKubernetes(), NeverLeads()).run, args=(stop,), daemon=True)
    runner.start()
    pause = Event()
    for _ in range(2000):
        if path.exists():
            break
        pause.wait(0.01)
    stop.set()
    runner.join(20)
    assert path.read_bytes() == dns_clients.acl_lines(())


def test_a_silent_loop_is_noticed() -> None:
    """The watchdog is fed only while every loop shows a sign of life; an ended loop is no silent one."""
    now = [0.0]
    life = SignsOfLife(lambda: now[0])
    life.beat("leader")
    life.beat("dns")
    now[0] = 40.0
    life.beat("leader")
    assert life.silent() is None
    now[0] = 50.0
    assert life.silent() == "dns"
    life.forget("dns")
    assert life.silent() is None


def test_a_loop_that_fails_is_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a loop did not foresee is logged, and does not end it for good."""
    monkeypatch.setattr(controller, "_RESTART_SECONDS", 0.0)
    stop, tries = Event(), []  # type: Event, List[int]

    def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("odd\nobject")
        stop.set()

    api = FakeKubernetes()
    Controller(ControllerConfig.from_json(DATA), api, api)._task("approver", stop, work)
    assert len(tries) == 2
    assert capsys.readouterr().err == '<3>loop failed loop="approver" error="RuntimeError: odd\\nobject"\n'


def test_serve_stops_at_sigterm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SIGTERM ends the process cleanly."""
    (tmp_path / "ca.crt").write_text("CA")
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(self: Controller, stop: Event) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()

    monkeypatch.setattr(Controller, "run", run)
    try:
        controller.serve({**DATA, "ca": str(tmp_path / "ca.crt")})
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_a_line_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    """Text from requests stays within its quotes, and its line."""
    journal.notice("denied", node='a"\n<3>b')
    assert capsys.readouterr().err == '<5>denied node="a\\"\\n<3>b"\n'


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["controller"],
        ["other", "--config", "x"],
        ["controller", "x", "y"],
        ["controller", "--config", "/nope"],
    ],
)
def test_wrong_arguments_exit_with_3(arguments: List[str]) -> None:
    """Bad input has the exit code of bad input."""
    assert entry.main(arguments) == 3


def test_dispatches_to_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The service gets its configuration; its errors become exit codes and one line."""
    path = tmp_path / "controller.json"
    path.write_text(json.dumps(DATA))
    seen: List[Any] = []
    monkeypatch.setitem(entry.SERVICES, "controller", seen.append)
    assert entry.main(["controller", "--config", str(path)]) == 0
    assert seen == [DATA]

    def fails(error: Exception) -> Any:
        def serve(_: Any) -> None:
            raise error

        return serve

    for error, code in ((ConfigError("identity is missing"), 3), (FileNotFoundError("no ca"), 1)):
        monkeypatch.setitem(entry.SERVICES, "controller", fails(error))
        assert entry.main(["controller", "--config", str(path)]) == code
