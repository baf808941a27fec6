"""The list of nodes that CoreDNS answers: those of the records, outside its own networks."""

import dataclasses
import stat
from pathlib import Path
from threading import Event, Thread
from typing import Any, Dict, Iterator

import pytest
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_bootstrap.node_record import NodeRecord, record_path
from freehold_controller import dns_clients
from freehold_controller.dns_clients import DnsClientList, DnsClients, acl_lines, clients

NETWORKS = ("127.0.0.0/8", "10.0.0.0/24", "10.244.0.0/16")
FAR = NodeRecord("far", ("192.168.7.9",), "join", "uid")


def test_who_is_in_the_list() -> None:
    """Nodes outside the networks, by their addresses and by the one they come from; each once, in one order."""
    records = [
        dataclasses.replace(FAR, addresses=("192.168.7.9", "2001:DB8::9"), source="203.0.113.1"),
        dataclasses.replace(FAR, node="near", addresses=("10.0.0.9",)),
        dataclasses.replace(FAR, node="neighbour", addresses=("192.168.7.8",), source="203.0.113.1"),
        dataclasses.replace(FAR, node="moved-away", addresses=()),
    ]
    found = clients([record.to_object() for record in records], NETWORKS)
    assert found == ("192.168.7.8", "192.168.7.9", "2001:db8::9", "203.0.113.1")


def test_nothing_but_addresses_gets_into_it() -> None:
    """What is no record and what is no address is left out: nobody opens the server by it."""
    broken: Dict[str, Any] = {"metadata": {"name": "node-x"}, "data": {"record": "junk"}}
    strange = dataclasses.replace(FAR, addresses=("0.0.0.0/0", "any\n allow"), source="192.168.7.9/1")
    assert clients([broken, strange.to_object()], NETWORKS) == ()
    assert acl_lines(()).decode().startswith("#")


@pytest.fixture
def api() -> FakeKubernetes:
    return FakeKubernetes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dns-clients.acl"


@pytest.fixture
def keeping(api: FakeKubernetes, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsClients]:
    """A keeper at work, which looks without a pause."""
    monkeypatch.setattr(dns_clients, "INTERVAL", 0.01)
    stop, keeper = Event(), DnsClients(api, DnsClientList(str(path), NETWORKS))
    work = Thread(target=keeper.run, args=(stop,), daemon=True)
    work.start()
    yield keeper
    stop.set()
    work.join(20)
    assert not work.is_alive()


def lines(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def becomes(path: Path, wanted: bytes) -> None:
    pause = Event()
    for _ in range(2000):
        if lines(path).encode() == wanted:
            return
        pause.wait(0.01)
    raise AssertionError(lines(path))


def test_it_follows_joins_and_removals(api: FakeKubernetes, path: Path, keeping: DnsClients) -> None:
    """A node is in the list from its admission to its removal; CoreDNS may read it."""
    becomes(path, acl_lines(()))
    api.add(record_path("far"), FAR.to_object())
    becomes(path, acl_lines(["192.168.7.9"]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    api.delete(record_path("far"))
    becomes(path, acl_lines(()))


def test_only_news_is_written(api: FakeKubernetes, path: Path) -> None:
    """Not before the records are known, and not what stands there already: CoreDNS starts anew with each change."""
    api.add(record_path("far"), FAR.to_object())
    path.write_bytes(acl_lines(["192.168.7.9"]))
    before = path.stat()
    keeper, stop = DnsClients(api, DnsClientList(str(path), NETWORKS)), Event()
    assert not keeper.step()
    assert path.stat() == before
    follower = Thread(target=keeper._records.run, args=(stop,), daemon=True)
    follower.start()
    assert keeper._changed.wait(20)
    assert not keeper.step()
    assert path.stat().st_ino == before.st_ino
    path.unlink()
    assert not keeper.step(), "nothing has changed"
    api.add(record_path("far"), dataclasses.replace(FAR, source="203.0.113.1").to_object())
    assert keeper._changed.wait(20)
    assert keeper.step()
    assert lines(path).encode() == acl_lines(["192.168.7.9", "203.0.113.1"])
    stop.set()


def test_a_full_disk_is_said_and_tried_again(
    api: FakeKubernetes, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list that cannot be written is not forgotten."""
    monkeypatch.setattr(dns_clients, "INTERVAL", 0.01)
    keeper, stop = DnsClients(api, DnsClientList(str(path), NETWORKS)), Event()
    path.mkdir()
    work = Thread(target=keeper.run, args=(stop,), daemon=True)
    work.start()
    pause, said = Event(), ""
    for _ in range(2000):
        said += capsys.readouterr().err
        if "list of DNS clients not written" in said:
            break
        pause.wait(0.01)
    path.rmdir()
    becomes(path, acl_lines(()))
    stop.set()
    work.join(20)
