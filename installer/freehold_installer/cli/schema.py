"""`freehold schema`: what editors and people need to write an inventory."""

import json
from typing import Annotated

import typer


def schema(
    reference: Annotated[
        bool, typer.Option("--reference", help="Print docs/reference/configuration.md instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of an inventory, for editors.

    freehold schema > inventory.schema.json
    """
    if reference:
        from freehold_installer.config.reference import markdown

        typer.echo(markdown(), nl=False)
        return
    from freehold_installer.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
