"""The agent's line to the control plane, against a real listener with the real routes of the join service."""

import json
import threading
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from tests.support.a_node import a_document
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.served import Served

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.volumes import DELETE, KEEP, MAKE, Volume, VolumeList
from freehold_agent.keep import NotJoinedError
from freehold_agent.volume_channel import JoinService, ServiceError, VolumeChannel, open_channel
from freehold_agent.volumes import VolumeKeeper
from freehold_bootstrap import node_record, volume_records
from freehold_bootstrap.join_service.audit import Audit
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.joining import Joining
from freehold_bootstrap.join_service.routes import Routes
from freehold_bootstrap.node_record import RECORDS, NodeRecord
from freehold_bootstrap.pki_directory import PkiDirectory

NAME = "pvc-00000000-0000-4000-8000-000000000001"
"""The one volume of these tests."""


class House:
    """A join service on loopback and the machine w1 with its certificate."""

    def __init__(
        self, served: Served, api: FakeKubernetes, watch: DocumentWatch, root: Path, ca: str
    ) -> None:
        self.api = api
        self.watch = watch
        self.root = root
        self.served = served
        self.endpoints: Tuple[str, ...] = ("https://localhost:{}".format(served.port),)
        self.ca = ca
        self.log: List[Tuple[int, str]] = []
        self.version: Any = None
        self.generation = 0
        (root / "var/lib/freehold").mkdir(parents=True, mode=0o755)
        self.channel = self.new()

    def new(self) -> VolumeChannel:
        service = JoinService(self.document, str(self.root))
        return VolumeChannel(service, VolumeKeeper(str(self.root)), lambda *said: self.log.append(said))

    def document(self) -> JoinDocument:
        return a_document(join_endpoints=self.endpoints, ca_pem=self.ca)

    def wants(self, state: str, base: str = paths.VOLUMES) -> None:
        self.generation += 1
        wanted = VolumeList(self.generation, (Volume(NAME, base, 1, state, self.generation),))
        stored = volume_records.write_list(self.api, "w1", wanted, self.version)
        self.version = stored["metadata"]["resourceVersion"]
        self.watch._documents["volumes"]["volumes-w1"] = (
            volume_records.generation_of(stored),
            volume_records.text_of(stored),
        )
        self.watch._synced["volumes"] = True

    def reported(self) -> Any:
        return json.loads(self.api.objects[RECORDS + "/volume-report-w1"]["data"]["volume-report"])

    @property
    def directory(self) -> Path:
        return self.root / paths.VOLUMES[1:] / NAME


@pytest.fixture
def house(
    tmp_path: Path,
    cluster_pki: PkiDirectory,
    node_certificate: Callable[..., str],
    serve: Callable[..., Served],
) -> House:
    api = FakeKubernetes()
    node = api.add("/api/v1/nodes/w1", {"metadata": {"name": "w1"}})
    record = NodeRecord("w1", ("10.73.0.12",), "join", node["metadata"]["uid"])
    node_record.write(api, record, None)
    watch = DocumentWatch(api)
    served = serve(Routes(Joining(api, Audit(api)), watch).answer)
    certificate = tmp_path / "m" / paths.KUBELET_CLIENT_CERTIFICATE[1:]
    certificate.parent.mkdir(parents=True)
    certificate.write_bytes(Path(node_certificate("system:node:w1")).read_bytes())
    return House(served, api, watch, tmp_path / "m", cluster_pki.ca_pem())


def test_a_list_is_acted_on_and_reported(house: House) -> None:
    """Made, reported; kept; removed, reported."""
    house.wants(MAKE)
    assert house.channel.step(0)
    assert house.directory.is_dir()
    assert house.reported()["made"] == [NAME]
    house.wants(KEEP)
    assert house.channel.step(0)
    assert house.reported()["made"] == []
    house.wants(DELETE)
    assert house.channel.step(0)
    assert house.directory.is_dir(), "removing is another thread's"
    assert house.channel.remove_all()
    assert not house.directory.exists()
    assert house.reported()["deleted"] == [NAME]


def test_nothing_new_writes_nothing(house: House) -> None:
    """A poll that ends without news touches nothing, and reports nothing."""
    house.wants(MAKE)
    house.channel.step(0)
    house.api.calls.clear()
    assert not house.channel.step(0)
    assert {verb for verb, _ in house.api.calls} <= {"get"}


def test_a_restarted_agent_finishes_what_was_begun(house: House) -> None:
    """It remembers its list: what is unfinished is done and reported anew, what is finished asks for nothing."""
    house.wants(MAKE)
    house.channel.step(0)
    house.api.delete(RECORDS + "/volume-report-w1")
    house.directory.rmdir()
    house.channel = house.new()
    house.channel.begin()
    assert house.directory.is_dir()
    assert house.reported()["made"] == [NAME]
    house.wants(KEEP)
    house.channel.step(0)
    house.api.calls.clear()
    house.channel = house.new()
    house.channel.begin()
    assert house.api.calls == []
    assert not house.channel.step(0)


def test_what_cannot_be_removed_is_said_and_tried_again(house: House) -> None:
    """The report says why, and a later try works."""
    house.wants(DELETE, "/srv/ssd")
    house.channel.step(0)
    assert not house.channel.remove_all()
    assert "there is no /srv/ssd" in house.reported()["failed"][NAME]
    (house.root / "srv/ssd" / NAME).mkdir(parents=True, mode=0o755)
    assert house.channel.remove_all()
    assert house.reported()["deleted"] == [NAME]


def test_a_control_plane_that_is_away_is_one_line(house: House) -> None:
    """Nothing is lost, nothing is repeated in the log, and the second endpoint is tried."""
    good = house.endpoints
    house.endpoints = ("https://localhost:1",)
    for _ in range(3):
        with pytest.raises(OSError, match="refused"):
            house.channel.step(0)
    house.endpoints = ("https://localhost:1", *good)
    house.wants(MAKE)
    assert house.channel.step(0)
    house.endpoints = ()
    with pytest.raises(ServiceError, match="names no join service"):
        house.channel.step(0)


def test_a_removed_node_is_told_so(house: House) -> None:
    """The service's words reach the log."""
    house.api.delete("/api/v1/nodes/w1")
    with pytest.raises(ServiceError, match="was removed"):
        house.channel.step(0)
    with pytest.raises(ServiceError, match="410"):
        house.channel.send()


def test_it_follows_in_threads(house: House) -> None:
    """Started, it makes and removes by itself; the log has a line for each."""
    made, gone = threading.Event(), threading.Event()

    def look(_api: Any, path: str, obj: Any) -> None:
        said = json.loads(obj["data"]["volume-report"]) if "volume-report" in obj["data"] else {}
        if said.get("made"):
            made.set()
        if said.get("deleted"):
            gone.set()

    house.api.on("create", RECORDS, look)
    house.api.on("replace", RECORDS, look)
    house.wants(MAKE)
    house.channel.start()
    assert made.wait(20)
    house.wants(DELETE)
    with house.watch._known:
        house.watch._known.notify_all()
    assert gone.wait(20)
    house.channel.stop()
    assert [said.split(":")[0] for _, said in house.log][:2] == ["volumes made", "volumes removed"]


def test_without_a_document_it_waits(tmp_path: Path) -> None:
    """A machine that is no node yet says so once, and the thread lives on."""
    said: List[str] = []
    heard = threading.Event()

    def document() -> JoinDocument:
        raise NotJoinedError("this machine is no node")

    def log(_level: int, text: str) -> None:
        said.append(text)
        heard.set()

    channel = open_channel(document, log, str(tmp_path))
    thread = threading.Thread(target=channel.run)
    thread.start()
    assert heard.wait(10)
    channel.stop()
    thread.join(10)
    assert said == ["control plane: this machine is no node"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"version": 1}',
        json.dumps(
            {"version": 1, "generation": 1, "made": ["../x"], "deleted": [], "refused": {}, "failed": {}}
        ),
        b"[" * 5000,
    ],
)
def test_a_report_that_is_none_is_refused(house: House, body: Any) -> None:
    """The service keeps nothing that it has not understood."""
    service = JoinService(house.document, str(house.root))
    status, said = service.ask(
        "POST", "/v1/volumes", body.encode() if isinstance(body, str) else body or b" "
    )
    assert (status, json.loads(said)["reason"]) == (400, "bad-request")
    assert house.api.paths(RECORDS + "/volume-report-") == []


def test_documents_and_lists_share_a_poll(house: House) -> None:
    """Whoever asks for both gets the document first; whoever asks for neither generation gets the document."""
    service = JoinService(house.document, str(house.root))
    house.wants(MAKE)
    house.watch._documents["document"]["document-w1"] = (3, '{"generation": 3}')
    house.watch._synced["document"] = True
    ask = "/v1/document/w1"
    assert json.loads(service.ask("GET", ask)[1]) == {"generation": 3}
    assert json.loads(service.ask("GET", ask + "?generation=2&volumes=0")[1]) == {"generation": 3}
    assert json.loads(service.ask("GET", ask + "?generation=3&volumes=0")[1])["kind"] == "volumes"
    assert service.ask("GET", ask + "?generation=3&volumes=1")[0] == 204
    assert service.ask("GET", ask + "?volumes=x")[0] == 400
