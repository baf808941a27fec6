"""One repair: which document counts, what is made though a step fails, what is left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_node import a_document
from tests.support.kept_node import CHANGE, KeptNode

from freehold_agent.contract import paths
from freehold_agent.contract.resources import key_of
from freehold_agent.converge import Summary
from freehold_agent.errors import AgentError, DeliveryFailed, NotJoinedError, StepFailed
from freehold_agent.health import RENEW
from freehold_agent.records import Record
from freehold_agent.repair import MOST_STEPS_PUT_OFF, repair
from freehold_agent.store import HashCache


@pytest.fixture
def node(tmp_path: Path) -> KeptNode:
    return KeptNode(tmp_path)


def test_a_left_bootstrap_credential_is_removed(node: KeptNode) -> None:
    """A token that a killed join left behind does not stay."""
    node.path(paths.BOOTSTRAP_KUBECONFIG).parent.mkdir(parents=True)
    node.path(paths.BOOTSTRAP_KUBECONFIG).write_text("token")
    node.keeper.round()
    assert not node.path(paths.BOOTSTRAP_KUBECONFIG).exists()


def test_a_machine_that_is_no_node_is_left_alone(node: KeptNode) -> None:
    """Without a document or a certificate nothing is touched."""
    node.path(paths.KUBELET_CLIENT_CERTIFICATE).unlink()
    with pytest.raises(NotJoinedError, match="no certificate") as told:
        repair(node.host, lambda _e: None)
    for way in ("freehold apply", "freehold node rejoin w1", RENEW):
        assert way in told.value.hint, "with an inventory and without one"
    node.path(paths.JOIN_DOCUMENT).unlink()
    with pytest.raises(NotJoinedError, match="is no node"):
        repair(node.host, lambda _e: None)
    assert node.looks == 0


def test_a_newer_document_is_taken_and_an_older_one_is_not(node: KeptNode) -> None:
    """What is offered counts when it is a newer document of the same join."""
    seen: list[str] = []

    def converge(resources: Any, *_: Any) -> Summary:
        seen.extend(r.content.decode() for r in resources if r.name == paths.JOIN_DOCUMENT)
        return Summary((), 0.1)

    host = dataclasses.replace(node.host, converge=converge)
    for changes in ({"generation": 7}, {"generation": 0}, {"generation": 9, "node_uid": "another"}):
        repair(host, lambda _e: None, a_document(**changes))
    assert [json.loads(text)["generation"] for text in seen] == [7, 1, 1]


def test_a_step_that_fails_keeps_no_other_from_being_made(node: KeptNode) -> None:
    """Everything but the failed step is tried again at once; the failure is what the look ends with."""
    asked: list[Any] = []

    def converge(_resources: Any, _owner: str, _deliver: Any, progress: Any, only: Any = None) -> Summary:
        asked.append(only)
        for key in ("file:/etc/freehold/kubelet.json", "unit:kubelet.service"):
            if only is None or key in only:
                progress({"event": "change", "key": key, "action": "update", "state": "failed"})
                raise StepFailed(key, key + " cannot be made", hint="why", detail="journal of " + key)
        return Summary((CHANGE,), 0.1)

    with pytest.raises(AgentError) as told:
        repair(dataclasses.replace(node.host, converge=converge), lambda _e: None)
    assert str(told.value) == (
        "file:/etc/freehold/kubelet.json cannot be made (why); unit:kubelet.service cannot be made (why)"
    )
    assert told.value.detail == "journal of file:/etc/freehold/kubelet.json\njournal of unit:kubelet.service"
    assert asked[0] is None
    assert [key in asked[2] for key in ("file:/etc/freehold/kubelet.json", "unit:kubelet.service")] == [
        False
    ] * 2
    assert "unit:containerd.service" in asked[2]
    assert len(asked) == 3


def test_many_failures_end_a_repair(node: KeptNode) -> None:
    """After so many no other step is tried, and that is said; the same words are said once."""
    tries: list[str] = []

    def converge(resources: Any, _owner: str, _deliver: Any, progress: Any, only: Any = None) -> Summary:
        key = next(key for key in map(key_of, resources) if only is None or key in only)
        tries.append(key)
        progress({"event": "change", "key": key, "action": "update", "state": "failed"})
        raise DeliveryFailed("no control plane answers")

    with pytest.raises(AgentError) as told:
        repair(dataclasses.replace(node.host, converge=converge), lambda _e: None)
    assert str(told.value) == "no control plane answers; after so many failures no other step was tried"
    assert len(set(tries)) == len(tries) == MOST_STEPS_PUT_OFF


def test_bytes_are_made_durable_though_a_step_fails(node: KeptNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an apply left is settled; where that fails too, both are said."""
    hashes, file = str(node.path(paths.HASHES)), node.path(paths.STORE + "/" + "0" * 64)
    file.parent.mkdir(parents=True)
    file.touch()
    HashCache(hashes).remember({str(file): "0" * 64})
    node.error = StepFailed("unit:kubelet.service", "kubelet is failed")
    with pytest.raises(StepFailed):
        repair(node.host, lambda _e: None)
    assert HashCache(hashes, boot=lambda: "another").digest(str(file)) == "0" * 64

    def refuse(_cache: HashCache) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(HashCache, "settle", refuse)
    with pytest.raises(AgentError, match=r"kubelet is failed; .* durable: .*Read-only file system"):
        repair(node.host, lambda _e: None)


def test_a_unit_that_lost_something_is_marked_for_another_start(node: KeptNode) -> None:
    """It stands in the record, so that whoever converges next starts it anew."""
    repair(node.host, lambda _e: None, prepare=lambda _d, _r: {"kube-proxy.service": ["table ip kube-proxy"]})
    assert Record("node", str(node.path(paths.RECORDS))).stale == {"unit:kube-proxy.service"}
