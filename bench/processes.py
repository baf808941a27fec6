"""What runs in a machine, seen from the host: CPU seconds of each program, also of those that ended, and memory.

Knows /proc and cgroups only.
"""

import contextlib
import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.1
HIERARCHIES = ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup")
WRAPPERS = ("sudo", "sh", "bash")


@dataclass(frozen=True)
class Process:
    pid: int
    started: int
    """Clock ticks since boot: with the number it names one process for ever."""
    name: str
    cpu: float
    """Seconds, without children."""


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of one program."""

    name: str
    processes: int
    rss: int
    pss: int

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "processes": self.processes, "rss": self.rss, "pss": self.pss}


TAKE_ONE = ("-X", "-W")
"""Options of the interpreter with a word of their own."""


def title(arguments: Sequence[str], fallback: str) -> str:
    """Return how a process is called in a table: its program, for Python what it runs."""
    words = [word.split(": ")[0].rsplit("/", 1)[-1] for word in arguments if word]
    if not words:
        return f"[{fallback}]"
    program = words[0]
    if not program.startswith("python"):
        return program
    rest = [
        word
        for before, word in itertools.pairwise(words)
        if not word.startswith("-") and before not in TAKE_ONE
    ]
    if "-c" in arguments:
        return "agent from memory"
    return " ".join(rest[:2]) if rest[:1] == ["freehold-services.pyz"] else " ".join(rest[:1]) or "python"


def parse_stat(text: str) -> tuple[str, float, int]:
    """Return name, CPU seconds and start tick of a /proc/PID/stat."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, (int(fields[11]) + int(fields[12])) / TICKS, int(fields[19])


def processes(pid: int) -> Iterator[Process]:
    """Yield the processes of the machine whose init has this number on the host."""
    for number in _members(pid):
        with contextlib.suppress(OSError, ValueError):
            place = Path(f"/proc/{number}")
            name, cpu, started = parse_stat((place / "stat").read_text())
            arguments = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield Process(number, started, title(arguments, name), cpu)


def memory(pid: int) -> list[Memory]:
    """Return the memory of a machine's programs, largest first, kernel threads left out. Needs root."""
    found: dict[str, list[tuple[int, int]]] = {}
    for process in processes(pid):
        with contextlib.suppress(OSError, ValueError):
            sizes = parse_rollup(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
            found.setdefault(process.name, []).append(sizes)
    entries = [
        Memory(name, len(sizes), sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes))
        for name, sizes in found.items()
    ]
    return sorted(entries, key=lambda entry: -entry.rss)


def parse_rollup(text: str) -> tuple[int, int]:
    """Return RSS and PSS in bytes from a /proc/PID/smaps_rollup."""
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key in ("Rss", "Pss"):
            values[key] = int(rest.split()[0]) * 1024
    return values["Rss"], values["Pss"]


class Sampler:
    """Use it as a context manager: afterwards `cpu` has CPU seconds by machine and program.

    A process is seen as long as it lived at a sample: what lives shorter than INTERVAL may be missing.
    """

    def __init__(self, inits: dict[str, int]) -> None:
        """`inits`: machine -> process number of its init on the host."""
        self.cpu: dict[str, dict[str, float]] = {machine: defaultdict(float) for machine in inits}
        self._inits = inits
        self._last: dict[tuple[str, int, int], Process] = {}
        self._first: dict[tuple[str, int, int], float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._sample()
        self._first = {key: process.cpu for key, process in self._last.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._sample()
        for key, process in self._last.items():
            self.cpu[key[0]][process.name] += process.cpu - self._first.get(key, 0.0)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            with contextlib.suppress(OSError):
                self._sample()

    def _sample(self) -> None:
        for machine, init in self._inits.items():
            for process in processes(init):
                self._last[machine, process.pid, process.started] = process


def _members(pid: int) -> list[int]:
    """Return the host's numbers of all processes in the control group of this init and below."""
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    chosen = next((line for line in groups if "cpuacct" in line), groups[-1])
    path = chosen.split(":", 2)[2].removesuffix("/init.scope").lstrip("/")
    root = next((Path(base) / path for base in HIERARCHIES if (Path(base) / path).is_dir()), None)
    found: list[int] = []
    for place, _, _ in os.walk(root) if root is not None else ():
        with contextlib.suppress(OSError):
            found += [int(line) for line in (Path(place) / "cgroup.procs").read_text().split()]
    return found
