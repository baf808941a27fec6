"""From claim to PersistentVolume and back, in a fake cluster whose agents are the real ones on a temporary disk."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import volumes
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.volumes import (
    DELETE,
    KEEP,
    MAKE,
    MOST,
    Refusal,
    Volume,
    VolumeList,
    VolumeReport,
)
from freehold_agent.machine.kubernetes_api import ApiError, Conflict
from freehold_bootstrap import volume_records
from freehold_bootstrap.identities import VOLUME_FINALIZER
from freehold_bootstrap.node_record import RECORDS
from freehold_controller.mirror import Mirror
from freehold_controller.volume_provisioner.provisioner import CLASSES, NODES, VOLUMES, VolumeProvisioner
from freehold_controller.volume_provisioner.room import CAPACITIES, PATIENCE, capacities
from freehold_controller.volume_provisioner.volume_objects import (
    SELECTED_NODE,
    claim_of,
    class_of,
    persistent_of,
    persistent_volume,
    quantity,
)

UID = "00000000-0000-4000-8000-{:012x}"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
EVENTS = "/api/v1/namespaces/default/events"


class House:
    """A cluster with nodes w1 and w2; `agent` answers as a node's agent would."""

    def __init__(self) -> None:
        self.api = FakeKubernetes()
        self.time = 1000.0
        self.api.add(CLASSES + "/local-path", volumes.storage_class("local-path", "/srv/v"))
        self.api.add(CLASSES + "/kept", volumes.storage_class("kept", "/srv/v", "Retain"))
        for node in ("w1", "w2"):
            self.api.add(NODES + "/" + node, {"metadata": {"name": node}})
        self.provisioner = self.new()

    def new(self) -> VolumeProvisioner:
        return VolumeProvisioner(self.api, "cp1", clock=lambda: self.time, now=lambda: self.time)

    def claim(self, number: int = 1, node: Optional[str] = "w1", storage_class: str = "local-path") -> str:
        body = volumes.claim("c{}".format(number), "1Gi", storage_class)
        body["metadata"].update(namespace="default", uid=UID.format(number))
        if node:
            body["metadata"]["annotations"] = {SELECTED_NODE: node}
        self.api.add("{}/c{}".format(CLAIMS, number), body)
        return "pvc-" + UID.format(number)

    def step(self, times: int = 1) -> None:
        """Look at everything as it is, and write what follows."""
        for _ in range(times):
            ended = threading.Event()
            for mirror in self.provisioner.mirrors:
                mirror._api = Still(self.api)  # type: ignore[assignment]
                mirror.follow(ended_after_list(ended))
            self.provisioner.step()

    def wanted(self, node: str = "w1") -> Dict[str, str]:
        """Return the states that a node's list asks for."""
        path = RECORDS + "/volumes-" + node
        if path not in self.api.objects:
            return {}
        return {
            volume.name: volume.state for volume in volume_records.list_in(self.api.objects[path]).volumes
        }

    def report(self, node: str = "w1", **said: Any) -> None:
        """Report as the agent of a node about its present list."""
        listed = volume_records.list_in(self.api.objects[RECORDS + "/volumes-" + node])
        volume_records.store_report(self.api, node, VolumeReport(listed.generation, **said))

    def bind(self, name: str, number: int = 1, phase: str = "Bound") -> None:
        """Do what the controller manager does with a new PersistentVolume."""
        self.api.merge(VOLUMES + "/" + name, {"status": {"phase": phase}}, "status")
        if phase == "Bound":
            self.api.merge("{}/c{}".format(CLAIMS, number), {"spec": {"volumeName": name}})

    def events(self) -> List[str]:
        return [self.api.objects[path]["message"] for path in self.api.paths(EVENTS)]

    def provisioned(self, **options: Any) -> str:
        """Return a volume that is bound."""
        name = self.claim(**options)
        self.step()
        self.report(made=(name,))
        self.step()
        self.bind(name)
        self.step()
        return name


class Still:
    """An API whose watches say nothing: a mirror is what one list says."""

    def __init__(self, api: FakeKubernetes) -> None:
        self._api = api

    def list(self, path: str, **query: Any) -> Dict[str, Any]:
        return self._api.list(path, **query)


def ended_after_list(event: threading.Event) -> threading.Event:
    event.set()
    return event


@pytest.fixture
def house() -> House:
    return House()


def test_a_claim_becomes_a_volume(house: House) -> None:
    """List, report, PersistentVolume with node and claim; then the list says that it holds data."""
    name = house.claim()
    house.step()
    assert house.wanted() == {name: MAKE}
    assert house.api.paths(VOLUMES) == [], "not before the directory is there"
    house.report(made=(name,))
    house.step()
    made = house.api.objects[VOLUMES + "/" + name]
    assert made["spec"]["local"]["path"] == "/srv/v/" + name
    assert made["spec"]["claimRef"]["uid"] == UID.format(1)
    assert made["metadata"]["finalizers"] == [VOLUME_FINALIZER]
    found = persistent_of(made)
    assert found is not None
    assert (found.node, found.capacity, found.retain) == ("w1", 1 << 30, False)
    house.bind(name)
    house.step()
    assert house.wanted() == {name: KEEP}


def test_nothing_is_written_twice(house: House) -> None:
    """When nothing changes, a look writes nothing."""
    house.provisioned()
    house.step(2)
    house.api.calls.clear()
    house.step(3)
    assert {verb for verb, _ in house.api.calls} == {"list"}


def test_a_claim_without_node_or_of_another_class_waits(house: House) -> None:
    """Neither is ours to act on, nor is one that is bound or leaving."""
    house.claim(1, node=None)
    house.claim(2, storage_class="foreign")
    house.claim(3)
    house.api.merge(CLAIMS + "/c3", {"spec": {"volumeName": "mine"}})
    house.claim(4)
    house.api.merge(CLAIMS + "/c4", {"metadata": {"deletionTimestamp": "2026-11-23T08:00:00Z"}})
    house.step()
    assert house.wanted() == {}


def test_a_released_volume_goes_after_its_data(house: House) -> None:
    """With Delete: the agent removes the data, and only then the PersistentVolume goes."""
    name = house.provisioned()
    house.api.delete(CLAIMS + "/c1")
    house.bind(name, phase="Released")
    house.step(2)
    assert house.wanted() == {name: DELETE}
    assert house.api.paths(VOLUMES) == [VOLUMES + "/" + name]
    house.report(deleted=(name,))
    house.step()
    assert house.api.paths(VOLUMES) == []
    house.step()
    assert house.wanted() == {}


def test_an_older_report_does_not_speak_of_the_data(house: House) -> None:
    """A report about a former list says nothing, though it names the volume as deleted."""
    name = house.provisioned()
    house.report(deleted=(name,))
    house.bind(name, phase="Released")
    house.api.delete(CLAIMS + "/c1")
    house.step(2)
    assert VOLUMES + "/" + name in house.api.objects


def test_a_retained_volume_stays_with_its_data(house: House) -> None:
    """With Retain a released volume is kept; deleted by an administrator it goes, and its data stays."""
    name = house.provisioned(storage_class="kept")
    house.api.delete(CLAIMS + "/c1")
    house.bind(name, phase="Released")
    house.step(2)
    assert house.wanted() == {name: KEEP}
    house.api.merge(VOLUMES + "/" + name, {"metadata": {"deletionTimestamp": "2026-11-23T08:00:00Z"}})
    house.step()
    assert "finalizers" not in house.api.objects[VOLUMES + "/" + name]["metadata"]
    house.api.delete(VOLUMES + "/" + name)
    house.step()
    assert house.wanted() == {}


def test_a_volume_deleted_by_hand_takes_its_data_with_it(house: House) -> None:
    """With Delete our finalizer holds a deleted PersistentVolume until its directory is gone; one in use stays."""
    name = house.provisioned()
    leaving = {"deletionTimestamp": "2026-11-23T08:00:00Z"}
    house.api.merge(
        VOLUMES + "/" + name,
        {"metadata": {**leaving, "finalizers": ["kubernetes.io/pv-protection", VOLUME_FINALIZER]}},
    )
    house.step()
    assert house.wanted() == {name: KEEP}, "somebody uses it"
    house.api.merge(VOLUMES + "/" + name, {"metadata": {"finalizers": [VOLUME_FINALIZER]}})
    house.step()
    assert house.wanted() == {name: DELETE}


def test_a_full_node_loses_the_claim(house: House) -> None:
    """First the scheduler learns about it, then the claim is taken off, and an Event says why."""
    name = house.claim()
    house.step()
    house.report(refused={name: Refusal("full", 4096)})
    house.step()
    verbs = [(verb, path) for verb, path in house.api.calls if verb in ("create", "merge", "delete")]
    capacity = verbs.index(("create", CAPACITIES))
    assert SELECTED_NODE not in house.api.objects[CLAIMS + "/c1"]["metadata"]["annotations"]
    assert capacity < verbs.index(("merge", CLAIMS + "/c1"))
    found = [house.api.objects[path] for path in house.api.paths(CAPACITIES)]
    assert [
        (item["nodeTopology"], item["capacity"]) for item in found if item["storageClassName"] == "local-path"
    ] in (
        [EXCEPT_W1, ONLY_W1],
        [ONLY_W1, EXCEPT_W1],
    )
    assert house.events() == ["node w1: full; another node is looked for"]
    house.step()
    assert house.wanted() == {}, "nothing was made"
    house.api.merge(CLAIMS + "/c1", {"metadata": {"annotations": {SELECTED_NODE: "w2"}}})
    house.step()
    assert (house.wanted("w1"), house.wanted("w2")) == ({}, {name: MAKE})


EXCEPT_W1 = (
    {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["w1"]}]},
    str(1 << 62),
)
ONLY_W1 = ({"matchLabels": {"kubernetes.io/hostname": "w1"}}, "4096")


def test_a_full_node_is_tried_again(house: House) -> None:
    """After a while, or when a volume on it goes."""
    house.claim()
    house.step()
    house.report(refused={"pvc-" + UID.format(1): Refusal("full", 0)})
    house.step()
    assert len(capacities_of(house)) == 1
    assert capacities_of(house)[0]["nodeTopology"] != {}
    house.time += PATIENCE + 1
    house.step()
    assert [item["nodeTopology"] for item in capacities_of(house)] == [{}]


def capacities_of(house: House) -> List[Dict[str, Any]]:
    found = [house.api.objects[path] for path in house.api.paths(CAPACITIES)]
    return [item for item in found if item["storageClassName"] == "local-path"]


def test_a_new_leader_forgets_which_nodes_were_full(house: House) -> None:
    """It reads the objects that are there and begins anew."""
    house.claim()
    house.step()
    house.report(refused={"pvc-" + UID.format(1): Refusal("full", 0)})
    house.step()
    house.provisioner = house.new()
    house.step()
    assert [item["nodeTopology"] for item in capacities_of(house)] == [{}]


def test_a_claim_given_up_leaves_nothing(house: House) -> None:
    """Its directory is removed, because nobody got to use it."""
    name = house.claim()
    house.step()
    house.report(made=(name,))
    house.api.delete(CLAIMS + "/c1")
    house.step()
    assert house.wanted() == {name: DELETE}
    house.report(deleted=(name,))
    house.step()
    assert house.wanted() == {}


def test_data_is_not_removed_because_a_mirror_is_late(house: House) -> None:
    """The volume is asked for at the API server before a directory is called unused."""
    name = house.claim()
    house.step()
    house.report(made=(name,))
    house.step()
    made = house.api.objects.pop(VOLUMES + "/" + name)
    claim = house.api.objects.pop(CLAIMS + "/c1")
    for mirror in house.provisioner.mirrors:
        mirror._api = Still(house.api)  # type: ignore[assignment]
        mirror.follow(ended_after_list(threading.Event()))
    house.api.objects[VOLUMES + "/" + name] = made
    house.provisioner.step()
    assert house.wanted() == {name: MAKE}
    house.api.objects[CLAIMS + "/c1"] = claim
    house.step()
    assert house.wanted() == {name: KEEP}


def test_a_bound_claim_keeps_its_directory_though_its_volume_is_not_seen(house: House) -> None:
    """The claim is proof enough."""
    name = house.claim()
    house.step()
    house.api.merge(CLAIMS + "/c1", {"spec": {"volumeName": name}})
    house.step()
    assert house.wanted() == {name: MAKE}


def test_a_claim_that_moved_leaves_nothing_behind(house: House) -> None:
    """Its directory on the former node goes, the one on the new node is made; both have the same name."""
    name = house.claim()
    house.step()
    house.api.merge(CLAIMS + "/c1", {"metadata": {"annotations": {SELECTED_NODE: "w2"}}})
    house.step()
    assert (house.wanted("w1"), house.wanted("w2")) == ({name: DELETE}, {name: MAKE})
    house.report("w2", made=(name,))
    house.step(2)
    assert (house.wanted("w1"), house.wanted("w2")) == ({name: DELETE}, {name: KEEP})
    house.report("w1", deleted=(name,))
    house.step()
    assert house.wanted("w1") == {}
    assert VOLUMES + "/" + name in house.api.objects, "a report of one node is about its own directory"


def test_a_node_that_is_gone_holds_up_nothing(house: House) -> None:
    """A claim that waits for it goes elsewhere, a released volume on it goes; what is retained or in use stays."""
    name = house.provisioned()
    house.api.delete(NODES + "/w1")
    house.step()
    assert VOLUMES + "/" + name in house.api.objects
    house.api.delete(CLAIMS + "/c1")
    house.bind(name, phase="Released")
    house.claim(2)
    house.step()
    assert house.api.paths(VOLUMES) == []
    assert SELECTED_NODE not in house.api.objects[CLAIMS + "/c2"]["metadata"]["annotations"]


def test_lost_data_is_said_of_the_volume(house: House) -> None:
    """What the agent says of a volume that holds data is an Event of the PersistentVolume, once."""
    name = house.provisioned()
    house.report(failed={name: "/srv/v is gone"})
    house.step(3)
    assert house.events() == ["on node w1: /srv/v is gone"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volumeMode": "Block"}, "not block devices"),
        ({"accessModes": ["ReadWriteMany"]}, "on one node"),
        ({"dataSource": {"kind": "VolumeSnapshot", "name": "x"}}, "starts empty"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "cannot select"),
    ],
)
def test_what_cannot_be_had_is_said(house: House, change: Dict[str, Any], words: str) -> None:
    """Nothing is made, and an Event says why, once."""
    house.claim()
    house.api.merge(CLAIMS + "/c1", {"spec": change})
    house.step(2)
    assert house.wanted() == {}
    (said,) = house.events()
    assert words in said


def test_a_class_must_wait_for_pods(house: House) -> None:
    """A class of ours that binds at once has no node to make volumes on."""
    house.api.merge(CLASSES + "/local-path", {"volumeBindingMode": "Immediate"})
    house.claim(node=None)
    house.step()
    assert "WaitForFirstConsumer" in house.events()[0]


def test_a_node_has_only_so_many(house: House) -> None:
    """List and report stay small; what is beyond goes elsewhere."""
    old = tuple(Volume("pvc-" + UID.format(1000 + one), "/srv/v", 1, KEEP, 1) for one in range(MOST))
    for volume in old:
        body = volumes.claim("x", "1", "local-path")
        body["metadata"].update(
            namespace="default", name=volume.name, uid=volume.name[4:], resourceVersion="1"
        )
        body["metadata"]["annotations"] = {SELECTED_NODE: "w1"}
        house.api.add(VOLUMES + "/" + volume.name, persistent_volume(claim_of(body), local_path(house)))
    house.api.create(RECORDS, _list("w1", VolumeList(1, old)))
    house.claim()
    house.step()
    assert len(house.wanted()) == MOST
    assert "has 1000 local volumes already" in house.events()[0]


def _list(node: str, wanted: VolumeList) -> Dict[str, Any]:
    name = volume_records.name_of(volume_records.LIST, node)
    data = {"volumes": json.dumps(wanted.to_json()), "generation": str(wanted.generation)}
    return {"metadata": {"name": name, "labels": {"freehold.io/record": "volumes"}}, "data": data}


def local_path(house: House) -> Any:
    found = class_of(house.api.objects[CLASSES + "/local-path"])
    assert found is not None
    return found


def test_a_list_that_cannot_be_read_stops_everything(house: House) -> None:
    """To go on would be to forget which directories hold data."""
    house.provisioned()
    house.api.merge(RECORDS + "/volumes-w1", {"data": {"volumes": "{"}})
    before = json.dumps(house.api.objects[RECORDS + "/volumes-w1"])
    with pytest.raises(OSError, match="list of volumes of w1"):
        house.step()
    assert json.dumps(house.api.objects[RECORDS + "/volumes-w1"]) == before


def test_a_report_that_cannot_be_read_is_none(house: House) -> None:
    """It came from a machine: nobody else suffers from it."""
    name = house.claim()
    house.step()
    house.report(made=(name,))
    house.api.merge(RECORDS + "/volume-report-w1", {"data": {"volume-report": "[]"}})
    house.step()
    assert house.api.paths(VOLUMES) == []


def test_who_was_faster_wins(house: House) -> None:
    """A list that changed since it was read is not overwritten; a volume that exists already is taken as it is."""
    name = house.claim()
    house.step()
    house.api.fail("replace", RECORDS, Conflict(409, "Conflict", "changed"))
    house.claim(2)
    with pytest.raises(Conflict):
        house.step()
    house.report(made=(name,))
    house.api.fail("create", VOLUMES, ApiError(500, "InternalError", "no"))
    with pytest.raises(ApiError):
        house.step()
    house.step()
    assert VOLUMES + "/" + name in house.api.objects


def test_the_generation_follows_the_clock_and_never_goes_back() -> None:
    """After the data store was put back to an earlier day, lists are newer than any that agents have seen."""
    assert volume_records.next_generation(5, lambda: 1000.0) == 1000000
    assert volume_records.next_generation(2000000, lambda: 1000.0) == 2000001


def test_an_old_report_does_not_replace_a_newer_one(house: House) -> None:
    """Reports may overtake each other; the same one again is not written."""
    assert volume_records.store_report(house.api, "w1", VolumeReport(5))
    assert not volume_records.store_report(house.api, "w1", VolumeReport(5))
    assert not volume_records.store_report(
        house.api, "w1", VolumeReport(4, deleted=("pvc-" + UID.format(1),))
    )
    assert volume_records.store_report(house.api, "w1", VolumeReport(5, made=("pvc-" + UID.format(1),)))


def test_it_runs_by_watching(house: House) -> None:
    """The loop follows changes by itself, and ends when told to."""
    stop = threading.Event()
    beats: List[int] = []
    seen = threading.Event()
    house.api.on("create", VOLUMES, lambda *_: seen.set())
    house.api.on("create", RECORDS, lambda api, path, _: agent(api, path))
    thread = threading.Thread(target=house.provisioner.run, args=(stop, lambda: beats.append(1)))
    thread.start()
    house.claim()
    assert seen.wait(20)
    stop.set()
    house.claim(2)
    thread.join(30)
    assert not thread.is_alive()
    assert beats


def agent(api: FakeKubernetes, path: str) -> None:
    """Answer each list: everything is made at once."""
    if "/volumes-" in path:
        listed = volume_records.list_in(api.objects[path])
        made = tuple(volume.name for volume in listed.volumes)
        volume_records.store_report(api, path.rpartition("-")[2], VolumeReport(listed.generation, made))


def test_a_mirror_takes_no_step_back(house: House) -> None:
    """An event older than what we have just written is not news."""
    mirror = Mirror(house.api, NODES, lambda: None)
    mirror.put({"metadata": {"name": "w1", "uid": "u", "resourceVersion": "9"}, "new": True})
    assert not mirror._take("MODIFIED", {"metadata": {"name": "w1", "uid": "u", "resourceVersion": "8"}})
    assert (mirror.get("w1") or {})["new"]
    assert mirror._take("ADDED", {"metadata": {"name": "w1", "uid": "v", "resourceVersion": "8"}})
    assert mirror._take("DELETED", {"metadata": {"name": "w1", "uid": "v", "resourceVersion": "10"}})
    assert mirror.items() == []


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("1", 1),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("500M", 500000000),
        ("1e9", 10**9),
        ("100m", 1),
        ("0", 0),
    ],
)
def test_quantities(text: str, bytes_: int) -> None:
    """As Kubernetes reads them, rounded up."""
    assert quantity(text) == bytes_


@given(st.text(max_size=12))
def test_other_texts_are_no_quantities(text: str) -> None:
    """Anything is a number or a ValueError."""
    with contextlib.suppress(ValueError):
        assert quantity(text) >= 0


def test_capacities_are_named_by_what_they_say() -> None:
    """Their nodes cannot be changed: something else to say is another object."""
    names = {
        item["metadata"]["name"] for free in ({}, {"w1": 0}, {"w1": 5}) for item in capacities("c", free)
    }
    assert len(names) == 3
    assert Path(VOLUMES).name == "persistentvolumes"
