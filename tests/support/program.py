"""The installed command `freehold`, run as its users do: a process with an inventory and a state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kubectl import Answer

TIMEOUT = 400.0
"""Seconds for one command; the longest, a first apply, takes half a minute on an idle host."""


@dataclass(frozen=True)
class Freehold:
    """`freehold("apply", "--yes")`; never raises for an exit code, see `Answer`."""

    inventory: Path
    state_home: Path
    """XDG_STATE_HOME: the operator's own files are not the ones of whoever runs the tests."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *arguments: str,
        inventory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Answer:
        """Run it without a terminal; `inventory` replaces the usual one."""
        done = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.variables(inventory, environment),
        )
        return Answer(f"freehold {' '.join(arguments)}", done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line, for a test that starts (and perhaps kills) the process itself."""
        return [str(Path(sys.executable).with_name("freehold")), *arguments]

    def variables(
        self, inventory: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the environment of the command."""
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "XDG_STATE_HOME": str(self.state_home),
            "FREEHOLD_INVENTORY": str(inventory or self.inventory),
            **self.environment,
            **(environment or {}),
        }

    def state(self, name: str) -> Path:
        """Return the state directory of the cluster called `name`."""
        return self.state_home / "freehold" / name
