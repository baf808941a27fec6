"""`freehold node`: single nodes, however they joined."""

from typing import Annotated

import typer

from freehold_installer.cli import node_options, settings
from freehold_installer.cli.status import table
from freehold_installer.cli.token import show_token

app = typer.Typer(help="Look at single nodes and change them.", no_args_is_help=True)

TimeoutOption = Annotated[str, typer.Option("--timeout", help="How long pods may take to leave.")]


@app.command("list")
def listing(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Show every node of the cluster, also those that no inventory names."""
    from freehold_installer.phases import node_verbs

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        rows = node_verbs.listing(run)
    if own.output == "json":
        own.console.data(rows)
    else:
        own.console.show_table("nodes", *table(rows))


@app.command("show")
def show(
    context: typer.Context,
    node: node_options.NodeArgument,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Show what the cluster knows of one node."""
    from freehold_installer.phases import node_verbs

    own = settings.of(context)
    own.update(inventory, output, verbose)
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        found = node_verbs.show(run, node)
    if own.output == "json":
        own.console.data(found)
        return
    tokens = found.pop("tokens")
    found["open tokens"] = [row["id"] for row in tokens if row["state"] != "expired"]
    names, (cells,) = table([found])
    own.console.text("".join(f"{name:<20} {cell}\n" for name, cell in zip(names, cells, strict=True)))


@app.command("set")
def change(
    context: typer.Context,
    node: node_options.NodeArgument,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="KEY=VALUE, or KEY- to take it off; may be repeated.")
    ] = None,
    taint: Annotated[
        list[str] | None,
        typer.Option("--taint", help="KEY=VALUE:EFFECT, or KEY- to take it off; may be repeated."),
    ] = None,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Change the labels and taints of a node that joined without SSH. Those of others stand in the inventory."""
    from freehold_installer.errors import InputError
    from freehold_installer.phases import node_verbs

    own = settings.of(context)
    own.update(inventory, output, verbose)
    labels, without_labels = node_options.labels(label)
    taints, without_taints = node_options.taints(taint)
    if not (label or taint):
        raise InputError("nothing to set", hint="--label KEY=VALUE, --taint KEY=VALUE:EFFECT")
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        done = node_verbs.change(
            run,
            node,
            labels=labels,
            without_labels=without_labels,
            taints=taints,
            without_taints=without_taints,
        )
    if own.output == "json":
        own.console.data(done)
    else:
        own.console.show_table(node, *table([done]))


@app.command("set-address")
def set_address(
    context: typer.Context,
    node: node_options.NodeArgument,
    address: Annotated[
        list[str], typer.Argument(metavar="ADDRESS...", help="All its addresses; the first is its node IP.")
    ],
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long to wait until it reports from there; 0s: not at all.")
    ] = "3m",
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Tell the cluster that a node's machine got another address: certificates, network and kubelet follow.

    For a machine of the inventory change it there first; `freehold apply` does the same then.
    """
    from freehold_installer.phases import node_address

    own = settings.of(context)
    own.update(inventory, output, verbose)
    wanted = node_options.addresses(address)
    seconds = node_options.duration(timeout).total_seconds()
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        done = node_address.set_address(run, node, wanted, seconds)
    if own.output == "json":
        own.console.data(done)
    else:
        own.console.say(f"{node} has {', '.join(done['addresses'])} (before: {', '.join(done['before'])})")


@app.command("drain")
def drain(
    context: typer.Context,
    node: node_options.NodeArgument,
    timeout: TimeoutOption = "5m",
    undo: Annotated[bool, typer.Option("--undo", help="Let pods onto the node again.")] = False,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Keep new pods off a node and let its pods go elsewhere; disruption budgets are honoured.

    Pods of DaemonSets stay.
    """
    from freehold_installer.phases import node_verbs

    own = settings.of(context)
    own.update(inventory, output, verbose)
    seconds = node_options.duration(timeout).total_seconds()
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        gone: list[str] = []
        if undo:
            node_verbs.uncordon(run, node)
        else:
            gone = node_verbs.drain(run, node, seconds)
    if own.output == "json":
        own.console.data({"node": node, "schedulable": undo, "evicted": gone})
    else:
        own.console.say(f"{node} takes pods again" if undo else f"{node} is drained, {len(gone)} pods went")


@app.command("remove")
def remove(
    context: typer.Context,
    node: node_options.NodeArgument,
    timeout: TimeoutOption = "5m",
    no_drain: Annotated[
        bool, typer.Option("--no-drain", help="Do not wait for its pods: the machine is gone or not trusted.")
    ] = False,
    yes: settings.YesOption = False,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Take a node out of the cluster. From that moment its credential is worth nothing.

    Nothing is done on the machine itself: `freehold-agent leave --yes` there, or `freehold reset --machine` for one
    of the inventory, removes what freehold made.
    """
    from freehold_installer.phases import node_verbs

    own = settings.of(context)
    own.update(inventory, output, verbose)
    seconds = 0.0 if no_drain else node_options.duration(timeout).total_seconds()
    with own.connected("node", accept_new_host_keys=accept_new_host_keys, yes=yes) as run:
        run.confirm(f"Remove node {node} from the cluster?", "a node is removed and nobody said yes")
        gone = node_verbs.remove(run, node, drain_for=seconds)
        listed = node in run.inventory.hosts
    if own.output == "json":
        own.console.data(gone)
        return
    own.console.say(f"{node} is out of the cluster, its credential is worth nothing")
    if listed:
        own.console.say(
            f"it is still in the inventory: apply would join it again; freehold reset --machine {node}"
        )
    else:
        own.console.say("on the machine: python3 /opt/freehold/current/bin/freehold-agent.pyz leave --yes")


@app.command("rejoin")
def rejoin(
    context: typer.Context,
    node: node_options.NodeArgument,
    ttl: node_options.TtlOption = "10m",
    address: node_options.AddressOption = None,
    cidr: node_options.CidrOption = "",
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
) -> None:
    """Make a token with which a node's machine joins again: set up anew, or its certificate has expired.

    On a machine that still has everything, `freehold-agent renew` takes the token too.
    """
    from freehold_installer.phases import node_verbs, tokens

    own = settings.of(context)
    own.update(inventory, output, verbose)
    request = tokens.TokenRequest(
        node=node,
        lifetime=node_options.duration(ttl),
        addresses=node_options.addresses(address),
        cidr=node_options.network(cidr),
    )
    with own.connected("node", accept_new_host_keys=accept_new_host_keys) as run:
        made = node_verbs.rejoin(run, node, request)
    show_token(own, made)
