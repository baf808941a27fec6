"""A control plane that is no node: its API server's way to pods is tried, and what keeps it from them is said."""

import pytest
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.machine.kubernetes_api import ApiError
from freehold_installer.errors import StepError
from freehold_installer.phases import verify

PATH = "/api/v1/namespaces/kube-system/pods/freehold-verify-w1:9/proxy/"
REFUSED = ApiError(503, "ServiceUnavailable", "dial tcp 10.244.1.2:9: connect: connection refused")
LOST = ApiError(503, "ServiceUnavailable", "dial tcp 10.244.1.2:9: connect: network is unreachable")


def test_a_refused_connection_is_an_answer() -> None:
    """The pod's kernel refused it, so there is a way; before that it is tried again."""
    api = FakeKubernetes()
    for error in (LOST, OSError("timed out"), REFUSED):
        api.fail("get", PATH, error)
    verify._wait_for_way(api, "cp1", "freehold-verify-w1")
    assert [path for _, path in api.calls] == [PATH] * 3


def test_no_way_is_a_failure_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine, pod, the API server's own words, and where to look."""
    monkeypatch.setattr(verify, "TIMEOUT", 0.2)
    api = FakeKubernetes()
    for _ in range(100):
        api.fail("get", PATH, LOST)
    with pytest.raises(StepError, match="network is unreachable") as caught:
        verify._wait_for_way(api, "cp1", "freehold-verify-w1")
    assert "freehold-verify-w1" in str(caught.value)
    assert "freehold-pod-routes" in caught.value.hint
