"""The content-addressed store of artifacts on the operator's machine, and the manifests of built bundles.

    ROOT/store/sha256/DIGEST                     a file, named by its own digest
    ROOT/bundles/RELEASE-ARCHITECTURE/manifest.json
    ROOT/records/COMPONENT-KEY.json              what a build of these inputs yielded
    ROOT/tmp/, ROOT/locks/                       work in progress

Everything appears by rename, so a killed program leaves either a whole file or one in `tmp` that the next
build sweeps. It must not know how artifacts are made.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_installer.errors import BundleError, InputError

CHUNK = 1 << 20
BUILD_HINT = "freehold bundle build"
VERIFIED = 0
"""Modification time (ns) of a file whose digest has been seen to be right: whoever writes to it changes that."""


@dataclass(frozen=True)
class Stored:
    """A file of the store."""

    sha256: str
    size: int
    """Bytes."""


class Store:
    """One store. Every method may be called from several threads and several programs at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    # --- files --------------------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Return where the file of that digest is, or would be."""
        return self.root / "store" / "sha256" / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Tell by name and size, without reading it, whether the file is there."""
        try:
            return self.path(sha256).stat().st_size == size
        except OSError:
            return False

    def put_file(self, source: Path) -> Stored:
        """Take a file in by renaming it when that is possible. Raises BundleError when the disk is full."""
        with _disk_errors(self.root):
            digest, size = hash_file(source)
            target = self.path(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self.has(digest, size):
                if source.stat().st_dev != target.parent.stat().st_dev:
                    with self.scratch("put") as scratch:
                        source = Path(shutil.copyfile(source, scratch / digest))
                        self._settle(source, target)
                else:
                    self._settle(source, target)
            return Stored(digest, size)

    def put_bytes(self, content: bytes) -> Stored:
        """Take bytes in. Raises BundleError when the disk is full."""
        digest = hashlib.sha256(content).hexdigest()
        if self.has(digest, len(content)):
            return Stored(digest, len(content))
        with self.scratch("put") as scratch:
            file = scratch / "bytes"
            with _disk_errors(self.root):
                file.write_bytes(content)
            return self.put_file(file)

    def _settle(self, source: Path, target: Path) -> None:
        # Executable for all, writable by nobody: kubectl is started from here, and nothing here ever changes.
        os.chmod(source, 0o555)  # noqa: S103
        os.utime(source, ns=(VERIFIED, VERIFIED))
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)

    def discard(self, sha256: str) -> bool:
        """Remove a damaged file, so that the next build makes it again; tell whether that worked."""
        with suppress(OSError):
            self.path(sha256).unlink()
            return True
        return False

    def open_verified(self, entry: ArtifactEntry) -> "VerifiedReader":
        """Open a file for streaming. Raises BundleError when it is missing; reading does for wrong bytes."""
        try:
            return VerifiedReader(self, entry)
        except OSError as error:
            raise BundleError(
                f"{entry.name} is missing from the bundle ({self.path(entry.sha256)})", hint=BUILD_HINT
            ) from error

    # --- manifests ----------------------------------------------------------------------------------------

    def manifest_path(self, release: str, architecture: str) -> Path:
        return self.root / "bundles" / f"{release}-{architecture}" / "manifest.json"

    def save_manifest(self, manifest: Manifest) -> None:
        """Write it unless the same one is there already."""
        self.write_json(self.manifest_path(manifest.release, manifest.architecture), manifest.to_json())

    def read_manifest(self, release: str, architecture: str) -> Manifest | None:
        """Return the manifest, files there or not. Raises BundleError for one that cannot be read."""
        path = self.manifest_path(release, architecture)
        try:
            return Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} cannot be read: {error}", hint=BUILD_HINT) from error

    def load_manifest(self, release: str, architecture: str) -> Manifest:
        """Return the manifest of a built bundle, all of whose files are there.

        Raises BundleError when it was not built, not completely, or lost files since, or when one that was
        written to since it was verified is damaged. All digests are compared by `verify`, and by each machine.
        """
        hint = f"freehold bundle build --release {release} --arch {architecture}"
        manifest = self.read_manifest(release, architecture)
        if manifest is None:
            raise BundleError(f"no bundle of {release} for {architecture} in {self.root}", hint=hint)
        missing = [entry.name for entry in manifest.entries if not self.has(entry.sha256, entry.size)]
        if missing:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise BundleError(f"the bundle of {release} for {architecture} lacks {names}", hint=hint)
        damages = self._damages([entry for entry in manifest.entries if not self._is_sealed(entry.sha256)])
        if damages:
            listed = "; ".join(f"{damage.name} {damage.what}" for damage in damages[:3])
            raise BundleError(
                f"the bundle of {release} for {architecture} is damaged: {listed}; removed", hint=hint
            )
        return manifest

    def bundles(self) -> list[tuple[str, str]]:
        """Return (release, architecture) of each bundle that was built here."""
        found = sorted((self.root / "bundles").glob("*/manifest.json"))
        return [tuple(path.parent.name.rsplit("-", 1)) for path in found]  # type: ignore[misc]

    def verify(self, manifest: Manifest) -> list["Damage"]:
        """Read every file again and return the damaged ones, which are removed so that a build mends them."""
        return self._damages(manifest.entries)

    def _is_sealed(self, sha256: str) -> bool:
        try:
            return self.path(sha256).stat().st_mtime_ns == VERIFIED
        except OSError:
            return False

    def _damages(self, entries: Sequence[ArtifactEntry]) -> list["Damage"]:
        def check(entry: ArtifactEntry) -> Damage | None:
            try:
                digest, size = hash_file(self.path(entry.sha256))
            except OSError as error:
                return Damage(entry.name, f"cannot be read: {error.strerror}")
            if digest == entry.sha256:
                with suppress(OSError):  # another user's store: read again the next time
                    os.utime(self.path(entry.sha256), ns=(VERIFIED, VERIFIED))
                return None
            self.discard(entry.sha256)
            return Damage(entry.name, f"should be {entry.sha256[:12]}... ({entry.size} bytes), "
                          f"is {digest[:12]}... ({size} bytes)")  # fmt: skip

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            return [damage for damage in pool.map(check, entries) if damage]

    # --- work in progress ---------------------------------------------------------------------------------

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yield a new directory on the store's filesystem; it is gone afterwards."""
        with _disk_errors(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(prefix=name + ".", dir=self.root / "tmp"))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def sweep(self, name: str) -> None:
        """Remove what killed programs left of `scratch(name)`; only for the holder of that name's lock."""
        for leftover in (self.root / "tmp").glob(name + ".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def lock_path(self, name: str) -> Path:
        with _disk_errors(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
        return self.root / "locks" / f"{name}.lock"

    def read_record(self, name: str) -> dict[str, Any] | None:
        """Return a record, or None when there is none or it cannot be read: then it is made again."""
        try:
            data = json.loads((self.root / "records" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def save_record(self, name: str, data: Mapping[str, Any]) -> None:
        self.write_json(self.root / "records" / f"{name}.json", data)

    def write_json(self, path: Path, data: Mapping[str, Any]) -> None:
        text = json.dumps(data, indent=1, sort_keys=True) + "\n"
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                return
        with _disk_errors(self.root), self.scratch("json") as scratch:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = scratch / path.name
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(file, path)


@dataclass(frozen=True)
class Damage:
    """A file of the bundle that is not what the manifest says."""

    name: str
    what: str


class VerifiedReader(io.RawIOBase):
    """Reads a file of the store; raises BundleError at its end when the bytes were not the expected ones."""

    def __init__(self, store: Store, entry: ArtifactEntry) -> None:
        self._store = store
        self._entry = entry
        self._file = open(store.path(entry.sha256), "rb", buffering=0)  # noqa: SIM115  closed by close()
        self._hash = hashlib.sha256()
        self._count = 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation("every byte must pass through the digest")

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        view = memoryview(buffer)[:count]
        self._hash.update(view)
        self._count += count
        # Told with the last byte, not at the read after it: who knows the size never asks for more.
        if count == 0 or self._count >= self._entry.size:
            self._check()
        return count

    def _check(self) -> None:
        found = self._hash.hexdigest()
        if found == self._entry.sha256 and self._count == self._entry.size:
            return
        self._store.discard(self._entry.sha256)
        raise BundleError(
            f"{self._entry.name} in the bundle is damaged: its digest must be {self._entry.sha256[:12]}..., "
            f"is {found[:12]}... ({self._count} of {self._entry.size} bytes); removed",
            hint=BUILD_HINT,
        )

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def default_root() -> Path:
    """Return $FREEHOLD_CACHE, else `freehold` below the user's cache directory."""
    if own := os.environ.get("FREEHOLD_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "freehold"


def hash_file(path: Path) -> tuple[str, int]:
    """Return SHA-256 in lower-case hex and size in bytes. Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise InputError(f"cannot write to {root}: {error.strerror}", hint="set FREEHOLD_CACHE") from error
    except OSError as error:
        raise BundleError(
            f"the store in {root} cannot be written: {error.strerror}",
            hint="make room, or set FREEHOLD_CACHE",
        ) from error
