"""Directories of state and what is mounted in them. Nothing is ever deleted through a mount."""

import contextlib
import os
import shutil
import time
from typing import Callable, List, Sequence

from freehold_agent.errors import StepFailed
from freehold_agent.machine.files import mount_points
from freehold_agent.machine.programs import ProgramFailed, run

NETNS = "/run/netns"
_PATIENCE = 5.0


def mounts_below(path: str, mounts: Sequence[str]) -> List[str]:
    """Return the mount points strictly below a directory, the newest first."""
    return [mount for mount in reversed(mounts) if mount.startswith(path.rstrip("/") + "/")]


def unmount_below(
    directories: Sequence[str],
    runner: Callable[..., str] = run,
    mounts: Callable[[], List[str]] = mount_points,
) -> List[str]:
    """Unmount all that is mounted below these directories; return where. Raises StepFailed for a busy one."""
    done: List[str] = []
    deadline = time.monotonic() + _PATIENCE
    while True:
        below = [mount for directory in directories for mount in mounts_below(directory, mounts())]
        if not below:
            return done
        error = None
        for mount in below:
            try:
                runner(["umount", "--", mount], timeout=30)
                done.append(mount)
            except ProgramFailed as failure:
                error = failure
        if error is not None and time.monotonic() > deadline:
            busy = [mount for directory in directories for mount in mounts_below(directory, mounts())]
            if busy:
                raise StepFailed(
                    "mount:" + busy[0],
                    "{} cannot be unmounted: {}".format(busy[0], error.output),
                    hint="find who uses it (fuser -vm), end that, and run the reset again; "
                    "nothing below it was deleted",
                ) from error
        if error is not None:
            time.sleep(0.05)


def remove_tree(path: str, mounts: Sequence[str], keep_itself: bool = False) -> bool:
    """Remove a directory with all below it; True when there was something to remove.

    A mount point keeps its directory and loses its contents. A link in its place is not followed (`linked` knows
    how). Raises StepFailed when something is mounted below, or when a file cannot be removed.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    # The kernel's list of mounts knows no links, and a directory above may be one: /opt -> /data/opt.
    place = os.path.realpath(path)
    below = mounts_below(place, mounts)
    if below:
        raise StepFailed("tree:" + path, "{} is a mount below {}: unmount it first".format(below[0], path))
    keep_itself = keep_itself or place in mounts
    entries = list(os.scandir(path))
    if keep_itself and not entries:
        return False
    try:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        if not keep_itself:
            os.rmdir(path)
    except OSError as error:
        raise StepFailed("tree:" + path, "{}: {}".format(error.filename or path, error.strerror)) from error
    return True


def remove_network_namespaces(
    runner: Callable[..., str] = run, directory: str = NETNS, prefix: str = "cni-"
) -> List[str]:
    """Remove the namespaces of pods; and the directory with its own mount when no other namespace is in it."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.startswith(prefix))
    except FileNotFoundError:
        return []
    paths = [os.path.join(directory, name) for name in names]
    for path in paths:
        if path in mount_points():
            try:
                runner(["umount", "--", path], timeout=30)
            except ProgramFailed as error:
                raise StepFailed(
                    "mount:" + path, "{} cannot be unmounted: {}".format(path, error.output)
                ) from error
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    if not os.listdir(directory):
        while directory in mount_points():
            try:
                runner(["umount", "--", directory], timeout=30)
            except ProgramFailed:
                break
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return paths
