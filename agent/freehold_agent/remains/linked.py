"""State directories that an operator put on another disk by a symbolic link: what is ours in there, and only that.

The link and the directory that it leads to are the operator's and stay. What else lies in there may be the operator's
too, so that only names which our programs are known to make are removed; the rest is said.
"""

import errno
import fnmatch
import os
import stat
from typing import Dict, List, Sequence, Tuple

from freehold_agent.contract import paths
from freehold_agent.errors import StepFailed
from freehold_agent.remains.trees import mounts_below
from freehold_agent.volumes import remove_tree

_POD_LOGS = "*_*_????????-????-????-????-????????????"
_STATIC_POD_LOGS = "*_*_" + "[0-9a-f]" * 32
CONTENTS: Dict[str, Tuple[str, ...]] = {
    paths.KUBELET_STATE: (
        "pods",
        "plugins",
        "plugins_registry",
        "plugin-containers",
        "pod-resources",
        "pods-api",
        "device-plugins",
        "checkpoints",
        "image_manager",
        "pki",
        "volume-plugins",
        "*_manager_state",
        "*_pods_state",
        "dra_health_state",
        "graceful_node_shutdown_state",
    ),
    paths.CONTAINERD_STATE: ("io.containerd.*", "opt", "tmpmounts"),
    "/run/containerd": ("io.containerd.*", "containerd.sock", "containerd.sock.ttrpc", "fifo", "s", "runc"),
    "/run/nri": ("nri.sock",),
    "/var/lib/cni": ("networks", "results", "cache"),
    "/run/flannel": ("subnet.env",),
    "/var/log/pods": (_POD_LOGS, _STATIC_POD_LOGS),
    "/var/log/containers": ("*_*_*-*.log",),
    paths.ETCD_STATE: ("member",),
    paths.OPT: ("current", "releases", "store", "freehold-services.pyz"),
    paths.RUN: ("agent.json", "join.json"),
    # The records last: without them a killed run could not be finished.
    paths.STATE: ("volumes", "volume-plugins", "volumes.json", "hashes.json", "controller", "records"),
}
"""Names that our programs make there (patterns as a shell has them), in the order of their removal."""
LINKS_OF_OURS = frozenset(("/var/log/containers", paths.OPT))
"""Where a link among those names is ours too."""
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_followed(path: str) -> bool:
    """Say whether a link in the place of a directory may be followed: it is root's own."""
    return os.lstat(path).st_uid == os.geteuid()


def places(path: str) -> List[str]:
    """Return the directories, without a link anywhere, below which our programs may have mounted something.

    The kernel's list of mounts knows no links. Of a directory that is linked elsewhere only our own names count.
    """
    target = os.path.realpath(path)
    if not os.path.islink(path):
        return [target]
    if not is_followed(path):
        return []
    return [os.path.join(target, name) for name in _ours(path, target)[0]]


def remove_contents(path: str, mounts: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Remove what is ours in the directory that a link leads to; return the names that went and those that stay.

    Ask `is_followed` first. Raises StepFailed when something is mounted in there or cannot be removed.
    """
    key, target = "tree:" + path, os.path.realpath(path)
    if not os.path.isdir(target):
        return [], []
    ours, others = _ours(path, target)
    for name in ours:
        place = os.path.join(target, name)
        below = [mount for mount in mounts if mount == place] + mounts_below(place, mounts)
        if below:
            raise StepFailed(key, "{} is a mount below {}: unmount it first".format(below[0], path))
    base = os.open(target, _OPEN)
    try:
        for name in ours:
            try:
                remove_tree(base, name)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    said = "{}: {}".format(os.path.join(target, name), error.strerror or error)
                    raise StepFailed(key, said) from error
    finally:
        os.close(base)
    return ours, others


def _ours(path: str, target: str) -> Tuple[List[str], List[str]]:
    """Return the names in the target that are ours, in the order of CONTENTS, and all others."""
    try:
        present = sorted(os.listdir(target))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    ours: List[str] = []
    for pattern in CONTENTS.get(path, ()):
        ours += [
            name
            for name in fnmatch.filter(present, pattern)
            if name not in ours and (path in LINKS_OF_OURS or not _is_link(os.path.join(target, name)))
        ]
    return ours, [name for name in present if name not in ours]


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
