"""`freehold status`: how the cluster is, machine by machine. Changes nothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from freehold_installer.cli import settings

if TYPE_CHECKING:
    from freehold_installer.console import Console


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Show machines, units and nodes. Exit code 0: all is well, 1: something is not."""
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("status", accept_new_host_keys=accept_new_host_keys) as run:
        status = workflow.status(run)
    if own.output == "json":
        own.console.data(status)
    else:
        show(own.console, status)
    if problems(status):
        raise typer.Exit(1)


def show(console: "Console", status: Mapping[str, Any]) -> None:
    """Print the tables of a status, and a sentence for each thing that is not well."""
    units = [
        {"machine": machine, "unit": unit, "state": state}
        for machine, found in status["machines"].items()
        for unit, state in (found or {}).get("units", {}).items()
    ]
    console.show_table("units", *table(units))
    if status["nodes"]:
        console.show_table("nodes", *table(status["nodes"]))
    for problem in problems(status):
        console.say(f"not well: {problem}")


def problems(status: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each thing that is not well."""
    found = []
    for machine, state in status["machines"].items():
        units = (state or {}).get("units")
        if units is None:
            found.append(f"{machine} does not answer")
            continue
        found += [f"{machine}: {unit} is {state}" for unit, state in units.items() if state != "active"]
    if status["api"] != "ok":
        found.append(f"the API server: {status['api']}")
    for node in status["nodes"] or ():
        if not node["ready"]:
            found.append(f"node {node['name']} is not ready: {node['reason']}")
    return found


def table(rows: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and cells of a list of equal mappings (or of plain values, as one column)."""
    mappings = [row if isinstance(row, Mapping) else {"": row} for row in rows]
    columns = list(dict.fromkeys(column for row in mappings for column in row))
    return columns, [[_cell(row.get(column)) for column in columns] for row in mappings]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value) or "-"
    return str(value)
