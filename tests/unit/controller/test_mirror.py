"""A mirror of one list in the API server."""

from tests.support.fake_kubernetes import FakeKubernetes

from freehold_controller.mirror import Mirror


def test_a_mirror_takes_no_step_back() -> None:
    """An event older than what we have just written is not news."""
    mirror = Mirror(FakeKubernetes(), "/api/v1/nodes", lambda: None)
    mirror.put({"metadata": {"name": "w1", "uid": "u", "resourceVersion": "9"}, "new": True})
    assert not mirror._take("MODIFIED", {"metadata": {"name": "w1", "uid": "u", "resourceVersion": "8"}})
    assert (mirror.get("w1") or {})["new"]
    assert mirror._take("ADDED", {"metadata": {"name": "w1", "uid": "v", "resourceVersion": "8"}})
    assert mirror._take("DELETED", {"metadata": {"name": "w1", "uid": "v", "resourceVersion": "10"}})
    assert mirror.items() == []
