"""What each run did, as JSON lines in the state directory: a killed run is explained by the next one.

Lines reach the kernel before the phase goes on (so kill -9 loses nothing) and the disk shortly after; the
last ones are waited for. It never holds a secret.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Unfinished:
    """What a run that never ended was doing."""

    run: str
    verb: str
    started: float
    """Unix seconds."""
    doing: tuple[tuple[str, str], ...]
    """Machine and phase, for each phase that was started and not finished."""

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        doing = "; ".join(f"{machine}: {phase}" for machine, phase in self.doing) or "nothing on any machine"
        return f"the run of `freehold {self.verb}` at {when} was killed while it did: {doing}"


class Journal:
    """Appends to one file. Open it only while the lock is held."""

    def __init__(self, path: Path, verb: str) -> None:
        self.run = uuid.uuid4().hex[:12]
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pending: list[Any] = []
        self.write("run-started", verb=verb, pid=os.getpid())

    def write(self, what: str, **facts: Any) -> None:
        """Append one line. `facts` are JSON values without secrets."""
        line = {"time": round(time.time(), 3), "run": self.run, "what": what, **facts}
        os.write(self._descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
        self._sync()

    def close(self, outcome: str) -> None:
        """Write how the run ended (`done`, `failed`, `interrupted`) and wait for the disk."""
        if self._descriptor < 0:
            return
        self.write("run-finished", outcome=outcome)
        for pending in self._pending:
            pending.wait()
        os.close(self._descriptor)
        self._descriptor = -1

    def _sync(self) -> None:
        """Sync in a thread: an fsync of tens of milliseconds would stop every lane."""
        import gevent

        self._pending = [pending for pending in self._pending if not pending.ready()]
        self._pending.append(gevent.get_hub().threadpool.spawn(os.fsync, self._descriptor))


def unfinished(path: Path) -> Unfinished | None:
    """Return what the last run was doing if it never ended, else None. A torn last line is ignored."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    return _last_unfinished(_parsed(lines))


def _parsed(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and "what" in data:
            yield data


def _last_unfinished(lines: Iterable[dict[str, Any]]) -> Unfinished | None:
    run, verb, started = "", "", 0.0
    doing: dict[tuple[str, str], None] = {}
    for line in lines:
        if line["what"] == "run-started":
            run, verb, started = line["run"], line.get("verb", ""), line.get("time", 0.0)
            doing = {}
        elif line.get("run") != run:
            continue
        elif line["what"] == "run-finished":
            run = ""
        elif line["what"] == "phase-started":
            doing[line["machine"], line["phase"]] = None
        elif line["what"] == "phase-finished":
            doing.pop((line["machine"], line["phase"]), None)
    return Unfinished(run, verb, started, tuple(doing)) if run else None
