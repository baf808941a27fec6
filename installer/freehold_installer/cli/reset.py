"""`freehold reset`: take everything that is ours off machines; what was there before is there again."""

from typing import Annotated

import typer

from freehold_installer.cli import settings

MachineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--machine", help="Only this machine; may be given several times. Default: all of the inventory."
    ),
]


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    machine: MachineOption = None,
    yes: settings.YesOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Remove the cluster, or some machines, with all data on them. Asks, unless --yes is given."""
    from freehold_installer.engine.run import Options
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    own.continues = True
    options = Options(
        yes=yes,
        accept_new_host_keys=accept_new_host_keys,
        verbose=own.verbose,
        machines=tuple(dict.fromkeys(machine or ())),
    )
    with own.open_run("reset", options) as run:
        result = workflow.reset(run)
        if run.outcome is not None:
            own.console.show_outcome(run.outcome)
    if own.output == "json":
        own.console.data(result)
        return
    removed = result.get("removed", {})
    before = "nothing of freehold is left on " if any(removed[name]["changes"] for name in removed) else ""
    own.console.say((before or "nothing to do: no freehold on ") + ", ".join(sorted(removed)))
