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
from freehold_agent.converge import Summary
from freehold_agent.errors import StepFailed
from freehold_agent.records import Record
from freehold_agent.repair import NotJoinedError, repair


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
    with pytest.raises(NotJoinedError, match="no certificate"):
        repair(node.host, lambda _e: None)
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
                raise StepFailed(key, key + " cannot be made")
        return Summary((CHANGE,), 0.1)

    with pytest.raises(StepFailed, match="cannot be made"):
        repair(dataclasses.replace(node.host, converge=converge), lambda _e: None)
    assert asked[0] is None
    assert [key in asked[2] for key in ("file:/etc/freehold/kubelet.json", "unit:kubelet.service")] == [
        False
    ] * 2
    assert "unit:containerd.service" in asked[2]
    assert len(asked) == 3


def test_a_unit_that_lost_something_is_marked_for_another_start(node: KeptNode) -> None:
    """It stands in the record, so that whoever converges next starts it anew."""
    repair(node.host, lambda _e: None, prepare=lambda _d, _r: {"kube-proxy.service": ["table ip kube-proxy"]})
    assert Record("node", str(node.path(paths.RECORDS))).stale == {"unit:kube-proxy.service"}
