"""Files, directories and links. A symbolic link is never followed when something else is expected."""

import base64
import contextlib
import hashlib
import os
import stat
from typing import Any, Dict, Optional

from freehold_agent.contract.resources import Attributes, Directory, File, Link, key_of
from freehold_agent.errors import StepFailed
from freehold_agent.machine import files

LARGEST_KEPT = 1 << 20
"""Bytes of a foreign file that we keep in the record before replacing it."""


def observe_file(path: str) -> Optional[Attributes]:
    """Return digest, mode, owner and group of a regular file; only its type for anything else."""
    state = _lstat(path)
    if state is None or not stat.S_ISREG(state.st_mode):
        return _other(state)
    total = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 18), b""):
            total.update(block)
    return {"sha256": total.hexdigest(), **_access(state)}


def observe_directory(path: str) -> Optional[Attributes]:
    """Return mode, owner and group of a directory; only its type for anything else."""
    state = _lstat(path)
    if state is None or not stat.S_ISDIR(state.st_mode):
        return _other(state)
    return _access(state)


def observe_link(path: str) -> Optional[Attributes]:
    """Return where a symbolic link points; only its type for anything else."""
    state = _lstat(path)
    if state is None or not stat.S_ISLNK(state.st_mode):
        return _other(state)
    return {"target": os.readlink(path)}


def before_file(path: str) -> Dict[str, Any]:
    """Return what is needed to put back what a File or Link will replace. Raises StepFailed, OSError."""
    state = _lstat(path)
    if state is None:
        return {"created": True}
    if stat.S_ISLNK(state.st_mode):
        return {"target": os.readlink(path)}
    if not stat.S_ISREG(state.st_mode):
        raise StepFailed("file:" + path, path + " is in the way: neither a file nor a link")
    if state.st_size > LARGEST_KEPT:
        raise StepFailed(
            "file:" + path,
            "{} is in the way: not made by freehold, and too large ({} bytes) to keep".format(
                path, state.st_size
            ),
            hint="move it away",
        )
    with open(path, "rb") as stream:
        content = stream.read()
    return {"content": base64.b64encode(content).decode(), **_access(state)}


def before_directory(path: str, keep: bool) -> Dict[str, Any]:
    """Return what was there before a Directory. Raises StepFailed for what is not one, OSError."""
    state = _lstat(path)
    if state is None:
        return {"created": True, "keep": keep}
    if not stat.S_ISDIR(state.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(state.st_mode) else "not a directory"
        raise StepFailed("directory:" + path, "{} is in the way: {}".format(path, kind), hint="move it away")
    return {**_access(state), "keep": keep}


def make_directory(resource: Directory) -> None:
    """Make the directory or correct its mode and owner. Raises StepFailed, OSError."""
    with _explained(key_of(resource)):
        files.ensure_directory(resource.path, resource.mode, resource.owner, resource.group)


def stage_file(resource: File) -> files.Staged:
    """Write the bytes beside the place. Raises StepFailed, OSError."""
    with _explained(key_of(resource)):
        return files.stage(resource.path, resource.content, resource.mode, resource.owner, resource.group)


def make_link(resource: Link) -> None:
    """Point the link at its target. Raises StepFailed, OSError."""
    with _explained(key_of(resource)):
        files.ensure_link(resource.path, resource.target)


def undo_file(path: str, before: Dict[str, Any]) -> None:
    """Remove a file or link, or put back what was there before. Raises OSError."""
    if "target" in before:
        files.ensure_link(path, before["target"])
    elif "content" in before:
        content = base64.b64decode(before["content"])
        owner, group = _known(before)
        files.write_atomic(path, content, before["mode"], owner, group)
    else:
        files.remove(path)


def undo_directory(path: str, before: Dict[str, Any]) -> None:
    """Remove a directory that we made if it is empty; give one that was there its mode and owner back.

    What others left in it stays: state has its own way out (`leave`).
    """
    if before.get("keep"):
        return
    if before.get("created"):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    else:
        owner, group = _known(before)
        with contextlib.suppress(NotADirectoryError, FileNotFoundError):
            files.ensure_directory(path, before["mode"], owner, group)


def _known(before: Dict[str, Any]) -> "tuple[str, str]":
    """Return owner and group, root where the old one is gone meanwhile."""
    owner, group = before["owner"], before["group"]
    with contextlib.suppress(OSError):
        files.uid_of(owner)
        files.gid_of(group)
        return owner, group
    return "root", "root"


@contextlib.contextmanager
def _explained(key: str) -> Any:
    try:
        yield
    except FileNotFoundError as error:
        raise StepFailed(key, "{}: its directory does not exist".format(key)) from error
    except OSError as error:
        raise StepFailed(key, "{}: {}".format(key, error.strerror or error)) from error


def _lstat(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _access(state: os.stat_result) -> Attributes:
    return {
        "mode": stat.S_IMODE(state.st_mode),
        "owner": files.owner_name(state.st_uid),
        "group": files.group_name(state.st_gid),
    }


def _other(state: Optional[os.stat_result]) -> Optional[Attributes]:
    if state is None:
        return None
    for test, name in ((stat.S_ISLNK, "link"), (stat.S_ISDIR, "directory"), (stat.S_ISREG, "file")):
        if test(state.st_mode):
            return {"type": name}
    return {"type": "special"}
