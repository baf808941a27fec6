"""Local volumes on this machine: directories made and removed as the node's list says, and nothing beside them.

Every step goes through descriptors without following a link, from `/` on: whatever a pod puts into its volume, and
whatever a list says, nothing outside `base/name` is touched. What holds data is never made anew: an empty directory in
the place of lost data would pass for it. A quiet list writes nothing.
"""

import contextlib
import errno
import os
import stat
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.volumes import (
    DELETE,
    KEEP,
    LONGEST_MESSAGE,
    MAKE,
    Refusal,
    Volume,
    VolumeList,
    VolumeReport,
    VolumesError,
    base_problem,
    name_is_good,
)
from freehold_agent.machine import files

MODE = 0o777
"""At its making: a pod that is not root must be able to write. From then on the mode is the pod's own business
(databases narrow it), and the base above it keeps others out."""
BASE_MODE = 0o700
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Space(NamedTuple):
    """The file system below a base, in bytes."""

    device: int
    total: int
    free: int
    inodes: bool
    """There is room for another file."""


def space_of(descriptor: int) -> Space:
    """Return what is left where this directory lies. Raises OSError."""
    found = os.fstatvfs(descriptor)
    size = found.f_frsize
    # Some file systems count no inodes at all.
    inodes = found.f_files == 0 or found.f_favail > 0
    return Space(os.fstat(descriptor).st_dev, found.f_blocks * size, found.f_bavail * size, inodes)


class VolumeKeeper:
    """The directories of one node's list."""

    def __init__(self, root: str = "", space: Callable[[int], Space] = space_of) -> None:
        """`root` is put before every path, for tests."""
        self._root = root
        self._space = space
        self._list = VolumeList()
        self._refused: Dict[str, Refusal] = {}
        self._failed: Dict[str, str] = {}

    @property
    def wanted(self) -> VolumeList:
        return self._list

    def load(self) -> VolumeList:
        """Take up the list that was acted on last; an unreadable one counts as none. Raises OSError."""
        with contextlib.suppress(ValueError):
            data = files.read_json(self._root + paths.VOLUME_LIST)
            if data is not None:
                self._list = VolumeList.from_json(data)
        return self._list

    def accept(self, wanted: VolumeList) -> None:
        """Take a newer list and remember it on disk. Raises VolumesError for an older one, OSError."""
        if wanted.generation < self._list.generation:
            raise VolumesError("list {} is older than {}".format(wanted.generation, self._list.generation))
        if wanted != self._list:
            files.write_json(self._root + paths.VOLUME_LIST, wanted.to_json())
        self._list = wanted
        self._refused, self._failed = {}, {}

    def perform(self) -> List[str]:
        """Make what is to be made; return the paths that were. Removing takes time and is `remove_next`'s."""
        made: List[str] = []
        with _Bases(self._root) as bases:
            promised = self._promised(bases)
            changed = set()
            for volume in self._list.volumes:
                if volume.state != MAKE:
                    continue
                try:
                    if self._make(volume, bases, promised):
                        made.append(volume.path)
                        changed.add(volume.base)
                except OSError as error:
                    self._refused[volume.name] = Refusal(_words(error), 0)
            for base in changed:
                os.fsync(bases.open(base))
        return made

    def remove_next(self) -> Optional[str]:
        """Remove one volume that is to go, with its data; return its path, None when there is none left to try."""
        for volume in self._list.volumes:
            if volume.state != DELETE or volume.name in self._failed:
                continue
            try:
                if self.remove(volume):
                    return volume.path
            except OSError as error:
                self._failed[volume.name] = _words(error)
        return None

    def remove(self, volume: Volume) -> bool:
        """Remove a volume's directory; False when it is gone already. Raises OSError."""
        with _Bases(self._root) as bases:
            base = bases.open(volume.base)
            if _look(base, volume.name) is None:
                return False
            remove_tree(base, volume.name)
            os.fsync(base)
        return True

    def try_again(self) -> None:
        """Forget what failed, so that it is tried again."""
        self._failed = {}

    def report(self) -> VolumeReport:
        """Say what is there now. Changes nothing."""
        made: List[str] = []
        deleted: List[str] = []
        refused: Dict[str, Refusal] = {}
        failed: Dict[str, str] = {}
        with _Bases(self._root) as bases:
            for volume in self._list.volumes:
                name = volume.name
                if not name_is_good(name):
                    continue  # our own control plane's mistake or an attack: it is in nobody's report
                if name in self._refused:
                    refused[name] = self._refused[name]
                    continue
                try:
                    there = _look(bases.open(volume.base), name) is not None
                except OSError as error:
                    if volume.state == MAKE:
                        refused[name] = Refusal(_words(error))
                    else:
                        failed[name] = _words(error)
                    continue
                if volume.state == KEEP and not there:
                    failed[name] = "{} is gone".format(volume.path)
                elif volume.state == MAKE and there:
                    made.append(name)
                elif volume.state == DELETE and not there:
                    deleted.append(name)
                elif volume.state == DELETE and name in self._failed:
                    failed[name] = self._failed[name]
        return VolumeReport(self._list.generation, tuple(made), tuple(deleted), refused, failed)

    def _make(self, volume: Volume, bases: "_Bases", promised: Dict[int, int]) -> bool:
        """Make one directory unless it is there; note a refusal. Raises OSError."""
        base = bases.open(volume.base, make=True)
        if _look(base, volume.name) is not None:
            self._refused.pop(volume.name, None)
            return False
        space = self._space(base)
        left = max(0, min(space.free, space.total - promised.get(space.device, 0)))
        if left < volume.capacity or not space.inodes:
            left = left if space.inodes else 0
            said = "{} bytes are asked for, {} has room for {}".format(volume.capacity, volume.base, left)
            self._refused[volume.name] = Refusal(said, left)
            return False
        os.mkdir(volume.name, 0o700, dir_fd=base)
        made = os.open(volume.name, _OPEN, dir_fd=base)
        try:
            os.fchmod(made, MODE)
        finally:
            os.close(made)
        promised[space.device] = promised.get(space.device, 0) + volume.capacity
        return True

    def _promised(self, bases: "_Bases") -> Dict[int, int]:
        """Return by device the bytes that were promised to volumes that are there."""
        total: Dict[int, int] = {}
        for volume in self._list.volumes:
            with contextlib.suppress(OSError):
                base = bases.open(volume.base)
                if volume.state == KEEP or (volume.state == MAKE and _look(base, volume.name) is not None):
                    device = self._space(base).device
                    total[device] = total.get(device, 0) + volume.capacity
        return total


class _Bases:
    """Descriptors of the directories that volumes lie in, each opened once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: Dict[str, int] = {}

    def __enter__(self) -> "_Bases":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def open(self, path: str, make: bool = False) -> int:
        """Return the descriptor of a base. Raises OSError that says what is in the way."""
        if path not in self._open:
            problem = base_problem(path)
            if problem:
                raise OSError(errno.EINVAL, problem)
            if make and path == paths.VOLUMES:
                # Only our own place is made: another one that is missing may be a disk that is not mounted.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._root + path, BASE_MODE)
            self._open[path] = _open_base(self._root, path)
        return self._open[path]


def _open_base(root: str, path: str) -> int:
    """Open an absolute path without following a link anywhere. Raises OSError that says what is in the way."""
    descriptor = os.open(root or "/", _OPEN)
    walked = ""
    for part in path.strip("/").split("/"):
        walked += "/" + part
        try:
            below = os.open(part, _OPEN, dir_fd=descriptor)
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "there is no {} on this machine".format(path)) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                said = "{} is a link or a file: name the directory itself".format(walked)
                raise OSError(errno.ENOTDIR, said) from None
            raise
        finally:
            os.close(descriptor)
        descriptor = below
    state = os.fstat(descriptor)
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        os.close(descriptor)
        raise OSError(errno.EPERM, "{} must belong to root, and nobody else may write there".format(path))
    return descriptor


def remove_tree(base: int, name: str) -> None:
    """Remove `name` in the directory `base` with all below it, following no link and crossing into no mount.

    Directories inside are moved up beside each other first, so that any depth takes two descriptors and no stack.
    Raises OSError.
    """
    state = os.stat(name, dir_fd=base, follow_symlinks=False)
    if not stat.S_ISDIR(state.st_mode):
        os.unlink(name, dir_fd=base)
        return
    top = os.open(name, _OPEN, dir_fd=base)
    try:
        if os.fstat(top).st_dev != os.fstat(base).st_dev:
            raise OSError(errno.EBUSY, "{} is a file system of its own".format(name))
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=base)


def _empty(top: int) -> None:
    count = 0
    moved = _children(top, None, 0)[0]
    while moved:
        name = moved.pop()
        below = os.open(name, _OPEN, dir_fd=top)
        try:
            if os.fstat(below).st_dev != os.fstat(top).st_dev:
                raise OSError(errno.EBUSY, "something is mounted in it")
            found, count = _children(below, top, count)
        finally:
            os.close(below)
        moved += found
        os.rmdir(name, dir_fd=top)


def _children(directory: int, top: Optional[int], count: int) -> Tuple[List[str], int]:
    """Unlink the files of a directory; move its directories up to `top`. Return what they are called there."""
    os.fchmod(directory, 0o700)
    found: List[str] = []
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        if top is None:
            found.append(name)
            continue
        while True:
            count += 1
            there = ".freehold-removed-{}".format(count)
            try:
                os.mkdir(there, 0o700, dir_fd=top)
            except FileExistsError:
                continue
            break
        # A rename replaces the empty directory that has just taken the name.
        os.rename(name, there, src_dir_fd=directory, dst_dir_fd=top)
        found.append(there)
    return found, count


def _look(base: int, name: str) -> Optional[os.stat_result]:
    """Return what has this name in a directory, without following it; None when nothing has. Raises OSError.

    What is there and no directory is an error: it was never ours.
    """
    if not name_is_good(name):
        raise OSError(errno.EINVAL, "{!r} is no name of a volume".format(name[:80]))
    try:
        state = os.stat(name, dir_fd=base, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(state.st_mode):
        raise OSError(errno.ENOTDIR, "{} is in the way: not a directory".format(name))
    return state


def _words(error: OSError) -> str:
    return str(error.strerror or error)[:LONGEST_MESSAGE]


def volumes_elsewhere(data: Optional[Mapping[str, object]]) -> List[Volume]:
    """Return the volumes of a stored list that lie outside our own tree and whose data nobody asked to retain."""
    try:
        listed = VolumeList.from_json(data).volumes if data else ()
    except VolumesError:
        return []
    return [
        volume
        for volume in listed
        if volume.base != paths.VOLUMES and not volume.retain and name_is_good(volume.name)
    ]
