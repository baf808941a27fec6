"""Tokens, single nodes, and the line to paste: what is written into the cluster and what a person gets."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, gives_pod_cidrs, goes_live

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.join_document import Network
from freehold_agent.contract.release import AGENT_ENTRY
from freehold_agent.machine.kubernetes_api import ApiError
from freehold_bootstrap import documents, node_admission, node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import BootstrapError
from freehold_bootstrap.join_service.joining import SETTINGS
from freehold_bootstrap.node_admission import NODES, NodeRequest
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest
from freehold_installer.cli import node_options
from freehold_installer.errors import InputError, StepError, UnfitError
from freehold_installer.phases import node_address, node_verbs
from freehold_installer.phases import tokens as verbs

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


class House:
    """A run of a verb against a pretended cluster."""

    def __init__(self, ca_pem: str) -> None:
        self.now = NOW
        self.api = FakeKubernetes()
        self.api.on("create", NODES, gives_pod_cidrs)
        self.settings = ClusterSettings(
            cluster="lab",
            endpoints=("https://10.0.0.2:6443",),
            artifact_endpoints=("https://10.0.0.2:6445",),
            join_endpoints=("https://10.0.0.2:6444",),
            ca_pem=ca_pem,
            network=Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local"),
            manifest=Manifest("1.37.2", "amd64", (ArtifactEntry(AGENT_ENTRY, "a" * 64, 9, ("node",)),)),
        )
        self.api.add(SETTINGS, {"data": {"settings": json.dumps(self.settings.to_json())}})
        plane = SimpleNamespace(name="cp1", is_control_plane=True, internal_address="10.0.0.2")
        worker = SimpleNamespace(name="w1", is_control_plane=False, internal_address="10.0.0.3")
        self.notes: list[str] = []
        self.cut: list[str] = []
        self.run: Any = SimpleNamespace(
            inventory=SimpleNamespace(
                control_planes=(plane,), hosts={"cp1": plane, "w1": worker}, path="freehold.yaml"
            ),
            machines={"cp1": SimpleNamespace(run=self._said)},
            note=lambda text, level="info": self.notes.append(text),
            begin_changes=lambda: None,
        )

    def _said(self, command: list[str]) -> Any:
        if command[0] == "ss":
            self.cut.append(command[4])
            return SimpleNamespace(exit=0)
        assert command == ["date", "+%s"]
        return SimpleNamespace(text=str(int(self.now.timestamp())))

    def admit(self, name: str, live: bool = True, **options: Any) -> None:
        request = NodeRequest(name, (f"10.0.0.{len(self.api.paths(NODES + '/')) + 10}",), **options)
        node_admission.admit(self.api, request, self.settings)
        if live:
            goes_live(self.api, name)

    def record(self, token_id: str) -> tokens.JoinTokenRecord:
        return tokens.JoinTokenRecord.from_object(
            self.api.get(f"{tokens.JOIN_TOKENS}/{tokens.join_token_name(token_id)}")
        )


@pytest.fixture(scope="module")
def ca_pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A certificate of an authority."""
    pki = PkiDirectory(str(tmp_path_factory.mktemp("pki") / "pki"))
    pki.ensure([CertificateRequest("admin")])
    return pki.ca_pem()


@pytest.fixture
def house(ca_pem: str, monkeypatch: pytest.MonkeyPatch) -> House:
    made = House(ca_pem)

    @contextlib.contextmanager
    def api(_run: Any) -> Iterator[FakeKubernetes]:
        try:
            yield made.api
        except BootstrapError as error:
            raise InputError(error.message, hint=error.hint) from error

    for module in (verbs, node_verbs, node_address):
        for name in ("installer_api", "admin_api"):
            monkeypatch.setattr(module, name, api)
    return made


def test_a_token_says_what_it_is_good_for(house: House) -> None:
    """The cluster keeps the hash and the conditions; line and token are apart, and the event names no secret."""
    request = verbs.TokenRequest(
        "w2",
        timedelta(minutes=5),
        "10.0.0.0/24",
        ("10.0.0.3",),
        {"zone": "a"},
        ({"key": "gpu", "value": "", "effect": "NoSchedule"},),
    )
    made = verbs.create(house.run, request)
    record = house.record(made["id"])
    assert (record.node, record.expires, record.cidr) == ("w2", NOW + timedelta(minutes=5), "10.0.0.0/24")
    assert record.matches(tokens.parse(made["token"]))
    secret = made["token"].rpartition(".")[2]
    assert secret not in made["line"]
    assert "\n" not in made["line"]
    assert secret not in json.dumps(house.api.objects)
    (event,) = [obj for path, obj in house.api.objects.items() if "/events/" in path]
    assert (event["reason"], event["source"]["component"]) == ("TokenCreated", "freehold")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (verbs.TokenRequest("cp1"), "is a control plane"),
        (verbs.TokenRequest("W_2"), "a node's name"),
        (verbs.TokenRequest("live"), "there is a node live already"),
        (verbs.TokenRequest("w2", timedelta(hours=25)), "24 hours"),
        (verbs.TokenRequest("w2", addresses=("127.0.0.1",)), "cannot be reached"),
        (verbs.TokenRequest("w2", addresses=("10.96.0.1",)), "own network"),
        (verbs.TokenRequest("w2", addresses=("10.0.0.10",)), "is the address of node live"),
    ],
)
def test_what_could_not_join_gets_no_token(house: House, request_: verbs.TokenRequest, said: str) -> None:
    """What the join service would refuse is refused while somebody is there to correct it."""
    house.admit("live")
    with pytest.raises(InputError, match=said):
        verbs.create(house.run, request_)
    assert house.api.paths(tokens.JOIN_TOKENS + "/") == []


def test_the_list_shows_no_secret(house: House) -> None:
    """States are unused, used by whom, expired; neither secret nor hash is shown."""
    made = verbs.create(house.run, verbs.TokenRequest("w2"))
    (row,) = verbs.listing(house.run)
    assert row["state"] in ("unused", "expired")  # by the clock of whoever runs the tests
    assert house.record(made["id"]).hash not in json.dumps(row)


def test_revoking_takes_an_unfinished_node_along(house: House) -> None:
    """A Node that a token made and no kubelet took up goes with it; one that lives stays."""
    for live in (False, True):
        made = verbs.create(house.run, verbs.TokenRequest("w2", replace=True))
        record = house.record(made["id"])
        house.admit("w2", live=live, join_uid=record.join_uid, replace=True)
        stored = house.api.get(f"{tokens.JOIN_TOKENS}/{tokens.join_token_name(record.id)}")
        bound = record.claimed("claim", "10.0.0.3").to_object(stored["metadata"]["resourceVersion"])
        house.api.replace(f"{tokens.JOIN_TOKENS}/{tokens.join_token_name(record.id)}", bound)
        assert verbs.revoke(house.run, made["id"])["nodeRemoved"] is not live
        assert (house.api.paths(NODES + "/w2") != []) is live
    with pytest.raises(InputError, match="no join token"):
        verbs.revoke(house.run, "nonesuch")


def test_a_whole_token_is_not_revoked(house: House) -> None:
    """Whoever types the token itself learns why not to; it is not repeated."""
    with pytest.raises(InputError) as caught:
        verbs.revoke(house.run, "fh1.aaaaaaaaaa.secret")
    assert "secret" not in caught.value.message + caught.value.hint
    assert "by its id" in caught.value.message


def test_old_tokens_are_forgotten(house: House) -> None:
    """A token that expired an hour ago goes when the next one is made."""
    old = verbs.create(house.run, verbs.TokenRequest("w2"))
    house.now += timedelta(minutes=69)
    kept = verbs.create(house.run, verbs.TokenRequest("w3"))
    house.now += timedelta(minutes=2)
    verbs.create(house.run, verbs.TokenRequest("w4"))
    names = {house.record(path.rpartition("-")[2]).id for path in house.api.paths(tokens.JOIN_TOKENS + "/")}
    assert old["id"] not in names
    assert kept["id"] in names


def test_labels_and_taints_are_changed_with_the_document(house: House) -> None:
    """`node set` changes record, Node and document; what others put on the Node stays."""
    house.admit("w2", labels={"zone": "a", "rack": "1"}, join_uid="j")
    house.api.merge(f"{NODES}/w2", {"metadata": {"labels": {"theirs": "x"}}})
    before = documents.generation_of(house.api.get(documents.document_path("w2")))
    done = node_verbs.change(
        house.run,
        "w2",
        labels={"zone": "b"},
        without_labels=["rack"],
        taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
        without_taints=[],
    )
    labels = house.api.get(f"{NODES}/w2")["metadata"]["labels"]
    assert (labels["zone"], labels["theirs"], "rack" in labels) == ("b", "x", False)
    assert done["generation"] == before + 1
    assert done["taints"] == ["gpu=yes:NoSchedule"]
    with pytest.raises(InputError, match="stand in the inventory"):
        node_verbs.change(house.run, "w1", labels={}, without_labels=[], taints=[], without_taints=[])
    with pytest.raises(InputError, match="keeps no label nothing"):
        node_verbs.change(
            house.run, "w2", labels={}, without_labels=["nothing"], taints=[], without_taints=[]
        )


def test_an_address_is_changed_with_record_and_document(house: House) -> None:
    """`node set-address` keeps join, labels and taints; it waits until the kubelet reports from there."""
    house.admit("w2", labels={"zone": "a"}, join_uid="j")
    before = node_record.read(house.api, "w2")
    assert before is not None
    done = node_address.set_address(house.run, "w2", ["10.0.0.77"], 0)
    after = node_record.read(house.api, "w2")
    assert (done["before"], done["addresses"]) == (list(before.addresses), ["10.0.0.77"])
    assert after == dataclasses.replace(before, addresses=("10.0.0.77",))
    with pytest.raises(StepError, match="does not report from there"):
        node_address.set_address(house.run, "w2", ["10.0.0.77"], 0.001)
    reports = {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.77"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    house.api.merge(f"{NODES}/w2", {"status": reports})
    assert node_address.set_address(house.run, "w2", ["10.0.0.77"], 60)["generation"] == done["generation"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w1", "the inventory says that w1 has"),
        ("cp1", "cp1 is a control plane"),
        ("w7", "there is no node w7"),
    ],
)
def test_an_address_that_the_next_apply_would_undo_is_refused(house: House, name: str, said: str) -> None:
    """The inventory is the truth for its machines; nothing is written."""
    with pytest.raises(InputError, match=said):
        node_address.set_address(house.run, name, ["10.0.0.77"], 0)


def a_pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"nodeName": "w2"},
        "status": {"phase": "Running"},
    }


class Evicting(FakeKubernetes):
    """Grants an eviction at the second question."""

    asked = 0

    def create(self, path: str, obj: Any) -> Any:
        if not path.endswith("/eviction"):
            return super().create(path, obj)
        Evicting.asked += 1
        if Evicting.asked == 1:
            raise ApiError(429, "TooManyRequests", "the disruption budget needs 1 healthy pods and has 1")
        return self.delete(path.rpartition("/")[0])


def test_a_drain_waits_for_budgets(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that can go elsewhere are evicted, refusals are waited for; those of DaemonSets stay."""
    house.admit("w2")
    house.api.__class__ = Evicting
    Evicting.asked = 0
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    owned = {"ownerReferences": [{"kind": "DaemonSet"}]}
    for pod in (a_pod("web"), a_pod("agent", **owned)):
        house.api.add(f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}", pod)
    assert node_verbs.drain(house.run, "w2", 60) == ["default/web"]
    assert house.api.get(f"{NODES}/w2")["spec"]["unschedulable"] is True
    assert house.notes == ["waiting: default/web: the disruption budget needs 1 healthy pods and has 1"]
    assert house.api.paths("/api/v1/namespaces/default/pods/") == ["/api/v1/namespaces/default/pods/agent"]
    Evicting.asked = -1000
    house.api.add("/api/v1/namespaces/default/pods/web", a_pod("web", deletionTimestamp="now"))
    with pytest.raises(StepError, match="default/web did not leave"):
        node_verbs.drain(house.run, "w2", 0)


def test_a_removed_node_leaves_nothing_in_the_cluster(house: House) -> None:
    """Node, record, document, pods and tokens go; the control plane is not removed like that."""
    house.admit("w2")
    house.api.add("/api/v1/namespaces/default/pods/web", a_pod("web"))
    verbs.create(house.run, verbs.TokenRequest("w2", replace=True))
    gone = node_verbs.remove(house.run, "w2", drain_for=0)
    assert (gone["podsDeleted"], len(gone["tokensDeleted"])) == (1, 1)
    assert house.cut == ["10.0.0.10"], "its connections to the API server, with the watches in them"
    for path in (f"{NODES}/w2", node_record.record_path("w2"), documents.document_path("w2")):
        assert path not in house.api.objects
    assert house.api.paths(tokens.JOIN_TOKENS + "/") == []
    with pytest.raises(InputError, match="no node w2"):
        node_verbs.remove(house.run, "w2", drain_for=0)
    with pytest.raises(InputError, match="holds the control plane"):
        node_verbs.remove(house.run, "cp1", drain_for=0)


class Holding(FakeKubernetes):
    """An API whose pods are held by a finalizer until somebody sees them end."""

    def delete(self, path: str, **query: Any) -> Any:
        if "/pods/" not in path:
            return super().delete(path, **query)
        pod = self.get(path)
        pod["metadata"]["deletionTimestamp"] = "now"
        if pod["status"].get("phase") == "Failed":
            pod["metadata"]["finalizers"] = [
                name for name in pod["metadata"]["finalizers"] if name != "batch.kubernetes.io/job-tracking"
            ]
        return self.replace(path, pod) if pod["metadata"]["finalizers"] else super().delete(path)


def test_pods_that_a_job_holds_go_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Job lets go of pods that have ended; what others hold is said, and the same command goes on."""
    house.admit("w2")
    house.api.__class__ = Holding
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(node_verbs, "PODS_LEAVE", -1.0)
    path = "/api/v1/namespaces/default/pods/"
    house.api.add(path + "job", a_pod("job", finalizers=["batch.kubernetes.io/job-tracking"]))
    house.api.add(path + "held", a_pod("held", finalizers=["example.org/mine"]))
    with pytest.raises(StepError, match=r"example\.org/mine holds default/held") as caught:
        node_verbs.remove(house.run, "w2", drain_for=0)
    assert "reads the Secrets" in str(caught.value)
    assert f"{NODES}/w2" not in house.api.objects
    with pytest.raises(StepError, match=r"example\.org/mine holds"):
        node_verbs.remove(house.run, "w2", drain_for=0)
    assert house.api.paths(path) == [path + "held"]
    house.api.__class__ = FakeKubernetes
    monkeypatch.setattr(node_verbs, "PODS_LEAVE", 20.0)
    assert node_verbs.remove(house.run, "w2", drain_for=0)["podsDeleted"] == 1


def test_a_rejoin_is_what_the_node_was(house: House) -> None:
    """The token for it carries the node's labels, taints and address, and may take its place."""
    taint = {"key": "gpu", "value": "", "effect": "NoSchedule"}
    house.admit("w2", labels={"zone": "a"}, taints=(taint,))
    record = house.record(node_verbs.rejoin(house.run, "w2", verbs.TokenRequest("w2"))["id"])
    assert (dict(record.labels), record.taints, record.replace) == ({"zone": "a"}, (taint,), True)
    known = node_record.read(house.api, "w2")
    assert known is not None
    assert record.addresses == known.addresses


def test_options_say_what_is_wrong() -> None:
    """Durations, labels, taints, addresses: what they mean, and one sentence for what they do not."""
    assert node_options.duration("1h30m") == timedelta(minutes=90)
    assert node_options.labels(["zone=a", "old-", "empty="]) == ({"zone": "a", "empty": ""}, ["old"])
    assert node_options.taints(["gpu=yes:NoSchedule", "x:NoExecute", "y-"]) == (
        [
            {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "x", "value": "", "effect": "NoExecute"},
        ],
        ["y"],
    )
    assert node_options.addresses(["2001:DB8::1"]) == ("2001:db8::1",)
    for call in (
        lambda: node_options.duration("ten minutes"),
        lambda: node_options.labels(["zone"]),
        lambda: node_options.labels(["freehold.io/x=y"]),
        lambda: node_options.taints(["gpu"]),
        lambda: node_options.taints(["gpu:Never"]),
        lambda: node_options.addresses(["w2"]),
        lambda: node_options.network("10.0.0.3/24"),
    ):
        with pytest.raises(InputError):
            call()


def test_settings_without_an_agent(house: House) -> None:
    """A release without the agent can make no line: that is said, not a KeyError."""
    bare = dataclasses.replace(house.settings, manifest=Manifest("1.37.2", "amd64", ()))
    house.api.add(SETTINGS, {"data": {"settings": json.dumps(bare.to_json())}})
    with pytest.raises(UnfitError, match="holds no agent"):
        verbs.create(house.run, verbs.TokenRequest("w2"))
    assert house.api.paths(tokens.JOIN_TOKENS + "/") == []
