"""`freehold apply`: make the machines what the inventory says. Running it again goes on where it stopped."""

import typer

from freehold_installer.cli import settings
from freehold_installer.cli.plan import RefreshOption


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    yes: settings.YesOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
    refresh: RefreshOption = False,
) -> None:
    """Install or change the cluster. Shows the plan and asks, unless --yes is given."""
    from freehold_installer.engine.run import Options
    from freehold_installer.errors import InputError
    from freehold_installer.phases import workflow

    own = settings.of(context)
    own.update(inventory, output, verbose)
    own.continues = True
    if not yes and not own.console.interactive:
        raise InputError("apply asks before it changes anything, and there is no terminal", hint="pass --yes")
    options = Options(
        yes=yes, accept_new_host_keys=accept_new_host_keys, refresh=refresh, verbose=own.verbose
    )
    with own.open_run("apply", options) as run:
        planned = workflow.apply(run)
        outcome = run.outcome
        kubeconfig = run.state_dir.kubeconfig
    if own.output == "json":
        timings = outcome.to_json() if outcome is not None else {}
        own.console.data({"plan": planned.to_json(), **timings, "kubeconfig": str(kubeconfig)})
        return
    if planned.empty:
        own.console.show_plan(planned)
    if outcome is not None:
        own.console.show_outcome(outcome)
        own.console.say(f"next: export KUBECONFIG={kubeconfig}; kubectl get nodes -o wide")
