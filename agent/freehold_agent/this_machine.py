"""Where the agent's things are and how it runs programs: one value, so that tests can use another place."""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Callable, Iterator

from freehold_agent.contract import paths
from freehold_agent.errors import Locked
from freehold_agent.machine.lock import PLACE, LockBusyError, converge_lock
from freehold_agent.machine.programs import run
from freehold_agent.machine.systemd import Systemd


@dataclass(frozen=True)
class ThisMachine:
    """The machine the agent runs on."""

    systemd: Systemd = field(default_factory=Systemd)
    run: Callable[..., str] = run
    units: str = paths.UNITS
    store: str = paths.STORE
    hashes: str = paths.HASHES
    records: str = paths.RECORDS
    proc: str = "/proc"
    sys: str = "/sys"
    lib: str = "/lib"
    cgroups: str = "/sys/fs/cgroup"
    lock: str = PLACE

    @contextlib.contextmanager
    def locked(self, owner: str = "node", timeout: float = 60.0) -> Iterator[None]:
        """Hold the right to change what this owner has on the machine. Raises Locked after `timeout` seconds.

        Control plane and node have a lock each: a machine that is both starts its containerd while its API
        server comes up.
        """
        place = self.lock if owner == "node" else os.path.dirname(self.lock)
        try:
            with converge_lock(timeout, place):
                yield
        except LockBusyError as error:
            raise Locked(
                str(error), hint="wait for it, or look for a python3 process of freehold there"
            ) from error
