"""`freehold plan`: what apply would do. Writes nothing on any machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from freehold_installer.cli import settings

OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Also write the plan to this file, for `freehold apply --plan`."),
]


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
    out: OutOption = None,
) -> None:
    """Show what apply would change. Exit code 0: nothing, 2: something."""
    from freehold_installer.errors import EXIT_PLAN_HAS_CHANGES
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("plan", accept_new_host_keys=accept_new_host_keys) as run:
        plan = workflow.plan(run)
    if out is not None:
        _write(out, json.dumps(plan.to_json(), indent=1) + "\n")
    if own.output == "json":
        own.console.data(plan.to_json())
    else:
        own.console.show_plan(plan)
    if not plan.empty:
        raise typer.Exit(EXIT_PLAN_HAS_CHANGES)


def _write(path: Path, text: str) -> None:
    from freehold_installer.errors import InputError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the plan cannot be written: {error.strerror}") from error
