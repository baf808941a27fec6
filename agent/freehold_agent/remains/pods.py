"""The end of pods when the machine goes down: told to end, given time, then killed.

Without this a machine waits for a minute and a half at each shutdown: a container's first process that has no handler
for SIGTERM ignores it, and systemd asks long before it kills. Kubernetes has nothing to do with it: the kubelet is
stopped already, and whether pods live elsewhere is decided by those who are left.
"""

import contextlib
import os
import signal
import time
from typing import Dict, List, Set

from freehold_agent.machine.programs import ProgramFailed, run
from freehold_agent.remains.processes import CGROUPS, kill, members_of_pods

PATIENCE = 20.0
"""Seconds for programs that want to end in order."""
_PAUSE = 0.05
_SANDBOX = b"/pause"


def machine_goes_down() -> bool:
    """Say whether systemd is on its way to shutdown or reboot."""
    try:
        return run(["systemctl", "is-system-running"], timeout=10, check=False).strip() == "stopping"
    except ProgramFailed:
        return False


def end_pods(root: str = CGROUPS, proc: str = "/proc", patience: float = PATIENCE) -> List[int]:
    """End every process of pods; return those that had to be killed after `patience` seconds."""
    everybody = members_of_pods(root)
    first = {pid for pid in _first_of_containers(everybody, proc) if not _is_sandbox(pid, proc)}
    deaf = {pid for pid in first if _is_deaf(pid, proc)}
    kill(deaf)
    for pid in first - deaf:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while first & members_of_pods(root) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    late = sorted(first & members_of_pods(root))
    kill(members_of_pods(root))
    return late


def _first_of_containers(members: Set[int], proc: str) -> Set[int]:
    """Return the processes whose parent belongs to no pod: containerd's shims started them."""
    return {pid for pid in members if int(_status(pid, proc).get("PPid", "0")) not in members}


def _is_deaf(pid: int, proc: str) -> bool:
    """Say whether the process never hears SIGTERM: the first of a namespace without a handler for it."""
    status = _status(pid, proc)
    caught = int(status.get("SigCgt", "0"), 16)
    return status.get("NSpid", "").split()[-1:] == ["1"] and not caught >> (signal.SIGTERM - 1) & 1


def _is_sandbox(pid: int, proc: str) -> bool:
    """Say whether this only holds a pod's namespaces: with a shared one it must outlive the others."""
    try:
        with open(os.path.join(proc, str(pid), "cmdline"), "rb") as stream:
            return stream.read().split(b"\0")[0] == _SANDBOX
    except OSError:
        return False


def _status(pid: int, proc: str) -> Dict[str, str]:
    try:
        with open(os.path.join(proc, str(pid), "status"), encoding="utf-8", errors="replace") as stream:
            pairs = (line.partition(":") for line in stream)
            return {name: value.strip() for name, _, value in pairs}
    except OSError:
        return {}
