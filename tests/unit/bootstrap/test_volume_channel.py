"""The agent's line to the control plane, against a real listener with the real routes of the join service."""

import json
import threading
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from tests.support.a_node import a_document
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.served import Served

from freehold_agent.channel import REMOVED_PAUSE, Channel
from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.volumes import DELETE, KEEP, MAKE, Volume, VolumeList
from freehold_agent.volume_channel import JoinService, ServiceError, VolumeChannel
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
        watch._synced.update(dict.fromkeys(watch._synced, True))
        self.restart()

    def restart(self) -> None:
        """Be an agent that has just been started."""
        self.volumes = VolumeChannel(
            JoinService(self.document, str(self.root)), VolumeKeeper(str(self.root)), self._log
        )
        self.channel = self.follower(0)

    def follower(self, wait: float) -> Channel:
        return Channel(
            self.document, lambda: None, self._log, volumes=self.volumes, root=str(self.root), wait=wait
        )

    def _log(self, level: int, text: str) -> None:
        self.log.append((level, text))

    def said(self) -> List[str]:
        return [text for _, text in self.log]

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
        with self.watch._known:
            self.watch._known.notify_all()

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
    """Made, reported; kept; removed, reported; each with one question."""
    house.wants(MAKE)
    assert house.channel.poll() == 0
    assert house.directory.is_dir()
    assert house.reported()["made"] == [NAME]
    house.wants(KEEP)
    assert house.channel.poll() == 0
    assert house.reported()["made"] == []
    house.wants(DELETE)
    assert house.channel.poll() == 0
    assert house.directory.is_dir(), "removing is another thread's"
    assert house.volumes.remove_all()
    assert not house.directory.exists()
    assert house.reported()["deleted"] == [NAME]


def test_nothing_new_writes_nothing(house: House) -> None:
    """A poll that ends without news touches nothing, and reports nothing."""
    house.wants(MAKE)
    house.channel.poll()
    house.api.calls.clear()
    assert house.channel.poll() == 0
    assert {verb for verb, _ in house.api.calls} == {"get"}


def test_a_restarted_agent_finishes_what_was_begun(house: House) -> None:
    """It remembers its list: what is unfinished is done and reported anew, what is finished asks for nothing."""
    house.wants(MAKE)
    house.channel.poll()
    house.api.delete(RECORDS + "/volume-report-w1")
    house.directory.rmdir()
    house.restart()
    assert house.volumes.ready() == house.generation
    assert house.directory.is_dir()
    assert house.reported()["made"] == [NAME]
    house.wants(KEEP)
    house.channel.poll()
    house.api.calls.clear()
    house.restart()
    assert house.volumes.ready() == house.generation
    assert house.api.calls == []


def test_a_report_that_was_lost_is_sent_again(house: House) -> None:
    """The list came, then the service went away: nobody waits for its next generation."""
    good = house.endpoints
    house.wants(MAKE)
    wanted = json.loads(house.watch._documents["volumes"]["volumes-w1"][1])
    house.endpoints = ("https://localhost:1",)
    house.volumes.receive(wanted)
    assert house.directory.is_dir()
    assert house.volumes.ready() is None
    house.endpoints = good
    assert house.volumes.ready() == house.generation
    assert house.reported()["made"] == [NAME]


def test_a_list_that_cannot_be_taken_holds_up_no_document(house: House) -> None:
    """It is said once; the next question is for the document alone, so that the same list does not come at once."""
    house.wants(MAKE)
    generation, text = house.watch._documents["volumes"]["volumes-w1"]
    house.watch._documents["volumes"]["volumes-w1"] = (
        generation,
        text.replace('"version": 1', '"version": 9'),
    )
    assert house.channel.poll() == 0
    newer = a_document(generation=2, ca_pem=house.ca, join_endpoints=house.endpoints)
    house.watch._documents["document"]["document-w1"] = (2, newer.dumps().decode())
    assert house.channel.poll() == 0
    assert house.channel.offered() == newer
    assert house.channel.poll() == 0
    assert [said for said in house.said() if "version 9" in said] == ["volumes: list of volumes of version 9"]
    assert not house.directory.exists()


def test_what_cannot_be_removed_is_said_and_tried_again(house: House) -> None:
    """The report says why, and a later try works."""
    house.wants(DELETE, "/srv/ssd")
    house.channel.poll()
    assert not house.volumes.remove_all()
    assert "there is no /srv/ssd" in house.reported()["failed"][NAME]
    (house.root / "srv/ssd" / NAME).mkdir(parents=True, mode=0o755)
    assert house.volumes.remove_all()
    assert house.reported()["deleted"] == [NAME]


def test_the_second_join_service_is_asked_when_the_first_is_away(house: House) -> None:
    """For lists and for reports; nothing is lost."""
    good = house.endpoints
    house.endpoints = ("https://localhost:1", *good)
    house.wants(MAKE)
    assert house.channel.poll() > 0
    assert house.channel.poll() == 0
    assert house.reported()["made"] == [NAME]
    house.endpoints = ()
    with pytest.raises(ServiceError, match="names no join service"):
        house.volumes.send()


def test_a_removed_node_is_told_so(house: House) -> None:
    """One line says what to do, and a report is refused."""
    house.api.delete("/api/v1/nodes/w1")
    assert house.channel.poll() == REMOVED_PAUSE
    assert "was removed from the cluster" in house.said()[0]
    with pytest.raises(ServiceError, match="410"):
        house.volumes.send()


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
    house.volumes.start()
    channel = house.follower(240)
    channel.start()
    assert made.wait(20)
    house.wants(DELETE)
    assert gone.wait(20)
    house.volumes.stop()
    channel.stop()
    assert [said.split(":")[0] for said in house.said()][:2] == ["volumes made", "volumes removed"]


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
    reply = service.ask("POST", "/v1/volumes", body.encode() if isinstance(body, str) else body or b" ")
    assert (reply.status, json.loads(reply.body)["reason"]) == (400, "bad-request")
    assert house.api.paths(RECORDS + "/volume-report-") == []


def test_documents_and_lists_share_a_poll(house: House) -> None:
    """Whoever asks for both gets the document first; whoever asks for neither generation gets the document."""
    service = JoinService(house.document, str(house.root))

    def get(query: str) -> Tuple[int, Any]:
        reply = service.ask("GET", "/v1/document/w1" + query)
        return reply.status, json.loads(reply.body or b"null")

    house.wants(MAKE)
    house.watch._documents["document"]["document-w1"] = (3, '{"generation": 3}')
    assert get("") == (200, {"generation": 3})
    assert get("?generation=2&volumes=0") == (200, {"generation": 3})
    assert get("?generation=3&volumes=0")[1]["kind"] == "volumes"
    assert get("?generation=3&volumes=1") == (204, None)
    assert get("?volumes=x")[0] == 400
