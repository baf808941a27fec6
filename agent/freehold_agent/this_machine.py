"""Where the agent's things are and how it runs programs: one value, so that tests can use another place."""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass, field
from typing import Callable, Iterator

from freehold_agent.contract import paths
from freehold_agent.errors import Locked
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

    @contextlib.contextmanager
    def locked(self, timeout: float = 60.0) -> Iterator[None]:
        """Hold the right to change this machine. Raises Locked after `timeout` seconds.

        The lock is on systemd's unit directory itself: it exists everywhere, and nothing is written.
        """
        descriptor = os.open(self.units, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Locked(
                            "another run is changing this machine",
                            hint="wait for it, or look for a python3 process of freehold there",
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)
