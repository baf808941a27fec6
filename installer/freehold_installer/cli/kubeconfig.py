"""`freehold kubeconfig`: the operator's own credential for the cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from freehold_installer.cli import settings


def command(
    context: typer.Context,
    inventory: settings.InventoryOption = None,
    output: settings.OutputOption = None,
    verbose: settings.VerboseOption = False,
    file: Annotated[
        Path | None,
        typer.Option("-o", "--file", help="Write it to this file, mode 0600, instead of printing it."),
    ] = None,
) -> None:
    """Print the kubeconfig of the cluster's administrator. It holds a private key."""
    from freehold_installer.errors import InputError
    from freehold_installer.state_dir import StateDir

    own = settings.of(context)
    own.update(inventory, output, verbose)
    cluster = own.load()
    try:
        content = StateDir(cluster.state_dir).kubeconfig.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"the cluster {cluster.name} has no kubeconfig yet", hint="it is made by: freehold apply"
        ) from error
    if file is None:
        own.console.text(content.decode())
        return
    write_private(file, content)
    own.console.say(f"written to {file}")


def write_private(path: Path, content: bytes) -> None:
    """Replace a file whole; nobody else can read it at any moment. Raises InputError."""
    from freehold_installer.errors import InputError

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
