"""The way back: what to remember before a resource is made, and how to undo it from that."""

import itertools
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from freehold_agent.contract.resources import (
    Attributes,
    Change,
    Directory,
    File,
    Link,
    Resource,
    Sysctl,
    split_key,
)
from freehold_agent.kinds import accounts, kernel, tree, units
from freehold_agent.machine import files
from freehold_agent.store import path_of
from freehold_agent.this_machine import ThisMachine


def before(resource: Resource, observed: Optional[Attributes]) -> Dict[str, Any]:
    """Return what `undo` needs later. Raises StepFailed when something foreign is in the way, OSError."""
    if isinstance(resource, (File, Link)):
        return tree.before_file(resource.path)
    if isinstance(resource, Directory):
        return tree.before_directory(resource.path, resource.keep)
    if observed is None:
        return {"created": True}
    if isinstance(resource, Sysctl):
        return {"value": observed["value"]}
    return {"existed": True, "enabled": bool(observed.get("enabled"))}


def grouped(changes: Sequence[Change]) -> Iterator[Tuple[str, List[Change]]]:
    """Yield neighbouring deletions of one kind together."""
    for kind, group in itertools.groupby(changes, key=lambda change: split_key(change.key)[0]):
        yield kind, list(group)


def undo(kind: str, entries: Mapping[str, Dict[str, Any]], machine: ThisMachine) -> None:
    """Take back resources of one kind, given what was there before each. Raises StepFailed, OSError.

    Modules stay loaded, directories that still hold something stay, users that were there before stay.
    """
    names = {split_key(key)[1]: earlier for key, earlier in entries.items()}
    if kind == "unit":
        enabled = [name for name, earlier in names.items() if earlier.get("enabled")]
        units.remove_units(list(names), machine, keep_enabled=enabled)
        return
    for name, earlier in names.items():
        if kind in {"file", "link"}:
            tree.undo_file(name, earlier)
        elif kind == "directory":
            tree.undo_directory(name, earlier)
        elif kind == "artifact":
            files.remove(path_of(name, machine.store))
        elif kind == "sysctl" and "value" in earlier:
            kernel.set_sysctl(name, earlier["value"], machine)
        elif kind == "route" and earlier.get("created"):
            kernel.remove_route(name, machine)
        elif kind == "user" and earlier.get("created"):
            accounts.remove_user(name, machine)
