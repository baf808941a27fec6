"""A copy of the operator's artifact store in which files can be damaged without harm to anybody else's."""

import json
import shutil
from pathlib import Path

from freehold_installer.bundle.store import default_root


def copied_store(cache: Path) -> Path:
    """Return a cache whose artifacts are links to the real ones, so that damage stays in it."""
    real = default_root()
    (cache / "store" / "sha256").mkdir(parents=True)
    for file in (real / "store" / "sha256").iterdir():
        (cache / "store" / "sha256" / file.name).symlink_to(file)
    shutil.copytree(real / "bundles", cache / "bundles")
    return cache


def flip_a_byte(cache: Path, name: str) -> Path:
    """Damage one artifact of a copied store; return its file."""
    manifest = json.loads((cache / "bundles" / "1.37.2-amd64" / "manifest.json").read_text())
    digest = next(entry["sha256"] for entry in manifest["entries"] if entry["name"] == name)
    file = cache / "store" / "sha256" / digest
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    return file
