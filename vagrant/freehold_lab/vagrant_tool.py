"""Calls of Vagrant, the one tool that makes machines of every kind. Knows no container engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

from . import places, podman
from .errors import LabError
from .shape import DEFAULT_NAME, Lab


def run(lab: Lab, *arguments: str, quiet: bool = False) -> str:
    """Run `vagrant` in the checkout for this lab, its output on stderr; return it when `quiet`."""
    environment = {
        **podman.environment(),
        "FREEHOLD_LAB": lab.name,
        "FREEHOLD_LAB_SHAPE": lab.shape,
        "FREEHOLD_LAB_SUBNET": lab.subnet,
        "FREEHOLD_LAB_PROVIDER": lab.provider,
        "VAGRANT_DOTFILE_PATH": places.vagrant_state(lab.name, DEFAULT_NAME),
        "VAGRANT_CWD": places.CHECKOUT,
        "VAGRANT_HOME": os.environ.get("VAGRANT_HOME") or os.path.join(places.cache(), "vagrant"),
    }
    try:
        done = subprocess.run(
            ["vagrant", *arguments],
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else 2,
            env=environment,
        )
    except FileNotFoundError:
        raise LabError("vagrant is not installed", hint="vagrant/prepare-host") from None
    if done.returncode:
        raise LabError(f"vagrant {' '.join(arguments)} failed; its own message is above")
    return done.stdout or ""


def up(lab: Lab, names: Iterable[str]) -> None:
    """Make and start the machines called `names`."""
    run(lab, "up", "--provider", lab.provider, "--parallel", *names)
