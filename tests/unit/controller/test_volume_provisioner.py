"""From claim to PersistentVolume and back, in a fake cluster; what its agents would say is said by the tests."""

import json
import threading
from typing import Any, Dict, List

import pytest
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.volume_house import CLAIMS, UID, VolumeHouse

from freehold_agent.contract.volumes import DELETE, KEEP, MAKE, VolumeReport
from freehold_agent.machine.kubernetes_api import ApiError, Conflict
from freehold_bootstrap import volume_records
from freehold_bootstrap.identities import VOLUME_FINALIZER
from freehold_bootstrap.node_record import RECORDS
from freehold_controller.volume_provisioner.provisioner import CLASSES, NODES, VOLUMES
from freehold_controller.volume_provisioner.volume_objects import SELECTED_NODE, persistent_of


@pytest.fixture
def house() -> VolumeHouse:
    return VolumeHouse()


def test_a_claim_becomes_a_volume(house: VolumeHouse) -> None:
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


def test_nothing_is_written_twice(house: VolumeHouse) -> None:
    """When nothing changes, a look writes nothing."""
    house.provisioned()
    house.step(2)
    house.api.calls.clear()
    house.step(3)
    assert {verb for verb, _ in house.api.calls} == {"list"}


def test_a_claim_without_node_or_of_another_class_waits(house: VolumeHouse) -> None:
    """Neither is ours to act on, nor is one that is bound or leaving."""
    house.claim(1, node=None)
    house.claim(2, storage_class="foreign")
    house.claim(3)
    house.api.merge(CLAIMS + "/c3", {"spec": {"volumeName": "mine"}})
    house.claim(4)
    house.api.merge(CLAIMS + "/c4", {"metadata": {"deletionTimestamp": "2026-11-23T08:00:00Z"}})
    house.step()
    assert house.wanted() == {}


def test_a_released_volume_goes_after_its_data(house: VolumeHouse) -> None:
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


def test_an_older_report_does_not_speak_of_the_data(house: VolumeHouse) -> None:
    """A report about a former list says nothing, though it names the volume as deleted."""
    name = house.provisioned()
    house.report(deleted=(name,))
    house.bind(name, phase="Released")
    house.api.delete(CLAIMS + "/c1")
    house.step(2)
    assert VOLUMES + "/" + name in house.api.objects


def test_a_retained_volume_stays_with_its_data(house: VolumeHouse) -> None:
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


def test_a_volume_deleted_by_hand_takes_its_data_with_it(house: VolumeHouse) -> None:
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


def test_a_claim_given_up_leaves_nothing(house: VolumeHouse) -> None:
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


def test_data_is_not_removed_because_a_mirror_is_late(house: VolumeHouse) -> None:
    """The volume is asked for at the API server before a directory is called unused."""
    name = house.claim()
    house.step()
    house.report(made=(name,))
    house.step()
    made = house.api.objects.pop(VOLUMES + "/" + name)
    claim = house.api.objects.pop(CLAIMS + "/c1")
    house.see()
    house.api.objects[VOLUMES + "/" + name] = made
    house.provisioner.step()
    assert house.wanted() == {name: MAKE}
    house.api.objects[CLAIMS + "/c1"] = claim
    house.step()
    assert house.wanted() == {name: KEEP}


def test_a_bound_claim_keeps_its_directory_though_its_volume_is_not_seen(house: VolumeHouse) -> None:
    """The claim is proof enough."""
    name = house.claim()
    house.step()
    house.api.merge(CLAIMS + "/c1", {"spec": {"volumeName": name}})
    house.step()
    assert house.wanted() == {name: MAKE}


def test_a_claim_that_moved_leaves_nothing_behind(house: VolumeHouse) -> None:
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


def test_a_node_that_is_gone_holds_up_nothing(house: VolumeHouse) -> None:
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


def test_lost_data_is_said_of_the_volume(house: VolumeHouse) -> None:
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
def test_what_cannot_be_had_is_said(house: VolumeHouse, change: Dict[str, Any], words: str) -> None:
    """Nothing is made, and an Event says why, once."""
    house.claim()
    house.api.merge(CLAIMS + "/c1", {"spec": change})
    house.step(2)
    assert house.wanted() == {}
    (said,) = house.events()
    assert words in said


def test_a_class_must_wait_for_pods(house: VolumeHouse) -> None:
    """A class of ours that binds at once has no node to make volumes on."""
    house.api.merge(CLASSES + "/local-path", {"volumeBindingMode": "Immediate"})
    house.claim(node=None)
    house.step()
    assert "WaitForFirstConsumer" in house.events()[0]


def test_a_list_that_cannot_be_read_stops_everything(house: VolumeHouse) -> None:
    """To go on would be to forget which directories hold data."""
    house.provisioned()
    house.api.merge(RECORDS + "/volumes-w1", {"data": {"volumes": "{"}})
    before = json.dumps(house.api.objects[RECORDS + "/volumes-w1"])
    with pytest.raises(OSError, match="list of volumes of w1"):
        house.step()
    assert json.dumps(house.api.objects[RECORDS + "/volumes-w1"]) == before


def test_a_report_that_cannot_be_read_is_none(house: VolumeHouse) -> None:
    """It came from a machine: nobody else suffers from it."""
    name = house.claim()
    house.step()
    house.report(made=(name,))
    house.api.merge(RECORDS + "/volume-report-w1", {"data": {"volume-report": "[]"}})
    house.step()
    assert house.api.paths(VOLUMES) == []


def test_who_was_faster_wins(house: VolumeHouse) -> None:
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


def test_an_old_report_does_not_replace_a_newer_one(house: VolumeHouse) -> None:
    """Reports may overtake each other; the same one again is not written."""
    assert volume_records.store_report(house.api, "w1", VolumeReport(5))
    assert not volume_records.store_report(house.api, "w1", VolumeReport(5))
    assert not volume_records.store_report(
        house.api, "w1", VolumeReport(4, deleted=("pvc-" + UID.format(1),))
    )
    assert volume_records.store_report(house.api, "w1", VolumeReport(5, made=("pvc-" + UID.format(1),)))


def test_it_runs_by_watching(house: VolumeHouse) -> None:
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
