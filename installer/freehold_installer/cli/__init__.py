"""The command line of `freehold`: parses, calls the engine and the workflow, turns errors into exit codes."""

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code. Never raises, never prints a traceback."""
    from freehold_installer.cli.outcome import guarded

    return guarded(arguments)
