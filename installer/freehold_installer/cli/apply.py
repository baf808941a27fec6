"""`freehold apply`: make the machines what the inventory says. Running it again goes on where it stopped."""

from pathlib import Path
from typing import Annotated

import typer

from freehold_installer.cli import settings

PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="Do exactly what this file says (`freehold plan --out`), or refuse."),
]


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    yes: settings.YesOption = False,
    accept_new_host_keys: settings.AcceptOption = False,
    plan: PlanOption = None,
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
        yes=yes,
        accept_new_host_keys=accept_new_host_keys,
        verbose=own.verbose,
        plan_digest=_digest_of(plan) if plan else "",
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


def _digest_of(path: Path) -> str:
    """Return which plan a file holds. Raises InputError when it holds none."""
    import json

    from freehold_installer.errors import InputError

    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a plan: {error}", hint="make one: freehold plan --out FILE") from error
