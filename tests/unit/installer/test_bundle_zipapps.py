"""The two zipapps that are shipped to machines."""

import ast
import io
import zipfile
from pathlib import Path

import pytest

from freehold_agent.contract.release import AGENT_ENTRY
from freehold_installer.bundle.store import Store
from freehold_installer.bundle.zipapps import RECIPES, Recipe, build_zipapps, stored_zipapps, zipapp
from freehold_installer.errors import InputError


def names(content: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_the_same_sources_give_the_same_bytes() -> None:
    """A second run, also of another process, yields the same digest."""
    assert zipapp(RECIPES["agent"]) == zipapp(RECIPES["agent"])


def test_a_zipapp_is_a_script() -> None:
    """It starts with the interpreter's line and calls the right main."""
    for name, module in (("agent", "freehold_agent.__main__"), ("services", "freehold_controller.__main__")):
        content = build_zipapps()[name]
        assert content.startswith(b"#!/usr/bin/env python3\n")
        assert (
            f"from {module} import main" in zipfile.ZipFile(io.BytesIO(content)).read("__main__.py").decode()
        )


def test_nothing_that_signs_reaches_a_control_plane() -> None:
    """Authority, profiles and the PKI directory stay at the operator's side."""
    services = names(build_zipapps()["services"])
    assert "freehold_agent/contract/paths.py" in services
    assert "pyasn1_modules/rfc2986.py" in services
    assert not [name for name in services if "authority" in name or "pki_directory" in name]
    assert "freehold_bootstrap/profiles.py" not in services


def test_only_sources_and_sorted() -> None:
    """Compiled files belong to one Python version; order must not depend on the filesystem."""
    for content in build_zipapps().values():
        found = names(content)
        assert found == sorted(found)
        assert not [name for name in found if name.endswith(".pyc") or "__pycache__" in name]


def test_everything_in_them_parses_as_python_39() -> None:
    """The oldest machines run 3.9."""
    for content in build_zipapps().values():
        archive = zipfile.ZipFile(io.BytesIO(content))
        for name in archive.namelist():
            if name.startswith("freehold_") and name.endswith(".py"):
                ast.parse(archive.read(name), name, feature_version=(3, 9))


def test_they_can_travel_as_artifacts(tmp_path: Path) -> None:
    """Each gets an entry whose bytes are in the store."""
    store = Store(tmp_path)
    entries = stored_zipapps(store)
    with store.open_verified(entries["agent"]) as stream:
        assert stream.read() == build_zipapps()["agent"]
    assert entries["agent"].name == AGENT_ENTRY


def test_they_can_be_written(tmp_path: Path) -> None:
    """For people who place them by hand."""
    build_zipapps(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "freehold-agent.pyz",
        "freehold-services.pyz",
    ]


def test_a_missing_package_is_said() -> None:
    """Not an ImportError with a traceback."""
    with pytest.raises(InputError, match="package no_such_package is not installed"):
        zipapp(Recipe("x.pyz", ("no_such_package",), "no_such_package"))
