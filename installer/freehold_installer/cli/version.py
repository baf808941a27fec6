"""`freehold version`: of this program, and the releases it can install."""

import typer

from freehold_installer.cli import settings


def command(context: typer.Context, output: settings.OutputOption = None) -> None:
    """Print the version of freehold and the Kubernetes releases that it knows."""
    from freehold_installer import __version__

    own = settings.of(context)
    own.update(None, output, False)
    releases = settings.known_releases()
    if own.output == "json":
        own.console.data({"version": __version__, "releases": releases})
    else:
        own.console.text(f"freehold {__version__}\nreleases: {', '.join(releases) or 'none'}\n")
