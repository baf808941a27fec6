"""The content-addressed store: what is in it is whole, or it is said."""

import hashlib
import os
from pathlib import Path

import pytest

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle.store import Store, default_root, hash_file
from freehold_installer.errors import BundleError, InputError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def an_entry(store: Store, content: bytes, name: str = "bin/tool") -> ArtifactEntry:
    stored = store.put_bytes(content)
    return ArtifactEntry(name, stored.sha256, stored.size, ("node",))


def damage(store: Store, entry: ArtifactEntry, content: bytes) -> None:
    path = store.path(entry.sha256)
    path.unlink()
    path.write_bytes(content)


def test_a_file_is_named_by_its_digest(store: Store) -> None:
    """The name is the SHA-256 in hex; the file can be started and not be written."""
    stored = store.put_bytes(b"hello")
    assert stored.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert store.path(stored.sha256).read_bytes() == b"hello"
    assert store.path(stored.sha256).stat().st_mode & 0o777 == 0o555
    assert store.has(stored.sha256, 5)
    assert not list((store.root / "tmp").iterdir())


def test_streaming_gives_the_bytes(store: Store) -> None:
    """What is read is what was put in, in pieces or at once."""
    entry = an_entry(store, b"x" * 100_000)
    with store.open_verified(entry) as stream:
        assert stream.read(10) == b"x" * 10
        assert stream.read() == b"x" * 99_990


@pytest.mark.parametrize("content", [b"HELLO", b"hell", b"hello!", b""])
def test_streaming_a_damaged_file_fails(store: Store, content: bytes) -> None:
    """The mismatch is told before the reader can believe it has all, and the file makes room for a good one."""
    entry = an_entry(store, b"hello")
    damage(store, entry, content)
    with (
        store.open_verified(entry) as stream,
        pytest.raises(BundleError, match="bin/tool in the bundle is damaged"),
    ):
        stream.read()
    assert not store.path(entry.sha256).exists()


def test_exact_reads_do_not_miss_damage(store: Store) -> None:
    """A reader that stops after `size` bytes sees the error too."""
    entry = an_entry(store, b"hello")
    damage(store, entry, b"HELLO")
    with store.open_verified(entry) as stream, pytest.raises(BundleError):
        stream.read(5)


def test_a_missing_file_is_a_bundle_error(store: Store) -> None:
    """With the command that mends it."""
    entry = ArtifactEntry("bin/tool", "0" * 64, 1, ("node",))
    with pytest.raises(BundleError, match="bin/tool is missing") as caught:
        store.open_verified(entry)
    assert caught.value.hint == "freehold bundle build"


def test_a_manifest_comes_back(store: Store) -> None:
    """What was saved is what is loaded, and it is listed."""
    manifest = Manifest("1.2.3", "amd64", (an_entry(store, b"hello"),), "ab" * 32)
    store.save_manifest(manifest)
    assert store.load_manifest("1.2.3", "amd64") == manifest
    assert store.bundles() == [("1.2.3", "amd64")]


def test_loading_says_what_to_do_when_nothing_was_built(store: Store) -> None:
    """The hint is the exact command."""
    with pytest.raises(BundleError, match=r"no bundle of 1\.2\.3 for arm64") as caught:
        store.load_manifest("1.2.3", "arm64")
    assert caught.value.hint == "freehold bundle build --release 1.2.3 --arch arm64"


def test_loading_notices_lost_and_cut_files(store: Store) -> None:
    """A file of another size counts as missing."""
    entries = tuple(an_entry(store, bytes([n]) * 9, f"bin/tool{n}") for n in range(5))
    store.save_manifest(Manifest("1.2.3", "amd64", entries))
    for entry in entries[:4]:
        damage(store, entry, b"short")
    with pytest.raises(BundleError, match="lacks bin/tool0, bin/tool1, bin/tool2 and 1 more"):
        store.load_manifest("1.2.3", "amd64")


def test_an_unreadable_manifest_is_a_bundle_error(store: Store) -> None:
    """Half a file, or one of a later version."""
    path = store.manifest_path("1.2.3", "amd64")
    path.parent.mkdir(parents=True)
    for text in ("{", '{"version": 99}', "[]"):
        path.write_text(text)
        with pytest.raises(BundleError, match="cannot be read"):
            store.load_manifest("1.2.3", "amd64")


def test_verify_finds_and_removes_the_damaged(store: Store) -> None:
    """Good files stay, bad ones are named and go, so that the next build makes them again."""
    good, bad = an_entry(store, b"good", "bin/good"), an_entry(store, b"bad!", "bin/bad")
    lost = ArtifactEntry("bin/lost", "0" * 64, 1, ("node",))
    damage(store, bad, b"BAD!")
    found = store.verify(Manifest("1.2.3", "amd64", (good, bad, lost)))
    assert [item.name for item in found] == ["bin/bad", "bin/lost"]
    assert store.path(good.sha256).exists()
    assert not store.path(bad.sha256).exists()


def test_sweep_removes_leftovers_of_one_name(store: Store) -> None:
    """What another step is working on stays."""
    for name in ("a-tool.x1", "a-tool.x2", "another.x1"):
        (store.root / "tmp" / name).mkdir(parents=True)
    store.sweep("a-tool")
    assert [path.name for path in (store.root / "tmp").iterdir()] == ["another.x1"]


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FREEHOLD_CACHE wins over XDG_CACHE_HOME, which wins over the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FREEHOLD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_root() == tmp_path / ".cache" / "freehold"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "freehold"
    monkeypatch.setenv("FREEHOLD_CACHE", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A file where the directory should be: one message, no traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises((BundleError, InputError), match="cannot be written"):
        Store(tmp_path / "file").put_bytes(b"x")


def test_a_full_disk_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's words, and what helps."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="No space left on device") as caught:
        store.put_bytes(b"x")
    assert "FREEHOLD_CACHE" in caught.value.hint
    assert not list((store.root / "tmp").iterdir())


def a_bundle(store: Store, *contents: bytes) -> Manifest:
    entries = tuple(an_entry(store, content, f"bin/{number}") for number, content in enumerate(contents))
    manifest = Manifest("1.2.3", "amd64", entries, "b" * 64)
    store.save_manifest(manifest)
    return manifest


def test_a_bundle_that_was_written_to_is_refused_before_anything_is_sent(store: Store) -> None:
    """One flipped byte is found without reading files that nobody touched, and named."""
    manifest = a_bundle(store, b"hello", b"world")
    assert store.load_manifest("1.2.3", "amd64") == manifest
    damage(store, manifest.entries[1], b"wOrld")
    with pytest.raises(BundleError, match=r"is damaged: bin/1 should be"):
        store.load_manifest("1.2.3", "amd64")
    assert not store.path(manifest.entries[1].sha256).exists(), "a build makes it again"


def test_a_file_that_was_only_touched_is_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another time makes the file suspect; once its digest was right it is believed again."""
    manifest = a_bundle(store, b"hello", b"world")
    os.utime(store.path(manifest.entries[0].sha256))
    read: list[str] = []

    def counting(path: Path) -> tuple[str, int]:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("freehold_installer.bundle.store.hash_file", counting)
    store.load_manifest("1.2.3", "amd64")
    store.load_manifest("1.2.3", "amd64")
    assert read == [manifest.entries[0].sha256]
