"""Where a component's files come from: one module per kind of source, all with the same face.

`go` and `debian` exist. `upstream` (downloads checked against the digests in the lock) and `directory` (files
someone else made) have their place here: a module with these functions, a model in `lock`, a line in `build`.
A source must not know the store, the manifest or who else is building.
"""

import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from freehold_installer.bundle.lock import Component

Report = Callable[[str], None]
"""Takes a few words on how far a component is."""


class CancelledBuild(Exception):  # noqa: N818  not an error: somebody else's error or Ctrl-C ended it
    """The build was told to stop."""


@dataclass(frozen=True)
class Task:
    """One component to be made."""

    name: str
    component: Component
    files: Path
    """The release's directory, where its go.mod files are. Only read."""
    architecture: str
    scratch: Path
    """An empty directory on the store's filesystem, for outputs and whatever else is needed on the way."""
    report: Report
    run: "Programs"


class Source(Protocol):
    def inputs(self, name: str, component: Component, files: Path) -> Mapping[str, str]:
        """Return what else decides the outputs, beside the component's part of the lock.

        Called on every build, also when nothing is to be done: it takes milliseconds.
        """

    def check(self, component: Component, architecture: str) -> None:
        """Raise InputError with the command that helps when this machine cannot make the component."""

    def make(self, task: Task) -> Mapping[str, Path]:
        """Make every output and return name -> file below `task.scratch`.

        Raises BundleError when that failed, CancelledBuild when it was told to stop.
        """


class Programs:
    """Runs programs so that another thread can end them all at once."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """End what runs and let nothing new start."""
        with self._lock:
            self.cancelled.set()
            for process in self._running:
                process.terminate()

    def __call__(
        self, arguments: list[str], directory: Path, environment: Mapping[str, str], line: Report
    ) -> tuple[int, list[str]]:
        """Run a program, hand over each line it prints and return its exit status and its last 200 lines.

        Raises CancelledBuild when it was ended by `cancel`, OSError when it cannot be started.
        """
        with self._lock:
            if self.cancelled.is_set():
                raise CancelledBuild
            process = subprocess.Popen(
                arguments, cwd=directory, env=dict(environment), text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self._running.add(process)
        said: list[str] = []
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            for text in process.stdout:
                said.append(text.rstrip())
                del said[:-200]
                line(said[-1])
            status = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self.cancelled.is_set():
            raise CancelledBuild
        return status, said
