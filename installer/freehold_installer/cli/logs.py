"""`freehold logs`: the journals of the cluster's units, from all machines at once. Changes nothing."""

import time
from pathlib import Path
from typing import Annotated

import typer

from freehold_installer.cli import settings
from freehold_installer.cli.kubeconfig import write_private

MachineOption = Annotated[
    list[str] | None, typer.Option("--machine", help="Only this machine; may be given several times.")
]
UnitOption = Annotated[
    list[str] | None,
    typer.Option("--unit", help="Only this unit, for example kubelet; may be given several times."),
]


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    machine: MachineOption = None,
    unit: UnitOption = None,
    since: Annotated[str, typer.Option("--since", help="As journalctl takes it.")] = "-1h",
    file: Annotated[
        Path | None,
        typer.Option("-o", "--file", help="Write a .tar.gz with a file per machine instead of printing."),
    ] = None,
) -> None:
    """Show what the cluster's units logged on the machines, the last hour of all of them by default."""
    from freehold_installer.engine.run import Options
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.open_run("logs", Options(machines=tuple(machine or ()), verbose=own.verbose)) as run:
        journals = workflow.logs(run, unit or [], since)
        name = run.inventory.name
    if file is not None:
        from freehold_installer.phases.logs import archive

        write_private(file, archive(journals, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
        own.console.say(f"written to {file}")
    elif own.output == "json":
        own.console.data({"journals": journals})
    else:
        for host, text in journals.items():
            own.console.text("".join(f"{host:10} {line}\n" for line in text.splitlines()))
