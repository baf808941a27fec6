"""`freehold plan`: what apply would do. Writes nothing on any machine."""

from typing import Annotated

import typer

from freehold_installer.cli import settings

RefreshOption = Annotated[
    bool, typer.Option("--refresh", help="Look at every machine over SSH, also where an agent reports.")
]


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
    refresh: RefreshOption = False,
) -> None:
    """Show what apply would change. Exit code 0: nothing, 2: something."""
    from freehold_installer.engine.run import Options
    from freehold_installer.errors import EXIT_PLAN_HAS_CHANGES
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    options = Options(accept_new_host_keys=accept_new_host_keys, refresh=refresh, verbose=own.verbose)
    with own.open_run("plan", options) as run:
        plan = workflow.plan(run)
    if own.output == "json":
        own.console.data(plan.to_json())
    else:
        own.console.show_plan(plan)
    if not plan.empty:
        raise typer.Exit(EXIT_PLAN_HAS_CHANGES)
