"""The lock of a release, and that the committed ones are whole."""

import re
from pathlib import Path

import pytest

from freehold_installer.bundle import lock
from freehold_installer.errors import InputError

SMALL = """
version: 1
release: 1.2.3
go: 1.26.0
components:
  tool:
    version: v1
    source: {kind: go}
    outputs:
      bin/tool: {from: example.test/tool, roles: [node]}
      parts/thing: {from: example.test/thing}
images:
  thing:
    reference: registry.freehold.invalid/thing:1
    version: "1"
    roles: [test]
    files: {/thing: {output: parts/thing}}
"""


def a_release(root: Path, text: str = SMALL, release: str = "1.2.3") -> Path:
    (root / release).mkdir(parents=True)
    (root / release / "lock.yaml").write_text(text)
    return root


@pytest.mark.parametrize("release", lock.releases())
def test_committed_locks_are_whole(release: str) -> None:
    """Every component has pinned modules whose version and Go version agree with the lock."""
    found = lock.load(release)
    for name, component in found.components.items():
        if component.source.kind != "go":
            continue
        directory = found.directory / "go" / (component.source.directory or name)
        text = (directory / "go.mod").read_text()
        needed = re.search(r"^go (\S+)$", text, re.MULTILINE)
        assert needed is not None
        assert [int(n) for n in needed[1].split(".")] <= [int(n) for n in found.go.split(".")]
        if component.version.startswith("v"):
            assert f" {component.version}\n" in text, name
            assert (directory / "go.sum").stat().st_size > 0
        else:
            assert list(directory.glob("*.go")), name


def test_newest_release_is_by_number() -> None:
    """1.37.10 is newer than 1.37.9."""
    assert lock.newest() == lock.releases()[-1]


def test_releases_are_ordered_by_number(tmp_path: Path) -> None:
    """Text order would put 1.37.10 first."""
    for release in ("1.37.10", "1.37.9"):
        a_release(tmp_path, SMALL, release)
    assert lock.releases(tmp_path) == ["1.37.9", "1.37.10"]


def test_unknown_release_names_the_known_ones(tmp_path: Path) -> None:
    """A typing mistake is answered with what there is."""
    with pytest.raises(InputError, match=r"no release `9\.9\.9`; known: 1\.2\.3"):
        lock.load("9.9.9", a_release(tmp_path))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("kind: go", "kind: gone", "does not match any of the expected tags"),
        ("roles: [node]", "roles: [nodes]", "outputs.bin/tool.roles"),
        ("roles: [node]", "roles: []", "need roles"),
        ("output: parts/thing", "output: parts/other", "no component yields `parts/other`"),
        ("version: v1", "version: v1\n    speed: 3", "components.tool.speed"),
        ("release: 1.2.3", "release: 1.2.4", "is the lock of 1.2.4"),
        ("version: 1\nrelease", "version: 2\nrelease", "version"),
        ("bin/tool", "../tool", "components"),
        ("components:", "components: [", "not a lock"),
    ],
)
def test_broken_locks_are_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    """One message that holds the file and the place."""
    root = a_release(tmp_path, SMALL.replace(before, after, 1))
    with pytest.raises(InputError) as caught:
        lock.load("1.2.3", root)
    assert said in caught.value.message
    assert "lock.yaml" in caught.value.message
