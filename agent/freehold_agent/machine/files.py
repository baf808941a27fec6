"""Small files on a machine: written whole or not at all, with their mode before their first byte.

Knows nothing of resources. A batch is staged first and renamed together, so that fsync costs once per batch.
"""

import contextlib
import grp
import json
import os
import pwd
import stat
from dataclasses import dataclass
from typing import Any, Iterable, List, Sequence

_SUFFIX = ".freehold-new"


@dataclass(frozen=True)
class Staged:
    """A file whose bytes lie beside its place, waiting for the rename."""

    temporary: str
    path: str


def uid_of(owner: str) -> int:
    """Return the user's id. Raises OSError when there is no such user."""
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise OSError("no user " + repr(owner) + " on this machine") from None


def gid_of(group: str) -> int:
    """Return the group's id. Raises OSError when there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError("no group " + repr(group) + " on this machine") from None


def owner_name(uid: int) -> str:
    """Return the user's name, or the number as text when nobody has it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the group's name, or the number as text when there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def stage(path: str, content: bytes, mode: int, owner: str = "root", group: str = "root") -> Staged:
    """Write `content` beside `path`, not yet durable. Raises OSError; nothing is left behind then.

    The name of the temporary file is fixed: what a killed run left is replaced by the next one.
    """
    uid, gid = uid_of(owner), gid_of(group)
    directory, name = os.path.split(path)
    staged = Staged(os.path.join(directory, "." + name + _SUFFIX), path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged.temporary)
    descriptor = os.open(
        staged.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
    except BaseException:
        discard([staged])
        raise
    return staged


def discard(staged: Iterable[Staged]) -> None:
    """Remove files that were staged and will not be committed."""
    for item in staged:
        with contextlib.suppress(OSError):
            os.unlink(item.temporary)


def commit(staged: Sequence[Staged]) -> None:
    """Make staged files durable, put each in its place and make the renames durable. Raises OSError."""
    try:
        for item in staged:
            sync_path(item.temporary)
        for item in staged:
            os.rename(item.temporary, item.path)
    except BaseException:
        discard(staged)
        raise
    for directory in {os.path.dirname(item.path) or "." for item in staged}:
        sync_path(directory)


def write_atomic(path: str, content: bytes, mode: int, owner: str = "root", group: str = "root") -> None:
    """Write a file whole or not at all, durable on return. Raises OSError."""
    commit([stage(path, content, mode, owner, group)])


def ensure_directory(path: str, mode: int = 0o755, owner: str = "root", group: str = "root") -> None:
    """Make the directory, or set mode and owner of the present one; parents must exist. Raises OSError.

    A symbolic link in its place is refused (NotADirectoryError), never followed.
    """
    uid, gid = uid_of(owner), gid_of(group)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        if os.path.lexists(path) and not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(path + " is in the way: not a directory") from None
        raise
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def ensure_link(path: str, target: str) -> None:
    """Point the link at `target` by one rename. Raises OSError; a directory in its place is not replaced."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, "." + name + _SUFFIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove(path: str) -> bool:
    """Remove a file or link; True when there was one. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def sync_path(path: str) -> None:
    """Make a file's bytes, or a directory's entries, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str) -> Any:
    """Return the JSON value in a file; None when there is no such file. Raises OSError, ValueError."""
    try:
        with open(path, "rb") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError("{} is not JSON: {}".format(path, error)) from error


def write_json(path: str, value: Any, mode: int = 0o600) -> None:
    """Write a JSON value atomically, owned by the running user; parents are made (0755). Raises OSError."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    content = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
    write_atomic(path, content, mode, owner_name(os.geteuid()), group_name(os.getegid()))


def mount_points(text: str = "") -> List[str]:
    """Return every mount point, as in /proc/self/mountinfo (or `text`), oldest first."""
    if not text:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
    points = []
    for line in text.splitlines():
        name = line.split(" ")[4]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            name = name.replace(code, character)
        points.append(name)
    return points
