"""Logs: what the units of a cluster wrote to their journals, from all machines at once. Reads only."""

import gzip
import io
import tarfile
import time
from collections.abc import Mapping, Sequence

from freehold_installer.engine.machine import Machine
from freehold_installer.engine.run import Run
from freehold_installer.errors import StepError
from freehold_installer.phases.report import units_of

TIMEOUT = 120.0
"""Seconds for one machine's journal."""


def collect(run: Run, units: Sequence[str], since: str) -> dict[str, str]:
    """Return the journal of each chosen machine as text, oldest line first.

    `units`: names with or without `.service`; empty means all that freehold runs there. `since` is what journalctl
    takes (`-1h`, `2026-11-23 08:00`). Raises StepError when a journal cannot be read.
    """
    names = run.options.machines or tuple(run.inventory.hosts)
    run.connect(names)

    def journal(machine: Machine) -> str:
        wanted = units or units_of(run.inventory, machine.name)
        command = ["journalctl", "--no-pager", "--output=short-iso-precise", f"--since={since}"]
        output = machine.run([*command, *(f"--unit={unit}" for unit in wanted)], timeout=TIMEOUT)
        if output.exit != 0:
            said = output.stderr.decode(errors="replace").strip()
            raise StepError(machine.name, "journalctl", said or f"exit code {output.exit}")
        return output.stdout.decode(errors="replace")

    return run.each(journal, names)


def archive(journals: Mapping[str, str], folder: str) -> bytes:
    """Return a .tar.gz with one text file per machine, for somebody who is to help."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, text in journals.items():
            content = text.encode()
            member = tarfile.TarInfo(f"{folder}/{name}.log")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
