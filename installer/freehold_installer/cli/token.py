"""`freehold token`: let machines join that SSH does not reach."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold_installer.cli import node_options, settings
from freehold_installer.cli.status import table

if TYPE_CHECKING:
    from freehold_installer.cli.settings import Settings

app = typer.Typer(help="Let machines join without SSH.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    node: node_options.NodeOption,
    address: node_options.AddressOption = None,
    ttl: node_options.TtlOption = "10m",
    cidr: node_options.CidrOption = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE on the Node; may be repeated.")
    ] = None,
    taint: Annotated[
        list[str] | None, typer.Option("--taint", help="KEY=VALUE:EFFECT on the Node; may be repeated.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="The machine takes the place of a node of that name that exists."),
    ] = False,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Make a token for one machine, and the line to paste there."""
    from freehold_installer.errors import InputError
    from freehold_installer.phases import tokens

    own = settings.of(context)
    own.update(inventory, output, verbose)
    labels, without = node_options.labels(label)
    taints, lifted = node_options.taints(taint)
    if without or lifted:
        raise InputError("a new node has no labels or taints to take off")
    request = tokens.TokenRequest(
        node=node,
        lifetime=node_options.duration(ttl),
        cidr=node_options.network(cidr),
        addresses=node_options.addresses(address),
        labels=labels,
        taints=tuple(taints),
        replace=replace,
    )
    with own.connected("token", accept_new_host_keys=accept_new_host_keys) as run:
        made = tokens.create(run, request)
    show_token(own, made)


@app.command("list")
def listing(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Show the tokens that the cluster knows. It does not know their secrets."""
    from freehold_installer.phases import tokens

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("token", accept_new_host_keys=accept_new_host_keys) as run:
        rows = tokens.listing(run)
    if own.output == "json":
        own.console.data(rows)
    elif rows:
        columns = ("id", "node", "state", "expires", "addresses", "cidr", "replace")
        own.console.show_table("join tokens", *table([{name: row[name] for name in columns} for row in rows]))
    else:
        own.console.say("there are no join tokens")


@app.command("revoke")
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id: the part between its dots.")],
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Make a token worthless. A node that has joined with it stays."""
    from freehold_installer.phases import tokens

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("token", accept_new_host_keys=accept_new_host_keys) as run:
        gone = tokens.revoke(run, token_id)
    if own.output == "json":
        own.console.data(gone)
        return
    left = f"; its unfinished node {gone['node']} was removed" if gone["nodeRemoved"] else ""
    own.console.say(f"token {gone['id']} is worth nothing now{left}")


def show_token(own: "Settings", made: Mapping[str, Any]) -> None:
    """Print line and token apart: only the line is pasted into a shell."""
    if own.output == "json":
        own.console.data(made)
        return
    replaces = ", in place of the node that has this name" if made["replace"] else ""
    own.console.text(
        f"On the machine that becomes {made['node']}{replaces}, paste this line as root or with sudo rights:\n\n"
        f"{made['line']}\n\n"
        f"It asks for the token (good until {made['expires']}, for this node, once; not shown again):\n\n"
        f"{made['token']}\n"
    )
