"""A pod network or proxy of the operator's: what is waited for, refused and left out."""

from typing import Any

import pytest
from tests.support.a_node import a_document, a_network
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle.store import Store
from freehold_installer.config import Inventory, loads
from freehold_installer.errors import StepError
from freehold_installer.phases import look, release, report, verify
from freehold_installer.phases.cluster_state import Seen

INVENTORY = """
name: test
hosts:
  cp1: {address: 10.73.0.11, roles: [control-plane]}
  w1: {address: 10.73.0.12, roles: [worker]}
config: {deploy: {cni: {flannel: {enabled: %s}}, kubeProxy: {enabled: %s}}}
"""
NO_NETWORK = (
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
    "message:Network plugin returns error: cni plugin not initialized"
)


def an_inventory(flannel: bool = True, kube_proxy: bool = True) -> Inventory:
    return loads(INVENTORY % (str(flannel).lower(), str(kube_proxy).lower()))


def nodes(**messages: str) -> FakeKubernetes:
    """Return an API with Nodes, each Ready or with this message."""
    api = FakeKubernetes()
    for name, message in messages.items():
        condition = {"type": "Ready", "status": "False" if message else "True", "message": message}
        path = f"/api/v1/nodes/{name}"
        api.add(path, {"metadata": {"name": name}, "status": {"conditions": [condition]}})
    return api


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "TIMEOUT", 0.05)


def test_nodes_that_lack_only_a_network_of_others_are_not_waited_for() -> None:
    """They are named; what is Ready already is not."""
    api = nodes(cp1="", w1=NO_NETWORK)
    assert verify._wait_for_nodes(api, "cp1", ["cp1", "w1"], own_network=False) == ["w1"]


def test_a_network_of_ours_is_waited_for() -> None:
    """With flannel the same message is a failure in the end."""
    with pytest.raises(StepError, match="cni plugin not initialized"):
        verify._wait_for_nodes(nodes(w1=NO_NETWORK), "cp1", ["w1"], own_network=True)


@pytest.mark.parametrize(
    "message", ["PLEG is not healthy", "[container runtime is down, " + NO_NETWORK + "]"]
)
def test_other_reasons_are_waited_for(message: str) -> None:
    """A node that lacks more than a network is not well."""
    with pytest.raises(StepError, match="w1: "):
        verify._wait_for_nodes(nodes(w1=message), "cp1", ["w1"], own_network=False)


def test_ready_nodes_wait_for_nothing() -> None:
    """Once the network is there, pods are tried as always."""
    api = nodes(cp1="", w1="")
    assert verify._wait_for_nodes(api, "cp1", ["cp1", "w1"], own_network=False) == []


class A:
    """Whatever has an inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((True, True), (True, True), []),
        ((False, False), (False, False), []),
        ((False, False), (False, True), []),
        ((True, True), (False, True), ["w1 has flannel"]),
        ((False, True), (True, True), ["w1 has not flannel"]),
        ((True, True), (True, False), ["w1 has kube-proxy"]),
    ],
)
def test_networks_are_not_changed_under_pods(
    before: tuple[bool, bool], after: tuple[bool, bool], words: list[str]
) -> None:
    """A machine that has one network is not given another; kube-proxy may come, but not go."""
    network = a_network(flannel=before[0], kube_proxy=before[1])
    seen = {"cp1": Seen({}, None, ()), "w1": Seen({}, a_document(network=network), ("node",))}
    run: Any = A(an_inventory(*after))
    found = look._of_another_network(run, seen)
    assert len(found) == len(words)
    for error, word in zip(found, words, strict=True):
        assert str(error).startswith(word)
        assert error.hint


def test_what_is_left_out_is_no_unit_and_no_byte(tmp_path: Any) -> None:
    """Status and logs ask for no unit that is not there; programs that nobody starts are not sent."""
    without = an_inventory(flannel=False, kube_proxy=False)
    assert not {"flannel", "kube-proxy"} & set(report.units_of(without, "w1"))
    assert {"flannel", "kube-proxy"} <= set(report.units_of(an_inventory(), "w1"))
    names = ("bin/flanneld", "bin/kube-proxy", "bin/kubelet")
    store = Store(tmp_path)
    stored = {name: store.put_bytes(name.encode()) for name in names}
    entries = tuple(ArtifactEntry(name, file.sha256, file.size, ("node",)) for name, file in stored.items())
    store.save_manifest(Manifest("1.37.2", "amd64", entries))

    def shipped(inventory: Inventory) -> set[str]:
        manifest = release.manifest_for(
            store,
            "1.37.2",
            {"w1": "amd64"},
            metrics_server=False,
            unwanted=release.unwanted(inventory.config),
        )
        return {entry.name for entry in manifest.entries} & set(names)

    assert shipped(without) == {"bin/kubelet"}
    assert shipped(an_inventory()) == set(names)
