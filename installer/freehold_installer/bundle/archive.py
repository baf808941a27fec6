"""Container images as OCI image layouts in one tar, made without a container engine.

The same input gives the same bytes: entries sorted, times zero, owner root. Layers stay uncompressed: they
are read once, from a local disk, and compressors differ between machines. `ctr images import` reads the
result. It must not know the lock or the store.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

_EPOCH = "1970-01-01T00:00:00Z"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Tree:
    """What an image's root directory holds; paths are absolute."""

    files: Mapping[str, Path | bytes]
    """A program from a file of this machine (mode 0755) or a small text (mode 0644)."""
    directories: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Path of the link to its target."""


@dataclass(frozen=True)
class Settings:
    """How a container of the image is started."""

    reference: str
    architecture: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""


def write_image(target: Path, tree: Tree, settings: Settings, scratch: Path) -> None:
    """Write the image to `target`; `scratch` takes the layer meanwhile. Raises OSError."""
    layer = scratch / "layer.tar"
    with open(layer, "wb") as stream:
        _write_layer(stream, tree)
    with open(layer, "rb") as content:
        layer_digest = hashlib.file_digest(content, "sha256").hexdigest()

    config = _json({
        "architecture": settings.architecture,
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "Env": [_PATH],
            "WorkingDir": "/",
            **({"User": settings.user} if settings.user else {}),
            **({"Entrypoint": list(settings.entrypoint)} if settings.entrypoint else {}),
            **({"Cmd": list(settings.command)} if settings.command else {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": _EPOCH, "created_by": "freehold"}],
    })  # fmt: skip
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [
            {"mediaType": _LAYER, "digest": f"sha256:{layer_digest}", "size": layer.stat().st_size},
        ],
    })  # fmt: skip
    index = _json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            **_descriptor(_MANIFEST, manifest),
            "platform": {"architecture": settings.architecture, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": settings.reference,
                "org.opencontainers.image.ref.name": settings.reference.rpartition(":")[2],
            },
        }],
    })  # fmt: skip
    blobs: dict[str, bytes | Path] = {
        _digest(config): config,
        _digest(manifest): manifest,
        layer_digest: layer,
    }
    with open(target, "wb") as stream, _tar(stream) as tar:
        _add_bytes(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add_bytes(tar, "index.json", index)
        for digest, blob in sorted(blobs.items()):
            if isinstance(blob, Path):
                _add_file(tar, f"blobs/sha256/{digest}", blob, 0o644)
            else:
                _add_bytes(tar, f"blobs/sha256/{digest}", blob)
    layer.unlink()


def _write_layer(stream: BinaryIO, tree: Tree) -> None:
    directories = dict(tree.directories)
    for path in [*tree.files, *tree.links, *tree.directories]:
        for parent in PurePosixPath(path).parents:
            directories.setdefault(str(parent), 0o755)
    directories.pop("/", None)
    with _tar(stream) as tar:
        for path in sorted({*directories, *tree.files, *tree.links}):
            name = path.lstrip("/")
            if path in tree.files:
                content = tree.files[path]
                if isinstance(content, Path):
                    _add_file(tar, name, content, 0o755)
                else:
                    _add_bytes(tar, name, content)
                continue
            entry = tarfile.TarInfo(name)
            if path in tree.links:
                entry.type = tarfile.SYMTYPE
                entry.linkname = tree.links[path]
                entry.mode = 0o777
            else:
                entry.type = tarfile.DIRTYPE
                entry.mode = directories[path]
            tar.addfile(entry)


def _tar(stream: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)


def _add_file(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> None:
    entry = tarfile.TarInfo(name)  # owner 0:0 and time 0 are its defaults
    entry.size = path.stat().st_size
    entry.mode = mode
    with open(path, "rb") as stream:
        tar.addfile(entry, stream)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{_digest(content)}", "size": len(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
