"""Processes and control groups of pods, and of our programs that outlive their unit (containerd's shims)."""

import contextlib
import os
import signal
import time
from typing import Iterable, Iterator, List, Set

from freehold_agent.contract import paths
from freehold_agent.errors import StepFailed

CGROUPS = "/sys/fs/cgroup"
_NAMES = ("kubepods", "kubepods.slice")
_PATIENCE = 15.0


def pod_cgroups(root: str = CGROUPS) -> List[str]:
    """Return the topmost directories of pods, in every hierarchy (cgroup v1) or in the one (v2)."""
    found = []
    for base in [root, *_directories(root)]:
        for top in [base, *_directories(base)]:
            # Pods lie at the root, or below the slice that a systemd driver or a nested machine gives them.
            found += [os.path.join(top, name) for name in _NAMES if os.path.isdir(os.path.join(top, name))]
    return sorted({os.path.realpath(path) for path in found})


def members_of_pods(root: str = CGROUPS) -> Set[int]:
    """Return the processes in the control groups of pods."""
    found: Set[int] = set()
    for top in pod_cgroups(root):
        for directory, _, _ in os.walk(top):
            found.update(_members(os.path.join(directory, "cgroup.procs")))
    return found


def our_processes(root: str = CGROUPS, proc: str = "/proc", opt: str = paths.OPT) -> Set[int]:
    """Return the processes of pods and those whose program lies in our directory."""
    found = members_of_pods(root)
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(os.path.join(proc, name, "exe")).startswith(opt + "/"):
                    found.add(int(name))
    return found - {0, 1, os.getpid()}


def kill(processes: Iterable[int]) -> None:
    """Kill at once; those that are gone are no error."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def kill_all(root: str = CGROUPS, proc: str = "/proc", opt: str = paths.OPT) -> List[str]:
    """Kill what is ours until nothing is left; return what there was. Raises StepFailed after 15 s."""
    first = current = our_processes(root, proc, opt)
    deadline = time.monotonic() + _PATIENCE
    while current:
        kill(current)
        if time.monotonic() > deadline:
            raise StepFailed(
                "processes",
                "processes do not end: {}".format(", ".join(map(str, sorted(current)[:10]))),
                hint="a process in state D waits for a disk or a network volume; reboot the machine",
            )
        time.sleep(0.02)
        current = our_processes(root, proc, opt)
    return [str(process) for process in sorted(first)]


def remove_cgroups(root: str = CGROUPS) -> List[str]:
    """Remove the empty control groups of pods, deepest first; return the topmost that went.

    The kernel keeps a group busy for a moment after its last process; we try for as long as it may take.
    """
    removed = []
    for top in pod_cgroups(root):
        deadline = time.monotonic() + 5
        while os.path.isdir(top) and time.monotonic() < deadline:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            if os.path.isdir(top):
                time.sleep(0.02)
        if not os.path.isdir(top):
            removed.append(top)
    return removed


def _members(path: str) -> Iterator[int]:
    try:
        with open(path, encoding="ascii") as stream:
            yield from [int(line) for line in stream]
    except (OSError, ValueError):
        return


def _directories(path: str) -> List[str]:
    try:
        return [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
