"""docs/reference/commands.md, written from the command lines themselves.

.venv/bin/python -m tests.support.commands_reference > docs/reference/commands.md
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, get_args

import typer.main

from freehold_agent import cli as agent_cli
from freehold_installer.cli.app import app

TEXTS = ("text", "json")
"""Values that an option names by itself."""
HEAD = """\
# Commands

`freehold` runs on your machine, `freehold-agent` on a node. Data goes to standard output, everything else to standard
error. Exit codes: [exit-codes.md](exit-codes.md). Options before a command mean the same as behind it.

This page is written from the programs' own help:
`.venv/bin/python -m tests.support.commands_reference > docs/reference/commands.md`; a test compares it.
"""
AGENT = """\
## freehold-agent

{description} On a node it is `/opt/freehold/current/bin/freehold-agent.pyz`, run as root with `python3`:

```
sudo python3 /opt/freehold/current/bin/freehold-agent.pyz status
```

| Command | What it does |
|---|---|
{rows}

Exit codes are those of `freehold`; `plan` exits with 2 when something differs.
"""


def markdown() -> str:
    """Return the page."""
    command = typer.main.get_command(app)
    parts = [HEAD, *_sections(command, "freehold"), _agent()]
    return "\n".join(parts)


def _sections(command: Any, name: str) -> Iterator[str]:
    yield _section(command, name)
    for child in getattr(command, "commands", {}).values():
        yield from _sections(child, f"{name} {child.name}")


def _section(command: Any, name: str) -> str:
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"## {name}", "", text, ""]
    children = getattr(command, "commands", {})
    if children:
        lines += ["| Command | What it does |", "|---|---|"]
        for child in children.values():
            title = f"{name} {child.name}"
            lines.append(f"| [`{title}`](#{title.replace(' ', '-')}) | {_first(child.help)} |")
        lines.append("")
    options = [option for option in command.params if option.opts and option.name != "help"]
    if options:
        lines += ["| Option | What it means |", "|---|---|"]
        lines += [f"| {_names(option)} | {_meaning(option)} |" for option in options]
        lines.append("")
    return "\n".join(lines)


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    kind = option.type_descriptor.annotation
    if kind is bool:
        return names
    choices = [
        str(choice) for part in (kind, *get_args(kind)) for choice in get_args(part) if choice in TEXTS
    ]
    return f"{names} {'|'.join(choices) or 'VALUE'}".replace("|", "\\|")


def _meaning(option: Any) -> str:
    default = option.default
    shown = f" Default: {default}." if isinstance(default, str) and default else ""
    return f"{option.help or ''}{shown}"


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _agent() -> str:
    parser = agent_cli._parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    rows = [
        f"| `{action.dest}`{_agent_options(verbs.choices[action.dest])} | {action.help} |"
        for action in verbs._choices_actions
    ]
    return AGENT.format(description=parser.description, rows="\n".join(rows))


def _agent_options(parser: argparse.ArgumentParser) -> str:
    found = []
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            values = "\\|".join(str(choice) for choice in action.choices) if action.choices else ""
            found.append(f" `{action.option_strings[-1]}`" + (f" {values}" if values else ""))
    return "".join(found)


if __name__ == "__main__":
    sys.stdout.write(markdown())
