"""The content-addressed store on this machine: how bytes get in, and how we know they are still right.

A file has its final name only after its digest was verified. The hash cache saves reading hundreds of
megabytes again. An entry holds for this boot only until the bytes are durable (`settle`), so a power cut can never
make it lie: making a gigabyte durable while a control plane starts would cost it seconds.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from typing import Any, Callable, Dict, Iterator, List, Optional

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Artifact
from freehold_agent.errors import DeliveryFailed, DigestMismatch
from freehold_agent.machine import files

MODE = 0o755
CHUNK = 1 << 20


def path_of(sha256: str, directory: str = "") -> str:
    """Return where the file of that digest lies. Raises DeliveryFailed for what is no SHA-256."""
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise DeliveryFailed("not a sha256: " + repr(sha256))
    return os.path.join(directory or paths.STORE, sha256)


def part_of(sha256: str, directory: str = "") -> str:
    """Return where its bytes lie until they are all there and verified."""
    head, name = os.path.split(path_of(sha256, directory))
    return os.path.join(head, "." + name + ".part")


def has(sha256: str, size: int, directory: str = "") -> bool:
    """Say whether a file of that name and size (bytes) is in place. The digest is not read."""
    try:
        return os.lstat(path_of(sha256, directory)).st_size == size
    except FileNotFoundError:
        return False


def boot_id() -> str:
    """Return what names this boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


class HashCache:
    """Digests of large files, valid while inode, size and change time are the same."""

    def __init__(self, path: str = "", boot: Callable[[], str] = boot_id) -> None:
        self._path = path or paths.HASHES
        self._boot = boot
        self._entries: Optional[Dict[str, Any]] = None

    def digest(self, path: str) -> Optional[str]:
        """Return the known digest of a file, None when it is not known any more."""
        if self._entries is None:
            self._entries = self._read()
        entry = self._entries.get(path)
        try:
            if not entry or entry["stamp"] != _stamp(path) or entry.get("boot") not in (None, self._boot()):
                return None
            return str(entry["sha256"])
        except (OSError, KeyError, TypeError):
            return None

    def remember(self, digests: Dict[str, str]) -> None:
        """Store digests of files (by path), valid until the next boot; safe against others doing so."""
        self._store({path: {"sha256": sha256, "boot": self._boot()} for path, sha256 in digests.items()})

    def settle(self) -> int:
        """Make the files whose digests hold only for this boot durable, and their entries lasting.

        Returns how many there were; writes nothing when there is none.
        """
        pending = {
            path: {"sha256": entry["sha256"]}
            for path, entry in self._read().items()
            if "boot" in entry and self.digest(path) is not None
        }
        for path in pending:
            files.sync_path(path)
        self._store(pending)
        return len(pending)

    def _store(self, new: Dict[str, Dict[str, Any]]) -> None:
        if not new:
            return
        os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
        with self._locked():
            entries = self._read()
            for path, entry in new.items():
                entries[path] = {**entry, "stamp": _stamp(path)}
            entries = {path: entry for path, entry in entries.items() if os.path.lexists(path)}
            files.write_json(self._path, entries)
            self._entries = entries

    def _read(self) -> Dict[str, Any]:
        try:
            entries = files.read_json(self._path)
        except ValueError:  # a damaged cache is an empty one
            return {}
        return entries if isinstance(entries, dict) else {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The directory itself is the lock: no file that someone must clean up.
        descriptor = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Incoming:
    """An artifact on its way into the store: bytes are hashed as they flow and resumed where they stopped."""

    def __init__(self, artifact: Artifact, directory: str = "") -> None:
        self.artifact = artifact
        self.final = path_of(artifact.sha256, directory)
        self._part = part_of(artifact.sha256, directory)
        self._hash = hashlib.sha256()
        self.offset = 0
        """Bytes that are already there."""
        # Bytes may arrive before the converging run has come to the directory; its record knows it already.
        os.makedirs(os.path.dirname(self._part), mode=0o755, exist_ok=True)
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def resume(self) -> int:
        """Hash what an earlier try left and return its length in bytes."""
        self.restart(truncate=False)
        with open(self._part, "rb") as stream:
            for block in iter(lambda: stream.read(CHUNK), b""):
                self._hash.update(block)
                self.offset += len(block)
        if self.offset > self.artifact.size:
            self.restart()
        return self.offset

    def restart(self, truncate: bool = True) -> None:
        """Forget the bytes that came so far."""
        self._hash = hashlib.sha256()
        self.offset = 0
        if truncate:
            os.ftruncate(self._descriptor, 0)

    def write(self, block: Any) -> None:
        """Take the next bytes. Raises OSError (disk full), DeliveryFailed when there are too many."""
        view = memoryview(block)
        if self.offset + len(view) > self.artifact.size:
            raise DeliveryFailed(
                "{}: more than the announced {} bytes came".format(self.artifact.title, self.artifact.size)
            )
        self._hash.update(view)
        while view:
            try:
                written = os.pwrite(self._descriptor, view, self.offset)
            except OSError as error:
                error.filename = os.path.dirname(self.final)  # which disk is full
                raise
            self.offset += written
            view = view[written:]

    def finish(self, source: str = "") -> str:
        """Verify and put the file in its place; return its path. Raises DeliveryFailed, OSError.

        It is not durable yet: `HashCache.settle` makes it so.
        """
        artifact = self.artifact
        if self.offset != artifact.size:
            raise DeliveryFailed("{}: {} of {} bytes came".format(artifact.title, self.offset, artifact.size))
        got = self._hash.hexdigest()
        if got != artifact.sha256:
            self.restart()
            self.close()
            files.remove(self._part)
            raise DigestMismatch(artifact.title, artifact.sha256, got, source)
        os.fchmod(self._descriptor, MODE)
        self.close()
        os.rename(self._part, self.final)
        return self.final

    def close(self) -> None:
        """Stop; the bytes stay for the next try."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hash_file(path: str) -> str:
    """Return the digest of a file by reading it, empty where the disk does not give it back. Raises OSError."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(CHUNK), b""):
                total.update(block)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return ""  # as good as damaged: other blocks of the disk may take it
    return total.hexdigest()


def _stamp(path: str) -> List[int]:
    state = os.lstat(path)
    return [state.st_ino, state.st_size, state.st_ctime_ns]
