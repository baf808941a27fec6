"""Building: what is made when, and what happens when it goes wrong. A fake source stands for the Go toolchain."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from freehold_installer.bundle import build as building
from freehold_installer.bundle.build import build
from freehold_installer.bundle.lock import Component
from freehold_installer.bundle.sources import CancelledBuild, Task
from freehold_installer.bundle.store import Store
from freehold_installer.errors import BundleError, InputError

LOCK = {
    "version": 1,
    "release": "1.2.3",
    "go": "1.0",
    "components": {
        name: {
            "version": "v1",
            "source": {"kind": "debian", "package": name},
            "outputs": {f"bin/{name}": {"from": f"/{name}", "roles": ["node"]}},
        }
        for name in ("alpha", "beta")
    }
    | {
        "probe": {
            "version": "v1",
            "source": {"kind": "debian", "package": "probe"},
            "outputs": {"parts/probe": {"from": "/probe"}},
        }
    },
    "images": {
        "probe": {
            "reference": "registry.freehold.invalid/probe:1",
            "version": "1",
            "roles": ["test"],
            "files": {"/probe": {"output": "parts/probe"}},
        }
    },
}


SHARED = "/shared"
"""Where the fake source finds one file for several outputs."""


class FakeSource:
    """Makes files whose content is the component's name and version."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.unfit = ""
        self.failing = ""
        self.meanwhile: Mapping[str, threading.Event] = {}

    def inputs(self, name: str, component: Component, files: Path) -> Mapping[str, str]:
        return {"toolchain": "1"}

    def check(self, component: Component, architecture: str) -> None:
        if self.unfit:
            raise InputError(self.unfit)

    def make(self, task: Task) -> Mapping[str, Path]:
        self.made.append(task.name)
        if task.name == self.failing:
            raise BundleError(f"building {task.name} failed")
        if task.name in self.meanwhile:
            self.meanwhile[task.name].wait(30)
        if task.run.cancelled.is_set():
            raise CancelledBuild
        found = {}
        for name, output in task.component.outputs.items():
            if output.origin == SHARED:
                found[name] = task.scratch / "shared"
                found[name].write_text("one file")
                continue
            found[name] = task.scratch / name.replace("/", "-")
            found[name].write_text(f"{task.name} {task.component.version} {task.architecture}")
        return found


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    fake = FakeSource()
    monkeypatch.setattr(building, "SOURCES", {"debian": fake})
    return fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    write(tmp_path / "releases", LOCK)
    return tmp_path / "releases"


def write(releases: Path, lock: object) -> None:
    (releases / "1.2.3").mkdir(parents=True, exist_ok=True)
    (releases / "1.2.3" / "lock.yaml").write_text(yaml.safe_dump(lock))


def test_a_bundle_has_its_files_and_images(source: FakeSource, store: Store, releases: Path) -> None:
    """Parts are in images only; everything else is an entry with version, roles and digest."""
    manifest = build("1.2.3", "amd64", store=store, releases=releases)
    assert [entry.name for entry in manifest.entries] == ["bin/alpha", "bin/beta", "images/probe.tar"]
    assert manifest.entry("images/probe.tar").image == "registry.freehold.invalid/probe:1"
    assert manifest.entry("bin/alpha").roles == ("node",)
    assert store.path(manifest.entry("bin/alpha").sha256).read_text() == "alpha v1 amd64"
    assert store.load_manifest("1.2.3", "amd64") == manifest
    assert not list((store.root / "tmp").iterdir())


def test_one_file_may_have_several_names(source: FakeSource, store: Store, tmp_path: Path) -> None:
    """It is in the store once, and each name has its own roles."""
    outputs = {
        "bin/one": {"from": SHARED, "roles": ["node"]},
        "bin/two": {"from": SHARED, "roles": ["control-plane"]},
    }
    component = {"version": "v1", "source": {"kind": "debian", "package": "both"}, "outputs": outputs}
    write(tmp_path / "releases", {**LOCK, "components": {"both": component}, "images": {}})
    manifest = build("1.2.3", "amd64", store=store, releases=tmp_path / "releases")
    assert manifest.entry("bin/one").sha256 == manifest.entry("bin/two").sha256
    assert [entry.roles for entry in manifest.entries] == [("node",), ("control-plane",)]
    assert store.path(manifest.entry("bin/one").sha256).read_text() == "one file"


def test_a_second_build_makes_nothing(source: FakeSource, store: Store, releases: Path) -> None:
    """And needs nothing of what building needs."""
    first = build("1.2.3", "amd64", store=store, releases=releases)
    source.made.clear()
    source.unfit = "no compiler here"
    assert build("1.2.3", "amd64", store=store, releases=releases) == first
    assert source.made == []


def test_only_what_changed_is_made_again(source: FakeSource, store: Store, releases: Path) -> None:
    """A new version makes its component; roles and expected times make nothing but a new manifest."""
    first = build("1.2.3", "amd64", store=store, releases=releases)
    source.made.clear()
    changed = yaml.safe_load(yaml.safe_dump(LOCK))
    changed["components"]["alpha"]["version"] = "v2"
    changed["components"]["beta"]["outputs"]["bin/beta"]["roles"] = ["control-plane"]
    changed["components"]["beta"]["seconds"] = 99
    write(releases, changed)
    second = build("1.2.3", "amd64", store=store, releases=releases)
    assert source.made == ["alpha"]
    assert second.entry("bin/beta").roles == ("control-plane",)
    assert second.directory != first.directory


def test_architectures_are_apart(source: FakeSource, store: Store, releases: Path) -> None:
    """The same lock gives other files for another architecture."""
    build("1.2.3", "amd64", store=store, releases=releases)
    manifest = build("1.2.3", "arm64", store=store, releases=releases)
    assert store.path(manifest.entry("bin/alpha").sha256).read_text() == "alpha v1 arm64"
    assert store.bundles() == [("1.2.3", "amd64"), ("1.2.3", "arm64")]


def test_a_lost_file_is_made_again(source: FakeSource, store: Store, releases: Path) -> None:
    """A record alone does not count."""
    manifest = build("1.2.3", "amd64", store=store, releases=releases)
    store.path(manifest.entry("bin/beta").sha256).unlink()
    source.made.clear()
    assert build("1.2.3", "amd64", store=store, releases=releases) == manifest
    assert source.made == ["beta"]


def test_a_killed_build_is_continued(source: FakeSource, store: Store, releases: Path) -> None:
    """What was finished stays, what was left lying is swept, half a record does not confuse."""
    build("1.2.3", "amd64", store=store, releases=releases)
    (store.root / "bundles" / "1.2.3-amd64" / "manifest.json").unlink()
    (record,) = (store.root / "records").glob("beta-*.json")
    record.write_text('{"key": ')
    leftover = store.root / "tmp" / "1.2.3-amd64-beta.abc"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    source.made.clear()
    build("1.2.3", "amd64", store=store, releases=releases)
    assert source.made == ["beta"]
    assert not leftover.exists()


def test_without_tests_what_only_they_need_is_left_out(
    source: FakeSource, store: Store, releases: Path
) -> None:
    """Neither the image nor the component that only it uses."""
    manifest = build("1.2.3", "amd64", store=store, releases=releases, tests=False)
    assert [entry.name for entry in manifest.entries] == ["bin/alpha", "bin/beta"]
    assert sorted(source.made) == ["alpha", "beta"]


def test_a_failure_is_the_one_that_is_told(source: FakeSource, store: Store, releases: Path) -> None:
    """The others are ended, and nothing claims to be a bundle."""
    seen: list[tuple[str, str]] = []
    source.failing = "alpha"
    with pytest.raises(BundleError, match="building alpha failed"):
        build(
            "1.2.3",
            "amd64",
            lambda name, state, _: seen.append((name, state)),
            store=store,
            releases=releases,
        )
    assert ("alpha", "failed") in seen
    assert store.read_manifest("1.2.3", "amd64") is None
    assert not list((store.root / "tmp").iterdir())


def test_an_unfit_machine_makes_nothing(source: FakeSource, store: Store, releases: Path) -> None:
    """What is missing is said before minutes are spent."""
    source.unfit = "building runc needs gcc"
    with pytest.raises(InputError, match="needs gcc"):
        build("1.2.3", "amd64", store=store, releases=releases)
    assert source.made == []


def test_two_builds_at_once_make_everything_once(source: FakeSource, store: Store, releases: Path) -> None:
    """The second waits for the first and finds its work done."""
    release = threading.Event()
    source.meanwhile = {"alpha": release, "beta": release}
    waits = threading.Event()

    def second_progress(_name: str, state: str, _detail: str) -> None:
        if state == "waiting":
            waits.set()
            release.set()

    results = []
    first_began = threading.Event()
    first = threading.Thread(
        target=lambda: results.append(
            build("1.2.3", "amd64", lambda *_: first_began.set(), store=store, releases=releases)
        )
    )
    first.start()
    assert first_began.wait(30)
    results.append(build("1.2.3", "amd64", second_progress, store=store, releases=releases))
    first.join(30)
    assert waits.is_set()
    assert results[0] == results[1]
    assert sorted(source.made) == ["alpha", "beta", "probe"]


@pytest.mark.parametrize("jobs", ["0", "many", "-1"])
def test_a_bad_number_of_jobs_is_said(
    source: FakeSource, store: Store, releases: Path, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variable's name."""
    monkeypatch.setenv("FREEHOLD_BUILD_JOBS", jobs)
    with pytest.raises(InputError, match="FREEHOLD_BUILD_JOBS"):
        build("1.2.3", "amd64", store=store, releases=releases)


def test_an_unknown_architecture_is_said(source: FakeSource, store: Store, releases: Path) -> None:
    """With those that are known."""
    with pytest.raises(InputError, match="`sparc`; known: amd64, arm64"):
        build("1.2.3", "sparc", store=store, releases=releases)
