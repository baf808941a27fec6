"""The two programs that run on machines, each as one file that any Python 3.9+ can start.

Made from the packages installed here, so what is shipped is what was tested. The same sources give the
same bytes: sorted, times fixed, stored without compression (compressors differ between machines), no compiled
files.
"""

import importlib.util
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from freehold_agent.contract.artifacts import ArtifactEntry
from freehold_installer import __version__
from freehold_installer.bundle.store import Store
from freehold_installer.errors import InputError

SHEBANG = b"#!/usr/bin/env python3\n"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment a zip file can express."""


@dataclass(frozen=True)
class Recipe:
    """What goes into a zipapp and what is called when it starts."""

    file_name: str
    packages: tuple[str, ...]
    main: str
    """A module with a function `main()` that returns an exit status or None."""
    without: tuple[str, ...] = ()
    """Paths inside the archive that stay out, without `.py`; a package is left out as a whole."""


RECIPES: Mapping[str, Recipe] = {
    "agent": Recipe("freehold-agent.pyz", ("freehold_agent",), "freehold_agent.__main__"),
    "services": Recipe(
        "freehold-services.pyz",
        ("freehold_agent", "freehold_bootstrap", "freehold_controller", "pyasn1", "pyasn1_modules"),
        "freehold_controller.__main__",
        # They hold signing keys and need a compiled library; no control plane has either.
        without=(
            "freehold_bootstrap/authority",
            "freehold_bootstrap/profiles",
            "freehold_bootstrap/pki_directory",
        ),
    ),
}


def build_zipapps(destination: Path | None = None) -> Mapping[str, bytes]:
    """Return the zipapps as `agent` and `services`; with a destination, write them there too.

    Raises InputError when a package is not installed as plain files.
    """
    built = _built()
    if destination is not None:
        destination.mkdir(parents=True, exist_ok=True)
        for name, content in built.items():
            (destination / RECIPES[name].file_name).write_bytes(content)
    return built


def stored_zipapps(store: Store) -> dict[str, ArtifactEntry]:
    """Put both into the store and return their entries, so that they travel like any other artifact."""
    entries = {}
    for name, content in build_zipapps().items():
        stored = store.put_bytes(content)
        roles = ("node",) if name == "agent" else ("control-plane",)
        entries[name] = ArtifactEntry(
            f"bin/{RECIPES[name].file_name}",
            stored.sha256,
            stored.size,
            roles,
            f"freehold-{name}",
            __version__,
        )
    return entries


@cache
def _built() -> Mapping[str, bytes]:
    return {name: zipapp(recipe) for name, recipe in RECIPES.items()}


def zipapp(recipe: Recipe) -> bytes:
    """Return one zipapp's bytes. Raises InputError when a package is not installed as plain files."""
    main = f"import sys\n\nfrom {recipe.main} import main\n\nsys.exit(main())\n"
    files = {"__main__.py": main.encode()}
    for package in recipe.packages:
        root = _directory(package)
        for path in root.rglob("*"):
            name = path.relative_to(root.parent).as_posix()
            if path.is_file() and _wanted(name, recipe.without):
                files[name] = path.read_bytes()
    return SHEBANG + _archive(sorted(files.items()))


def _archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _wanted(name: str, without: tuple[str, ...]) -> bool:
    if name.endswith((".pyc", "~")) or "__pycache__/" in name or "/." in name:
        return False
    return not any(name == left_out + ".py" or name.startswith(left_out + "/") for left_out in without)


def _directory(package: str) -> Path:
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or []) if found else []
    if not places or not Path(places[0]).is_dir():
        raise InputError(
            f"the package {package} is not installed as plain files", hint="pip install freehold"
        )
    return Path(places[0])
