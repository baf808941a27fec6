"""Local volumes: from claim to pod, data that stays and data that goes, full disks, odd names, a hundred at once."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import volumes
from tests.support.api_from_machine import ApiFromMachine
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.pods import make_namespace
from tests.support.whole import PATIENCE, Accident, nothing_to_apply

from freehold_agent.contract import paths

NAME = re.compile(r"pvc-[0-9a-f-]{36}")
MANY, PODS = 100, 5
LOAD = 300.0
"""Seconds that a test with a hundred volumes, or a reboot, may take on two shared processors."""


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    return cluster.bundle.image("busybox")


@pytest.fixture(scope="module")
def classes(cluster: Cluster, kubectl: Kubectl) -> Iterator[None]:
    """`kept` retains data in another path of every node; `small` is a little disk of each worker, w1's nearly full."""
    first, second = cluster.workers[:2]
    for node in cluster.nodes:
        cluster.run(node, "mkdir -p -m 0755 /srv/kept")
    for node, size in ((first, "32m"), (second, "64m")):
        cluster.run(
            node,
            "mkdir -p /mnt/small; mountpoint -q /mnt/small || "
            f"mount -t tmpfs -o size={size},mode=0755 tmpfs /mnt/small",
        )
    cluster.run(first, "head -c 25165824 /dev/zero > /mnt/small/filler")
    kubectl.apply(
        volumes.storage_class("kept", "/srv/kept", "Retain"),
        volumes.storage_class("small", "/mnt/small"),
        volumes.storage_class("nowhere", "/srv/nowhere"),
    )
    yield
    kubectl("delete", "storageclass", "kept", "small", "nowhere", check=False)
    # What Retain keeps is the operator's, so no reset would remove it either.
    for node in cluster.nodes:
        cluster.run(
            node,
            "rm -rf /srv/kept; ! mountpoint -q /mnt/small || umount --lazy /mnt/small; rm -rf /mnt/small",
        )


def test_the_default_class_is_ours(kubectl: Kubectl) -> None:
    """`local-path` is there, is the default, waits for a pod and deletes."""
    found = kubectl.json("get", "storageclass", "local-path")
    assert found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert (found["volumeBindingMode"], found["reclaimPolicy"]) == ("WaitForFirstConsumer", "Delete")


def test_a_pod_that_is_not_root_writes(cluster: Cluster, here: Kubectl, image: str) -> None:
    """A claim without a class becomes a directory on the pod's node, and user 1000 writes to it."""
    node = cluster.workers[0]
    begun = time.monotonic()
    here.apply(volumes.claim("data"), volumes.pod("writer", image, ["data"], node=node))
    here.wait("pod/writer", "condition=Ready", PATIENCE)
    print(f"claim to running pod: {time.monotonic() - begun:.1f} s")
    here.exec("writer", "sh", "-c", "echo hello > /data/0/file")
    volume = volume_of(here, "data")
    path = volume["spec"]["local"]["path"]
    assert path == f"{paths.VOLUMES}/{volume['metadata']['name']}"
    assert cluster.run(node, f"cat {path}/file; stat -c '%a %U' {path} {paths.VOLUMES}") == (
        "hello\n777 root\n700 root"
    )


def test_data_outlives_pod_agent_and_machine(cluster: Cluster, here: Kubectl, image: str) -> None:
    """The same file is there for the next pod, after a restart of the agent and after one of the machine."""
    node = cluster.workers[-1]
    here.apply(volumes.claim("data"), volumes.pod("one", image, ["data"], node=node))
    here.wait("pod/one", "condition=Ready", PATIENCE)
    here.exec("one", "sh", "-c", "echo precious > /data/0/file")
    here("delete", "pod", "one")
    cluster.run(node, "systemctl restart freehold-agent")
    here.apply(volumes.pod("two", image, ["data"]))
    here.wait("pod/two", "condition=Ready", PATIENCE)
    assert here.json("get", "pod", "two")["spec"]["nodeName"] == node, "the data is there"
    assert here.exec("two", "cat", "/data/0/file").stdout == "precious\n"
    story = Accident(f"reboot of {node}")
    cluster.lab.reboot(node)
    story.node_is_back(here, node)
    story.pods_are_back(here, node)
    assert here.exec("two", "cat", "/data/0/file").stdout == "precious\n"
    wait_for(lambda: nothing_to_apply(cluster), PATIENCE, "nothing to apply")


def test_deleted_claims_take_their_data_with_them(cluster: Cluster, here: Kubectl, image: str) -> None:
    """With Delete, directory and PersistentVolume go once no pod uses them, deep trees and odd files included."""
    here.apply(volumes.claim("data"), volumes.pod("writer", image, ["data"]))
    here.wait("pod/writer", "condition=Ready", PATIENCE)
    script = "cd /data/0; ln -s / root; mkfifo pipe; for i in $(seq 200); do mkdir d; touch d/f; cd d; done"
    here.exec("writer", "sh", "-c", script)
    volume = volume_of(here, "data")
    node = here.json("get", "pod", "writer")["spec"]["nodeName"]
    here("delete", "pvc", "data", "--wait=false")
    here("delete", "pod", "writer")
    here.wait(f"pv/{volume['metadata']['name']}", "delete", PATIENCE)
    assert cluster.run(node, f"ls -d {volume['spec']['local']['path']} || true") == ""


def test_retained_data_stays(cluster: Cluster, here: Kubectl, image: str, classes: None) -> None:
    """With Retain the directory is left when the claim goes, and when the volume itself is deleted."""
    here.apply(volumes.claim("data", storage_class="kept"), volumes.pod("writer", image, ["data"]))
    here.wait("pod/writer", "condition=Ready", PATIENCE)
    here.exec("writer", "sh", "-c", "echo precious > /data/0/file")
    volume = volume_of(here, "data")
    node = here.json("get", "pod", "writer")["spec"]["nodeName"]
    here("delete", "pod/writer", "pvc/data")
    here.wait(f"pv/{volume['metadata']['name']}", "jsonpath={.status.phase}=Released", PATIENCE)
    path = volume["spec"]["local"]["path"]
    assert path.startswith("/srv/kept/pvc-")
    assert cluster.run(node, f"cat {path}/file") == "precious"
    here("delete", "pv", volume["metadata"]["name"], timeout=PATIENCE)
    assert cluster.run(node, f"cat {path}/file") == "precious"


def test_a_stateful_set_keeps_each_ones_own(here: Kubectl, image: str) -> None:
    """Three replicas get three volumes; scaled to none and back, each finds its own again."""
    here.apply(*volumes.stateful_set("db", image, 3))
    names = [f"db-{number}" for number in range(3)]
    here("rollout", "status", "statefulset/db", f"--timeout={PATIENCE:.0f}s", timeout=PATIENCE + 10)
    for name in names:
        here.exec(name, "sh", "-c", f"echo {name} > /data/name")
    here("scale", "statefulset/db", "--replicas=0")
    here.wait("pod --selector=app=db", "delete", PATIENCE)
    here("scale", "statefulset/db", "--replicas=3")
    here("rollout", "status", "statefulset/db", f"--timeout={PATIENCE:.0f}s", timeout=PATIENCE + 10)
    assert [here.exec(name, "cat", "/data/name").stdout.strip() for name in names] == names
    assert len({volume_of(here, f"data-{name}")["spec"]["local"]["path"] for name in names}) == 3


def test_a_full_disk_sends_the_pod_elsewhere(
    cluster: Cluster, here: Kubectl, image: str, classes: None
) -> None:
    """The node that the scheduler prefers is full: the claim says so, and the pod runs where there is room."""
    first, second = cluster.workers[:2]
    here.apply(volumes.claim("data", "16Mi", "small"), volumes.pod("writer", image, ["data"], prefer=first))
    here.wait("pod/writer", "condition=Ready", PATIENCE)
    assert here.json("get", "pod", "writer")["spec"]["nodeName"] == second
    said = here("get", "events", "--field-selector=reason=ProvisioningFailed", "--output=wide").stdout
    assert f"node {first}: 16777216 bytes are asked for, /mnt/small has room for 8388608" in said
    here.apply(volumes.claim("less", "4Mi", "small"), volumes.pod("small", image, ["less"], prefer=first))
    here.wait("pod/small", "condition=Ready", PATIENCE)
    assert here.json("get", "pod", "small")["spec"]["nodeName"] == first, "a smaller one still fits there"


def test_a_claim_that_fits_nowhere_says_so(
    cluster: Cluster, here: Kubectl, image: str, classes: None
) -> None:
    """No node has the path, and none is shared by several nodes: pod and claim wait, and say why."""
    here.apply(volumes.claim("data", storage_class="nowhere"), volumes.pod("writer", image, ["data"]))
    here.apply(volumes.claim("shared", mode="ReadWriteMany"), volumes.pod("sharer", image, ["shared"]))

    def told() -> bool:
        said = here("get", "events", "--output=wide").stdout
        assert "there is no /srv/nowhere on this machine" in said, said
        assert "ReadWriteOnce or ReadWriteOncePod only" in said, said
        assert "did not have enough free storage" in said, said
        return True

    wait_for(told, PATIENCE, "events say why")
    for node in cluster.nodes:
        assert cluster.run(node, "ls -d /srv/nowhere || true") == "", "it was not made"


def test_hostile_names_stay_in_their_place(cluster: Cluster, kubectl: Kubectl, image: str) -> None:
    """The longest and oddest names that Kubernetes takes: every directory is `pvc-UUID` all the same."""
    namespace = "t-" + "n" * 61
    there = make_namespace(kubectl, namespace)
    try:
        names = [
            "etc.passwd",
            "x" * 63 + ("." + "y" * 62) * 3,
            "pvc-00000000-0000-4000-8000-000000000000",
            "0.0.0.0",
            "freehold-removed-1",
        ]
        before = {node: listing(cluster, node) for node in cluster.nodes}
        there.apply(*map(volumes.claim, names), volumes.pod("odd", image, names))
        there.wait("pod/odd", "condition=Ready", PATIENCE)
        script = "; ".join(f"echo {number} > /data/{number}/file" for number in range(len(names)))
        there.exec("odd", "sh", "-c", script)
        new = [name for node in cluster.nodes for name in set(listing(cluster, node)) - set(before[node])]
        assert len(new) == len(names)
        for node in cluster.nodes:
            assert all(NAME.fullmatch(name) for name in listing(cluster, node)), node
        for bad in ("../x", "a/b", "..", "-x", "A"):
            assert there.apply(volumes.claim(bad), check=False).failed, bad
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def test_a_claim_given_up_leaves_nothing(cluster: Cluster, here: Kubectl, image: str) -> None:
    """Pod and claim go before the pod ever runs, while the agent is down: no directory and no volume is left."""
    node = cluster.workers[0]
    before = listing(cluster, node)
    cluster.run(node, "systemctl stop freehold-agent")
    try:
        here.apply(volumes.claim("data"), volumes.pod("never", image, ["data"], node=node))
        wait_for(
            lambda: "selected-node" in str(here.json("get", "pvc", "data")["metadata"]),
            PATIENCE,
            "a node is chosen",
        )
        uid = here.json("get", "pvc", "data")["metadata"]["uid"]
        here("delete", "pod/never", "pvc/data")
    finally:
        cluster.run(node, "systemctl start freehold-agent")
    here.apply(volumes.claim("next"), volumes.pod("next", image, ["next"], node=node))
    here.wait("pod/next", "condition=Ready", PATIENCE)
    wait_for(
        lambda: set(listing(cluster, node)) <= {*before, own(here, "next")}, PATIENCE, "nothing else is there"
    )
    assert here("get", "pv", f"pvc-{uid}", check=False).failed


@pytest.mark.timeout(900)
def test_a_hundred_claims_at_once(cluster: Cluster, here: Kubectl, image: str) -> None:
    """A hundred claims of five pods are bound and used, though the controller dies in the middle; then all goes."""
    names = [f"many-{number}" for number in range(MANY)]
    share = MANY // PODS
    pods = [volumes.pod(f"user-{one}", image, names[one * share : (one + 1) * share]) for one in range(PODS)]
    begun = time.monotonic()
    here.apply(*map(volumes.claim, names), *pods)
    wait_for(lambda: bound(here) > 0, LOAD, "the first is bound")
    cluster.run(cluster.control_plane, "systemctl kill --signal=KILL freehold-controller")
    wait_for(lambda: bound(here) == MANY, LOAD, f"{MANY} claims bound")
    print(f"{MANY} claims bound after {time.monotonic() - begun:.1f} s, the controller killed meanwhile")
    for one in range(PODS):
        here.wait(f"pod/user-{one}", "condition=Ready", LOAD)
    print(f"{PODS} pods with them ready after {time.monotonic() - begun:.1f} s")
    for one in range(PODS):
        here.exec(f"user-{one}", "sh", "-c", f"for i in $(seq 0 {share - 1}); do echo x > /data/$i/f; done")
    made = {own(here, name) for name in names}
    begun = time.monotonic()
    here("delete", "pod,pvc", "--all", timeout=LOAD)

    def gone() -> bool:
        left = {one["metadata"]["name"] for one in here.json("get", "pv")["items"]} & made
        assert not left, f"{len(left)} volumes left"
        return True

    wait_for(gone, LOAD, "all volumes gone")
    print(f"all of it gone after {time.monotonic() - begun:.1f} s")
    assert not made & {name for node in cluster.nodes for name in listing(cluster, node)}


def test_nodes_have_no_right_on_volumes(cluster: Cluster, here: Kubectl) -> None:
    """A worker's own credential lists neither claims nor volumes nor lists of volumes, and makes none."""
    worker = ApiFromMachine(cluster, cluster.workers[0])
    lists = (
        "/api/v1/persistentvolumes",
        "/api/v1/persistentvolumeclaims",
        "/api/v1/namespaces/freehold-nodes/configmaps",
    )
    assert worker.statuses(lists) == dict.fromkeys(lists, 403)
    claims = f"/api/v1/namespaces/{here.namespace}/persistentvolumeclaims"
    assert worker("POST", claims, volumes.claim("mine")).status == 403


def test_nothing_is_written_while_nothing_changes(cluster: Cluster) -> None:
    """Idle, neither lists nor directories nor the agent's memory of them change."""
    places = f"{paths.VOLUMES} {paths.VOLUME_LIST}"

    def state() -> list[str]:
        return [cluster.run(node, f"stat -c '%n %Z' {places} || true") for node in cluster.nodes]

    wait_for(lambda: state() == (time.sleep(5), state())[1], PATIENCE, "all deletions are done")
    before = state()
    time.sleep(20)
    assert state() == before


def volume_of(here: Kubectl, name: str) -> Any:
    """Return the PersistentVolume of a claim."""
    return here.json("get", "pv", here.json("get", "pvc", name)["spec"]["volumeName"])


def own(here: Kubectl, name: str) -> str:
    """Return the name of a claim's volume."""
    return "pvc-" + str(here.json("get", "pvc", name)["metadata"]["uid"])


def bound(here: Kubectl) -> int:
    return sum(item["status"].get("phase") == "Bound" for item in here.json("get", "pvc")["items"])


def listing(cluster: Cluster, node: str) -> list[str]:
    """Return what lies in the directory of volumes."""
    return cluster.run(node, f"ls -A {paths.VOLUMES}").split()
