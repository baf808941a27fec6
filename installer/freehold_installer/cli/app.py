"""The verbs of `freehold` and the options before them. Anything heavy is imported inside the verbs."""

import typer

from freehold_installer.cli import (
    apply,
    bundle,
    kubeconfig,
    logs,
    node,
    plan,
    reset,
    schema,
    settings,
    status,
    token,
    version,
)

app = typer.Typer(
    help="Kubernetes on your own machines, over SSH.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def everything(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
) -> None:
    """Kubernetes on your own machines, over SSH."""
    settings.of(context).update(inventory, output, verbose)


app.command("plan")(plan.command)
app.command("apply")(apply.command)
app.command("status")(status.command)
app.command("kubeconfig")(kubeconfig.command)
app.command("logs")(logs.command)
app.command("reset")(reset.command)
app.add_typer(token.app, name="token")
app.add_typer(node.app, name="node")
app.add_typer(bundle.app, name="bundle")
app.command("schema")(schema.schema)
app.command("version")(version.command)
