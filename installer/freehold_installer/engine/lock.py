"""One changing run per cluster: a lock on the state directory that dies with its holder.

The kernel releases it when the process ends, also after kill -9; the file beside it only says who holds it.
"""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freehold_installer.errors import LockedError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a state directory. Raises LockedError, naming the holder, when another run has it."""
    import filelock

    holder = directory / "lock.json"
    lock = filelock.FileLock(str(directory / "lock"), timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise LockedError(
            f"another run is working on this cluster: {_describe(holder)}",
            hint="wait for it, or stop it; a killed run leaves no lock behind",
        ) from error
    try:
        holder.write_text(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "command": shlex.join(["freehold", *sys.argv[1:]]),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                }
            )
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        data = json.loads(holder.read_text())
        return f"`{data['command']}` (process {data['pid']} on {data['host']}, since {data['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "its holder has not said who it is"
