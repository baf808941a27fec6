"""Which bundle machines get: by their own architecture, whatever the operator's machine is."""

import pytest

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.errors import UnfitError
from freehold_installer.phases import release


class Store:
    """A store with a bundle of each architecture; remembers which one was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def load_manifest(self, name: str, architecture: str) -> Manifest:
        self.asked.append((name, architecture))
        digest = {"amd64": "a", "arm64": "b"}[architecture] * 64
        return Manifest(name, architecture, (ArtifactEntry("bin/kubelet", digest, 1, ("node",)),), build="c")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    zipapp = ArtifactEntry("bin/freehold-agent.pyz", "d" * 64, 1, ("node",))
    monkeypatch.setattr(release, "stored_zipapps", lambda _store: {zipapp.name: zipapp})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return Store()


@pytest.mark.parametrize(("architecture", "digest"), [("amd64", "a"), ("arm64", "b")])
def test_machines_get_the_bundle_of_their_architecture(store: Store, architecture: str, digest: str) -> None:
    """An operator on amd64 sends arm64 programs to arm64 machines; the zipapps are the same for all."""
    machines = dict.fromkeys(("cp1", "w1"), architecture)
    manifest = release.manifest_for(store, "1.37.2", machines, metrics_server=False)  # type: ignore[arg-type]
    assert store.asked == [("1.37.2", architecture)]
    assert manifest.architecture == architecture
    assert {entry.name: entry.sha256[0] for entry in manifest.entries} == {
        "bin/freehold-agent.pyz": "d",
        "bin/kubelet": digest,
    }


def test_machines_of_two_architectures_are_refused_by_name(store: Store) -> None:
    """One cluster has one architecture for now: each machine is named with its own."""
    with pytest.raises(UnfitError, match="cp1 amd64, w1 arm64"):
        release.manifest_for(store, "1.37.2", {"cp1": "amd64", "w1": "arm64"}, metrics_server=False)  # type: ignore[arg-type]
