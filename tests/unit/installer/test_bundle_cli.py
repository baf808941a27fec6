"""`freehold bundle ...` as a person or a script meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.bundle.progress import Progress
from freehold_installer.bundle.store import Store
from freehold_installer.cli.bundle import app
from freehold_installer.errors import BundleError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FREEHOLD_CACHE", str(tmp_path))
    store = Store()
    stored = store.put_bytes(b"hello")
    store.save_manifest(
        Manifest(
            "1.37.2", "amd64", (ArtifactEntry("bin/tool", stored.sha256, stored.size, ("node",)),), "ab" * 32
        )
    )
    return store


def test_verify_of_a_good_bundle(store: Store) -> None:
    """Exit 0 and one line."""
    result = CliRunner().invoke(app, ["verify", "--release", "1.37.2", "--arch", "amd64"])
    assert result.exit_code == 0
    assert "1 files, all as they should be" in result.stdout


def test_verify_of_a_bad_bundle(store: Store) -> None:
    """An error of exit code 3 that names each bad file and the command that mends it; JSON on request."""
    manifest = store.load_manifest("1.37.2", "amd64")
    path = store.path(manifest.entries[0].sha256)
    path.unlink()
    path.write_bytes(b"HELLO")
    result = CliRunner().invoke(app, ["verify", "--release", "1.37.2", "--arch", "amd64", "--output", "json"])
    assert isinstance(result.exception, BundleError)
    assert result.exception.exit_code == 3
    assert "bin/tool" in result.exception.message
    assert result.exception.hint == "freehold bundle build --release 1.37.2 --arch amd64"
    assert json.loads(result.stdout)["bad"][0]["name"] == "bin/tool"


def test_verify_without_a_bundle(store: Store) -> None:
    """Says so instead of finding nothing wrong."""
    result = CliRunner().invoke(app, ["verify", "--release", "1.37.2", "--arch", "arm64"])
    assert isinstance(result.exception, BundleError)


def test_list_shows_releases_and_bundles(store: Store) -> None:
    """Built, not built and incomplete are told apart."""
    listed = json.loads(CliRunner().invoke(app, ["list", "--output", "json"]).stdout)
    (row,) = [row for row in listed["bundles"] if row["release"] == "1.37.2"]
    assert row["state"] == "built"
    assert row["bytes"] == 5
    store.discard(store.load_manifest("1.37.2", "amd64").entries[0].sha256)
    text = CliRunner().invoke(app, ["list"]).stdout
    assert "incomplete" in text


def test_an_unknown_release_is_refused(store: Store) -> None:
    """Before anything is built."""
    result = CliRunner().invoke(app, ["build", "--release", "9.9.9"])
    assert result.exit_code != 0
    assert "no release `9.9.9`" in str(result.exception)


def test_progress_without_a_terminal_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per event, none for what was there already."""
    with Progress({"a": 10.0, "b": 1.0}) as progress:
        progress("a", "cached", "")
        progress("b", "building", "")
        progress("b", "building", "12 packages compiled")
        progress("b", "done", "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "b: building"
    assert lines[1].startswith("b: done in 0.")
    assert len(lines) == 2
    assert progress.made == ["b"]


def test_the_summary_has_share_time_and_words() -> None:
    """Cached work counts as done and not for the rate."""
    progress = Progress({"a": 50.0, "b": 50.0})
    progress("a", "cached", "")
    progress("b", "building", "12 packages compiled")
    began = progress._began["b"]
    assert progress.summary(began) == "[ 50%] 0:00  b: 12 packages compiled"
    assert progress.summary(began + 25).startswith("[ 75%] 0:25, about 0:2")
