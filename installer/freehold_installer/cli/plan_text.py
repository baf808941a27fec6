"""A plan as lines of text: a tree per machine, unified diffs of files, a summary. Pure; no colours or secrets.

Each line comes with the kind of thing it says, which the console turns into a colour.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from freehold_agent.contract.resources import Change, split_key
from freehold_installer.plan import Content, MachinePlan, Plan

Kind = Literal["title", "create", "update", "delete", "context", "note", "summary"]
Line = tuple[Kind, str]

SIGNS: dict[str, str] = {"create": "+", "update": "~", "delete": "-"}
LONG = 200
"""Characters from which a line is a command with many flags: they are compared one by one."""
DIFF_LINES = 60
"""Lines of one file's diff that are shown without `--verbose`."""
TITLES = {
    "user": "user",
    "directory": "directory",
    "file": "file",
    "artifact": "program or image",
    "link": "link",
    "module": "kernel module",
    "sysctl": "kernel setting",
    "route": "route",
    "unit": "unit",
}


def lines(plan: Plan, *, verbose: bool = False) -> Iterator[Line]:
    """Yield the lines of a plan. `verbose`: new files whole, diffs of any length."""
    if plan.empty:
        yield "summary", f"{plan.cluster}: nothing to change"
        yield from _others(plan)
        if verbose:
            yield from (("note", f"  note: {note}") for note in _notes(plan))
        return
    for machine in plan.machines:
        yield from _machine(machine, verbose)
    if plan.to_be_issued:
        yield "title", "keys and certificates to be issued"
        yield from (("create", f"  + {name}") for name in plan.to_be_issued)
    if plan.objects:
        yield "title", "Kubernetes objects"
        for change in plan.objects:
            why = f" ({change.title})" if change.title else ""
            yield _kind(change), f"  {SIGNS[change.action]} {change.key.removeprefix('object:')}{why}"
    yield from (("note", f"note: {note}") for note in plan.notes)
    yield from _others(plan)
    yield "summary", summary(plan)


def summary(plan: Plan) -> str:
    """Return the last line: `plan: 12 to create, 3 to update, 1 to delete on 2 machines`."""
    changes = [change for machine in plan.machines for change in machine.changes] + list(plan.objects)
    counts = Counter(change.action for change in changes)
    counts["create"] += len(plan.to_be_issued)
    parts = [f"{counts[action]} to {action}" for action in SIGNS if counts[action]]
    touched = sum(1 for machine in plan.machines if machine.changes)
    where = f" on {touched} machine{'s' if touched != 1 else ''}" if touched else ""
    return f"plan: {', '.join(parts) or 'nothing to change'}{where}"


def _machine(plan: MachinePlan, verbose: bool) -> Iterator[Line]:
    if not plan.changes and not plan.notes:
        yield "context", f"{plan.machine}: nothing to change"
        return
    yield "title", plan.machine
    yield from (("note", f"  note: {note}") for note in plan.notes)
    for change in plan.changes:
        yield _kind(change), f"  {SIGNS[change.action]} {_name(change)}{_detail(change)}"
        content = plan.contents.get(change.key)
        if content is not None and (change.action == "update" or verbose):
            yield from _difference(content, verbose)


def _name(change: Change) -> str:
    kind, name = split_key(change.key)
    return f"{TITLES.get(kind, kind)} {change.title or name}"


def _detail(change: Change) -> str:
    """Say what differs, for an update, where that is short: not digests, which say nothing to people."""
    if change.action != "update":
        return ""
    before, after = change.before or {}, change.after or {}
    parts = [
        f"{name}: {_value(name, before)} -> {_value(name, after)}"
        for name in after
        if name not in ("sha256", "inputs")
    ]
    if "inputs" in after:
        parts.append("restart: what it reads at its start has changed")
    return f"  ({', '.join(parts)})" if parts else ""


def _value(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name)
    if name == "mode" and isinstance(value, int):
        return f"{value:04o}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _difference(content: Content, verbose: bool) -> Iterator[Line]:
    diff = list(difflib.unified_diff(_lines(content.before), _lines(content.after), lineterm="", n=2))[2:]
    shown = diff if verbose else diff[:DIFF_LINES]
    for line in shown:
        kind: Kind = "create" if line[:1] == "+" else "delete" if line[:1] == "-" else "context"
        yield kind, f"      {line}"
    if len(shown) < len(diff):
        yield "context", f"      ... {len(diff) - len(shown)} more lines (--verbose)"


def _lines(text: str) -> list[str]:
    found: list[str] = []
    for line in text.splitlines():
        first, *flags = line.split(" --") if len(line) > LONG else [line]
        found += [first, *(f"  --{flag}" for flag in flags)]
    return found


def _kind(change: Change) -> Kind:
    kinds: dict[str, Kind] = {"create": "create", "update": "update", "delete": "delete"}
    return kinds[change.action]


def _others(plan: Plan) -> Iterator[Line]:
    if plan.others:
        yield "note", f"joined without SSH, left as they are: {', '.join(plan.others)}"


def _notes(plan: Plan) -> Iterator[str]:
    yield from plan.notes
    for machine in plan.machines:
        yield from (f"{machine.machine}: {note}" for note in machine.notes)
