"""Nodes that are full, or have as many volumes as they may: claims go elsewhere, and the scheduler learns why."""

import json
from typing import Any, Dict, List

import pytest
from tests.support import volumes
from tests.support.volume_house import CLAIMS, UID, VolumeHouse

from freehold_agent.contract.volumes import KEEP, MAKE, MOST, Refusal, Volume, VolumeList
from freehold_bootstrap import volume_records
from freehold_bootstrap.node_record import RECORDS
from freehold_controller.volume_provisioner.provisioner import CLASSES, VOLUMES
from freehold_controller.volume_provisioner.room import CAPACITIES, PATIENCE, capacities
from freehold_controller.volume_provisioner.volume_objects import (
    SELECTED_NODE,
    claim_of,
    class_of,
    persistent_volume,
)


@pytest.fixture
def house() -> VolumeHouse:
    return VolumeHouse()


def test_a_full_node_loses_the_claim(house: VolumeHouse) -> None:
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


def test_a_full_node_is_tried_again(house: VolumeHouse) -> None:
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


def capacities_of(house: VolumeHouse) -> List[Dict[str, Any]]:
    found = [house.api.objects[path] for path in house.api.paths(CAPACITIES)]
    return [item for item in found if item["storageClassName"] == "local-path"]


def test_a_new_leader_forgets_which_nodes_were_full(house: VolumeHouse) -> None:
    """It reads the objects that are there and begins anew."""
    house.claim()
    house.step()
    house.report(refused={"pvc-" + UID.format(1): Refusal("full", 0)})
    house.step()
    house.provisioner = house.new()
    house.step()
    assert [item["nodeTopology"] for item in capacities_of(house)] == [{}]


def test_a_node_has_only_so_many(house: VolumeHouse) -> None:
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


def local_path(house: VolumeHouse) -> Any:
    found = class_of(house.api.objects[CLASSES + "/local-path"])
    assert found is not None
    return found


def test_capacities_are_named_by_what_they_say() -> None:
    """Their nodes cannot be changed: something else to say is another object."""
    names = {
        item["metadata"]["name"] for free in ({}, {"w1": 0}, {"w1": 5}) for item in capacities("c", free)
    }
    assert len(names) == 3
