"""Admission makes a Node before its kubelet exists, may be repeated, and takes nothing of others."""

import dataclasses
import json
from datetime import datetime, timedelta
from typing import Any, List, Tuple

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, gives_pod_cidrs, goes_live

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import JoinDocument, Network
from freehold_agent.machine.kubernetes_api import Conflict
from freehold_bootstrap import node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import AdmissionTimeout, Refused
from freehold_bootstrap.node_admission import NodeRequest, admit, bootstrap_credential, finish

NOW = datetime.fromisoformat("2026-11-23T08:00:00+00:00")
SETTINGS = ClusterSettings(
    cluster="lab",
    endpoints=("https://10.0.0.2:6443",),
    artifact_endpoints=("https://10.0.0.2:6445",),
    join_endpoints=("https://10.0.0.2:6444",),
    ca_pem="CA",
    network=Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local"),
    manifest=Manifest("1.37.2", "amd64", ()),
    kubelet={"maxPods": 50},
)
WORKER = NodeRequest("w1", ("10.0.0.3",), labels={"zone": "a"})
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
FOREIGN_TAINT = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


@pytest.fixture
def api() -> FakeKubernetes:
    fake = FakeKubernetes()
    fake.on("create", "/api/v1/nodes", gives_pod_cidrs)
    return fake


def node(api: FakeKubernetes, name: str = "w1") -> Any:
    return api.get("/api/v1/nodes/" + name)


def bootstrap_tokens(api: FakeKubernetes) -> List[str]:
    return api.paths(tokens.BOOTSTRAP_TOKENS + "/bootstrap-token-")


def test_a_new_machine_gets_node_record_and_document(api: FakeKubernetes) -> None:
    """After admission the Node has its role, the record its addresses, the document its pod network."""
    document = admit(api, dataclasses.replace(WORKER, taints=(TAINT,)), SETTINGS)
    made = node(api)
    assert made["metadata"]["labels"]["node-role.kubernetes.io/worker"] == ""
    assert made["metadata"]["labels"]["zone"] == "a"
    assert made["spec"]["taints"] == [TAINT]
    record = node_record.read(api, "w1")
    assert record is not None
    assert (record.addresses, record.node_uid) == (("10.0.0.3",), made["metadata"]["uid"])
    assert document.network.node_pod_cidrs == ("10.244.0.0/24",)
    assert (document.node_uid, document.generation) == (record.node_uid, 1)
    assert JoinDocument.loads(document.dumps()).kubelet == {"maxPods": 50}


def test_the_pod_network_is_awaited_by_watch(api: FakeKubernetes) -> None:
    """A pod network that comes late is seen through a watch that began where the Node was made."""
    late = FakeKubernetes()
    late.on("watch", "/api/v1/nodes", gives_pod_cidrs)
    events = late.watch

    def watch(path: str, resource_version: str = "", timeout: float = 300, **query: Any) -> Any:
        gives_pod_cidrs(late, "/api/v1/nodes/w1", {})
        return events(path, resource_version, timeout, **query)

    late.watch = watch  # type: ignore[method-assign]
    assert admit(late, WORKER, SETTINGS).network.node_pod_cidrs == ("10.244.0.0/24",)


def test_without_controller_manager_it_says_so(api: FakeKubernetes) -> None:
    """No pod network in time is one sentence with what to look at, and a repetition goes on from there."""
    alone = FakeKubernetes()
    with pytest.raises(AdmissionTimeout, match="no pod network") as raised:
        admit(alone, WORKER, SETTINGS, timeout=0)
    assert "kube-controller-manager" in raised.value.hint
    gives_pod_cidrs(alone, "/api/v1/nodes/w1", {})
    assert admit(alone, WORKER, SETTINGS).network.node_pod_cidrs == ("10.244.0.0/24",)


def test_admitting_the_same_machine_again_writes_nothing(api: FakeKubernetes) -> None:
    """A live node that shows its document's UID gets the same document; no object changes."""
    first = admit(api, WORKER, SETTINGS)
    goes_live(api, "w1")
    before = json.dumps(api.objects, sort_keys=True)
    again = admit(api, dataclasses.replace(WORKER, node_uid=first.node_uid), SETTINGS)
    assert again == first
    assert json.dumps(api.objects, sort_keys=True) == before


def test_changed_settings_raise_the_generation(api: FakeKubernetes) -> None:
    """Whatever a document says anew has the next number, which never goes back."""
    first = admit(api, WORKER, SETTINGS)
    changed = dataclasses.replace(SETTINGS, kubelet={"maxPods": 60})
    assert admit(api, WORKER, changed).generation == 2
    assert admit(api, WORKER, SETTINGS).generation == 3
    assert first.generation == 1


def test_an_admission_that_was_never_taken_up_goes_on(api: FakeKubernetes) -> None:
    """Over SSH, a Node without a kubelet is the same join when the installer was killed in between."""
    first = admit(api, WORKER, SETTINGS)
    record = node_record.read(api, "w1")
    assert admit(api, WORKER, SETTINGS) == first
    assert node_record.read(api, "w1") == record


@pytest.mark.parametrize(
    "stranger",
    [
        WORKER,
        dataclasses.replace(WORKER, join_uid="another"),
        dataclasses.replace(WORKER, node_uid="another"),
    ],
)
def test_a_live_namesake_is_never_taken(api: FakeKubernetes, stranger: NodeRequest) -> None:
    """Another machine with the name of a live node is refused, by token and over SSH, and nothing changes."""
    admit(api, dataclasses.replace(WORKER, join_uid="mine"), SETTINGS)
    goes_live(api, "w1")
    before = json.dumps(api.objects, sort_keys=True)
    with pytest.raises(Refused, match="live node w1 already") as raised:
        admit(api, stranger, SETTINGS)
    assert raised.value.reason == "node-exists"
    assert json.dumps(api.objects, sort_keys=True) == before


def test_a_node_that_admission_did_not_make_is_not_taken(api: FakeKubernetes) -> None:
    """A live Node without our record (someone else's) needs an explicit replacement."""
    api.add(
        "/api/v1/nodes/w1", {"status": {"nodeInfo": {"kubeletVersion": "v1.37.2"}}, "spec": {"podCIDR": "x"}}
    )
    with pytest.raises(Refused):
        admit(api, WORKER, SETTINGS)
    admit(api, dataclasses.replace(WORKER, replace=True), SETTINGS)
    record = node_record.read(api, "w1")
    assert record is not None
    assert record.replace


def test_replacement_belongs_to_one_join(api: FakeKubernetes) -> None:
    """`--replace` opens one new join; once that has finished, repeating it opens nothing again."""
    admit(api, dataclasses.replace(WORKER, join_uid="old"), SETTINGS)
    goes_live(api, "w1")
    request = dataclasses.replace(WORKER, join_uid="new", replace=True)
    admit(api, request, SETTINGS)
    bootstrap_credential(api, "w1", NOW)
    finish(api, "w1")
    admit(api, request, SETTINGS)
    with pytest.raises(Refused, match="joined already"):
        bootstrap_credential(api, "w1", NOW)


def test_address_of_another_node_is_refused(api: FakeKubernetes) -> None:
    """Two nodes cannot share an address: a serving certificate for it would speak for the other kubelet."""
    admit(api, WORKER, SETTINGS)
    with pytest.raises(Refused, match=r"10\.0\.0\.3 is the address of node w1"):
        admit(api, NodeRequest("w2", ("10.0.0.4", "10.0.0.3")), SETTINGS)
    api.delete("/api/v1/nodes/w1")
    admit(api, NodeRequest("w2", ("10.0.0.3",)), SETTINGS)


@pytest.mark.parametrize("name", ["", "W1", "a_b", "-a", "a" * 64, "w1/../w2", "a\n"])
def test_bad_names_are_refused(api: FakeKubernetes, name: str) -> None:
    """What is no node name never reaches the API server."""
    with pytest.raises(Refused) as raised:
        admit(api, NodeRequest(name, ("10.0.0.3",)), SETTINGS)
    assert raised.value.reason == "bad-name"
    assert api.calls == []


@pytest.mark.parametrize("addresses", [(), ("x",), ("127.0.0.1",), ("0.0.0.0",), ("::1",), ("224.0.0.1",)])
def test_bad_addresses_are_refused(api: FakeKubernetes, addresses: Tuple[str, ...]) -> None:
    """A node has an address that others can reach."""
    with pytest.raises(Refused) as raised:
        admit(api, NodeRequest("w1", addresses), SETTINGS)
    assert raised.value.reason == "bad-address"


def test_labels_and_taints_are_reconciled_and_others_left_alone(api: FakeKubernetes) -> None:
    """What was ours and is no longer asked for goes, what others put there stays."""
    first = admit(api, dataclasses.replace(WORKER, taints=(TAINT,)), SETTINGS)
    api.merge(
        "/api/v1/nodes/w1",
        {"metadata": {"labels": {"theirs": "1"}}, "spec": {"taints": [FOREIGN_TAINT, TAINT]}},
    )
    goes_live(api, "w1")
    request = NodeRequest("w1", ("10.0.0.3",), labels={"zone": "b"}, node_uid=first.node_uid)
    admit(api, request, SETTINGS)
    labels = node(api)["metadata"]["labels"]
    assert (labels["zone"], labels["theirs"]) == ("b", "1")
    assert node(api)["spec"]["taints"] == [FOREIGN_TAINT]
    admit(api, dataclasses.replace(request, labels={}, taints=(dict(TAINT, value="no"),)), SETTINGS)
    assert "zone" not in node(api)["metadata"]["labels"]
    assert node(api)["spec"]["taints"] == [FOREIGN_TAINT, dict(TAINT, value="no")]


def test_a_lost_race_is_tried_again(api: FakeKubernetes) -> None:
    """Node and record written by someone else meanwhile are read again, not overwritten."""
    api.fail("create", node_record.RECORDS, Conflict(409, "AlreadyExists", "outrun"))
    api.fail("create", "/api/v1/nodes", Conflict(409, "AlreadyExists", "outrun"))
    assert admit(api, WORKER, SETTINGS).generation == 1


def test_bootstrap_token_is_bound_and_short(api: FakeKubernetes) -> None:
    """The credential may only authenticate, for three minutes, as a token of one node and one join."""
    document = admit(api, WORKER, SETTINGS)
    credential = bootstrap_credential(api, "w1", NOW)
    (path,) = bootstrap_tokens(api)
    secret = api.get(path)
    binding = tokens.BootstrapBinding.from_object(secret)
    record = node_record.read(api, "w1")
    assert record is not None
    assert (binding.node, binding.node_uid, binding.join_uid) == ("w1", document.node_uid, record.join_uid)
    assert binding.expires == NOW + timedelta(minutes=3)
    assert "usage-bootstrap-signing" not in secret["data"]
    assert credential.expires == "2026-11-23T08:03:00Z"
    assert credential.token.split(".")[1] not in repr(credential)


def test_only_the_last_bootstrap_token_exists(api: FakeKubernetes) -> None:
    """Asking again ends the earlier token, and finishing leaves none."""
    admit(api, WORKER, SETTINGS)
    bootstrap_credential(api, "w1", NOW)
    bootstrap_credential(api, "w1", NOW)
    assert len(bootstrap_tokens(api)) == 1
    finish(api, "w1")
    finish(api, "w1")
    assert bootstrap_tokens(api) == []


def test_no_credential_for_a_node_that_was_removed(api: FakeKubernetes) -> None:
    """A removed node, or a namesake that was never admitted, gets no token."""
    admit(api, WORKER, SETTINGS)
    api.delete("/api/v1/nodes/w1")
    with pytest.raises(Refused, match="not been admitted"):
        bootstrap_credential(api, "w1", NOW)
    api.create("/api/v1/nodes", {"metadata": {"name": "w1"}})
    with pytest.raises(Refused, match="not been admitted"):
        bootstrap_credential(api, "w1", NOW)


def test_a_removed_node_may_be_admitted_anew(api: FakeKubernetes) -> None:
    """Admission after a removal makes another Node with another join."""
    first = admit(api, WORKER, SETTINGS)
    record = node_record.read(api, "w1")
    api.delete("/api/v1/nodes/w1")
    second = admit(api, WORKER, SETTINGS)
    assert second.node_uid != first.node_uid
    assert second.generation > first.generation
    assert node_record.read(api, "w1") != record


def test_settings_travel_as_json() -> None:
    """What the installer writes for the services comes back the same."""
    assert ClusterSettings.from_json(json.loads(json.dumps(SETTINGS.to_json()))) == SETTINGS
    with pytest.raises(ValueError, match="version"):
        ClusterSettings.from_json({"version": 99})
