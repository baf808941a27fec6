"""Documents follow the cluster's settings, with generations that only grow."""

import dataclasses
import json
from threading import Event, Thread
from typing import Any, Dict

from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import JoinDocument, Network
from freehold_bootstrap import documents
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.node_record import RECORDS, NodeRecord, record_path
from freehold_controller.node_documents import SETTINGS, NodeDocuments

CONFIG = RECORDS + "/" + SETTINGS


def some_settings(**changes: Any) -> ClusterSettings:
    network = Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local")
    manifest = Manifest.from_json({"version": 1, "release": "1.37.2", "architecture": "amd64", "entries": []})
    settings = ClusterSettings(
        "lab", ("https://10.73.0.11:6443",), ("https://a:6445",), ("https://a:6444",), "CA", network, manifest
    )
    return dataclasses.replace(settings, **changes)


def as_object(settings: ClusterSettings) -> Dict[str, Any]:
    return {"metadata": {"name": SETTINGS}, "data": {"settings": json.dumps(settings.to_json())}}


def a_node(api: FakeKubernetes, name: str, pod_cidr: str = "10.244.1.0/24", uid: str = "") -> None:
    spec = {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]} if pod_cidr else {}
    node = api.add("/api/v1/nodes/" + name, {"metadata": {"name": name}, "spec": spec})
    record = NodeRecord(name, ("10.73.0.21",), "join", uid or node["metadata"]["uid"])
    api.add(record_path(name), record.to_object())


def document(api: FakeKubernetes, name: str) -> JoinDocument:
    return JoinDocument.loads(documents.text_of(api.objects[documents.document_path(name)]).encode())


def test_changed_settings_give_every_document_the_next_generation() -> None:
    """Unchanged settings write nothing; changed ones reach each node, once."""
    api = FakeKubernetes()
    a_node(api, "w1")
    a_node(api, "w2", "10.244.2.0/24")
    writer = NodeDocuments(api)
    assert writer.write_all(as_object(some_settings())) == 2
    assert writer.write_all(as_object(some_settings())) == 0
    assert NodeDocuments(api).write_all(as_object(some_settings())) == 0
    changed = some_settings(endpoints=("https://10.73.0.11:6443", "https://10.73.0.12:6443"))
    assert writer.write_all(as_object(changed)) == 2
    assert document(api, "w2").endpoints == changed.endpoints
    assert document(api, "w2").network.node_pod_cidrs == ("10.244.2.0/24",)
    assert [document(api, name).generation for name in ("w1", "w2")] == [2, 2]


def test_nodes_that_are_not_there_yet_or_no_more_get_none() -> None:
    """Without a pod network, with a namesake's Node or an unreadable record no document is written."""
    api = FakeKubernetes()
    a_node(api, "w1", pod_cidr="")
    a_node(api, "w2", uid="another")
    a_node(api, "w3")
    api.objects[record_path("w3")]["data"] = {"record": "junk"}
    assert NodeDocuments(api).write_all(as_object(some_settings())) == 0


def test_settings_that_cannot_be_read_change_nothing() -> None:
    """Nodes keep the documents they have."""
    api = FakeKubernetes()
    a_node(api, "w1")
    writer = NodeDocuments(api)
    writer.write_all(as_object(some_settings()))
    for text in ("", "junk", "[]", '{"version": 99}'):
        assert writer.write_all({"metadata": {"name": SETTINGS}, "data": {"settings": text}}) == 0
    assert document(api, "w1").generation == 1


def test_follows_the_settings_until_stopped() -> None:
    """Settings that come later are seen by the watch, also after a broken connection."""
    api = FakeKubernetes()
    a_node(api, "w1")
    api.fail("list", RECORDS, ConnectionRefusedError("not up yet"))
    api.fail("watch", RECORDS, ConnectionResetError("cut"))
    stop, written = Event(), Event()
    api.on("create", RECORDS, lambda *_: written.set())
    runner = Thread(target=NodeDocuments(api).run, args=(stop,), daemon=True)
    runner.start()
    api.add(CONFIG, as_object(some_settings()))
    assert written.wait(20)
    stop.set()
    api.add(CONFIG, as_object(some_settings(cluster="end")))
    runner.join(10)
    assert not runner.is_alive()
