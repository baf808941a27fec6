"""What every verb understands: which inventory, which output; and how a verb gets its Run."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from freehold_installer.config.model import Inventory
    from freehold_installer.console import Console
    from freehold_installer.engine.run import Options, Run
    from freehold_installer.state_dir import StateDir

DEFAULT_INVENTORY = "freehold.yaml"

InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "-i", "--inventory", help="The inventory file. Default: $FREEHOLD_INVENTORY, else ./freehold.yaml."
    ),
]
OutputOption = Annotated[
    Literal["text", "json"] | None,
    typer.Option("--output", help="text, or json: data on standard output, events on standard error."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Say more: every step, whole diffs, details.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask. It never accepts a host key.")]
AcceptOption = Annotated[
    bool,
    typer.Option("--accept-new-host-keys", help="Trust and pin SSH host keys of machines not met before."),
]


@dataclass
class Settings:
    """Filled by options before and after the verb; the later one wins."""

    inventory_path: Path | None = None
    output: Literal["text", "json"] = "text"
    verbose: bool = False
    arguments: tuple[str, ...] = ()
    """The command line, to say how to continue."""
    state_dir: "StateDir | None" = None
    """Known once the inventory is read."""
    continues: bool = False
    """The verb may be run again to go on after a failure."""
    _console: "Console | None" = field(default=None, repr=False)

    def update(self, inventory: Path | None, output: Literal["text", "json"] | None, verbose: bool) -> None:
        self.inventory_path = inventory or self.inventory_path
        self.output = output or self.output
        self.verbose = verbose or self.verbose
        self._console = None

    @property
    def console(self) -> "Console":
        if self._console is None:
            from freehold_installer.console import Console

            self._console = Console(self.output, verbose=self.verbose)
        return self._console

    def load(self) -> "Inventory":
        """Read and check the inventory; say what it accepts without effect. Raises InputError."""
        from freehold_installer.config import load
        from freehold_installer.errors import InputError
        from freehold_installer.state_dir import StateDir

        named = self.inventory_path or os.environ.get("FREEHOLD_INVENTORY")
        path = Path(named or DEFAULT_INVENTORY)
        if not named and not path.exists():
            raise InputError(
                f"there is no {DEFAULT_INVENTORY} here",
                hint="name the inventory: freehold ... -i FILE, or set FREEHOLD_INVENTORY",
            )
        inventory = load(path, known_releases())
        self.state_dir = StateDir(inventory.state_dir)
        for note in inventory.notes:
            self.console.say(note)
        return inventory

    def open_run(self, verb: str, options: "Options") -> "AbstractContextManager[Run]":
        """Return a Run of a verb on the inventory; enter it."""
        from freehold_installer.engine.events import Note
        from freehold_installer.engine.run import Run

        inventory = self.load()
        for warning in inventory.warnings:
            self.console.emit(Note(warning, level="warning"))
        return Run(inventory, self.console, verb, options)

    def connected(
        self, verb: str, *, accept_new_host_keys: bool, yes: bool = False
    ) -> "AbstractContextManager[Run]":
        """Return a Run of a verb that takes no options beside the common ones; enter it."""
        from freehold_installer.engine.run import Options

        options = Options(yes=yes, accept_new_host_keys=accept_new_host_keys, verbose=self.verbose)
        return self.open_run(verb, options)


def known_releases() -> list[str]:
    """Return the Kubernetes versions that there is a lock for."""
    from freehold_installer.bundle import lock

    return list(lock.releases())


def of(context: typer.Context) -> Settings:
    """Return the settings of this invocation."""
    settings = context.obj
    if not isinstance(settings, Settings):
        raise TypeError("the command line was not started by guarded")
    return settings
