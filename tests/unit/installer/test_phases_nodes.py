"""A machine of the inventory becomes a node, or the same node once more."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, gives_pod_cidrs, goes_live

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import JoinDocument, Network
from freehold_bootstrap import node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.node_admission import NODES
from freehold_installer.errors import StepError
from freehold_installer.phases import access, nodes

SETTINGS = ClusterSettings(
    cluster="lab",
    endpoints=("https://10.0.0.2:6443",),
    artifact_endpoints=("https://10.0.0.2:6445",),
    join_endpoints=("https://10.0.0.2:6444",),
    ca_pem="none is looked at",
    network=Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local"),
    manifest=Manifest("1.37.2", "amd64", ()),
)


class Machine:
    """w1 of an inventory, whose `join` does what a test says; the cluster is in memory."""

    def __init__(self) -> None:
        self.api = FakeKubernetes()
        self.api.on("create", NODES, gives_pod_cidrs)
        self.document: JoinDocument | None = None
        self.verbs: list[str] = []
        self.joins: list[node_record.NodeRecord] = []
        """The record as it stood when the machine had its token."""
        self.lacks_certificate = True
        self.before_it_asks: Callable[[], None] = lambda: None

    def program(
        self, request: dict[str, Any], _told: Any, on_need: Callable[[Any], bytes] | None = None, **_: Any
    ) -> None:
        self.verbs.append(request["verb"])
        if request["verb"] != "join":
            return
        self.document = JoinDocument.from_json(request["document"])
        if not self.lacks_certificate:
            return
        self.before_it_asks()
        assert on_need is not None
        token = json.loads(on_need({"event": "need-credential"}))["token"]
        record = node_record.read(self.api, "w1")
        assert record is not None
        assert record.bootstrap_id == token.split(".")[0]
        assert len(self.bootstrap_tokens()) == 1
        self.joins.append(record)

    def apply(self) -> None:
        """Do what an apply does for this machine."""
        host = SimpleNamespace(name="w1", internal_address="10.0.0.3", is_control_plane=False)
        lane: Any = SimpleNamespace(
            name="w1",
            host=host,
            machine=self,
            step=lambda _text: None,
            wait_for=lambda _signal: "cp1",
            run=SimpleNamespace(machines={"cp1": None}),
        )
        inventory = SimpleNamespace(
            hosts={"cp1": SimpleNamespace(internal_address="10.0.0.2"), "w1": host},
            labels_for=lambda _host: {"zone": "a"},
            taints_for=lambda _host: (),
        )
        state: Any = SimpleNamespace(
            inventory=inventory,
            pki=None,
            seen={"w1": SimpleNamespace(document=self.document)},
            settings=lambda: SETTINGS,
        )
        nodes.run(lane, state)

    def bootstrap_tokens(self) -> list[str]:
        return self.api.paths(tokens.BOOTSTRAP_TOKENS + "/bootstrap-token-")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(access, "api_of", lambda *_: made.api)
    return made


def test_a_new_machine_is_prepared_admitted_and_joined(machine: Machine) -> None:
    """Its token is gone after the join; a second apply asks for none."""
    machine.apply()
    assert machine.verbs == ["prepare", "join"]
    assert machine.bootstrap_tokens() == []
    goes_live(machine.api, "w1")
    machine.lacks_certificate = False
    machine.apply()
    assert len(machine.joins) == 1


def test_a_machine_whose_certificate_has_expired_gets_another_join(machine: Machine) -> None:
    """Its own document says that it is this very node: it keeps its Node and its pods' network."""
    machine.apply()
    goes_live(machine.api, "w1")
    before, node = machine.document, machine.api.get(f"{NODES}/w1")["metadata"]["uid"]
    machine.apply()
    first, second = machine.joins
    assert second.join_uid != first.join_uid
    assert (second.node_uid, second.replace) == (node, True)
    assert before is not None
    assert machine.document is not None
    assert machine.document.network == before.network
    assert machine.bootstrap_tokens() == []
    closed = node_record.read(machine.api, "w1")
    assert closed is not None
    assert not closed.replace, "it was for this join only"


def test_a_node_that_another_machine_became_meanwhile_is_not_taken_over(machine: Machine) -> None:
    """A machine without a document of that node gets no second join, whoever has the name now."""
    machine.before_it_asks = lambda: goes_live(machine.api, "w1")
    with pytest.raises(StepError, match="node w1 has joined already"):
        machine.apply()
    assert machine.joins == []


def test_the_name_of_another_machine_is_refused(machine: Machine) -> None:
    """A machine set up again does not take a live node's place by itself."""
    machine.apply()
    goes_live(machine.api, "w1")
    machine.document = None
    with pytest.raises(StepError, match="live node w1 already"):
        machine.apply()
    assert len(machine.joins) == 1
