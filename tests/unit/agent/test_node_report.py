"""What a node tells the cluster about itself."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.a_node import a_document

from freehold_agent import node_report
from freehold_agent.contract.conditions import DRIFT
from freehold_agent.machine.kubernetes_api import Conflict
from freehold_agent.node_report import NodeReport


class Api:
    """The API server, as far as a node tells it something."""

    def __init__(self) -> None:
        self.conditions: list[dict[str, Any]] = [{"type": "Ready", "status": "True"}]
        self.events: list[dict[str, Any]] = []
        self.applied = 0
        self.error: Exception | None = None

    def get(self, _path: str) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"status": {"conditions": self.conditions}}

    def apply(self, path: str, body: dict[str, Any], field_manager: str = "") -> None:
        assert path == "/api/v1/nodes/w1/status"
        self.applied += 1
        self.conditions = [{"type": "Ready", "status": "True"}, *body["status"]["conditions"]]

    def create(self, path: str, body: dict[str, Any]) -> None:
        assert path == "/api/v1/namespaces/default/events"
        if any(event["metadata"] == body["metadata"] for event in self.events):
            raise Conflict(409, "AlreadyExists", "")
        self.events.append(body)

    def close(self) -> None:
        pass


def _nobody(_level: int, _text: str) -> None:
    pass


def test_the_node_says_what_is_wrong_and_only_once() -> None:
    """The condition is sent when it changes; the same words again are neither a patch nor an Event."""
    api, clock = Api(), [1000.0]
    report = NodeReport(a_document, _nobody, connect=lambda: api, now=lambda: clock[0])  # type: ignore[arg-type, return-value]
    for _ in range(3):
        report.condition(True, "ForeignSettings", "drop-in")
        report.event("Warning", "FreeholdDrift", "drop-in")
        report.send()
    assert api.applied == 1
    assert len(api.events) == 1
    assert api.events[0]["involvedObject"]["name"] == "w1"
    assert api.conditions[-1] == {
        "type": DRIFT,
        "status": "True",
        "reason": "ForeignSettings",
        "message": "drop-in",
        "lastTransitionTime": "1970-01-01T00:16:40Z",
        "lastHeartbeatTime": "1970-01-01T00:16:40Z",
    }
    clock[0] += node_report.SAME + 1
    report.event("Warning", "FreeholdDrift", "drop-in")
    report.condition(False, node_report.NOTHING, "as its document says")
    report.send()
    assert len(api.events) == 2
    assert api.conditions[-1]["status"] == "False"


def test_another_agent_of_the_same_node_repeats_nothing() -> None:
    """After a restart the condition that stands there already is not written again."""
    api = Api()
    for _ in range(2):
        report = NodeReport(a_document, _nobody, connect=lambda: api)  # type: ignore[arg-type, return-value]
        report.condition(False, node_report.NOTHING, "as its document says")
        report.send()
    assert api.applied == 1


def test_what_could_not_be_sent_waits() -> None:
    """Without a control plane nothing is lost of the last condition and the last Events."""
    api = Api()
    report = NodeReport(a_document, _nobody, connect=lambda: api)  # type: ignore[arg-type, return-value]
    report.condition(True, "RepairFailed", "no route")
    for number in range(node_report.WAITING + 5):
        report.event("Normal", "FreeholdRepaired", str(number))
    api.error = ConnectionRefusedError()
    with pytest.raises(ConnectionRefusedError):
        report.send()
    api.error = None
    report.send()
    assert api.conditions[-1]["message"] == "no route"
    assert len(api.events) == node_report.WAITING
