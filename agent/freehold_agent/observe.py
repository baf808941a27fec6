"""Look at the machine: for each resource, and each key recorded before, what is there now. Writes nothing."""

import os
import stat
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, List, Optional, Sequence

from freehold_agent.contract.resources import Attributes, Change, File, Resource, key_of, split_key
from freehold_agent.kinds import accounts, kernel, tree, units
from freehold_agent.store import HashCache, hash_file, path_of
from freehold_agent.this_machine import ThisMachine

LARGEST_DIFFED = 64 << 10
"""Bytes of a file whose text a plan shows."""


@dataclass
class Look:
    """One observation, with what converge needs beside it."""

    attributes: Dict[str, Optional[Attributes]] = field(default_factory=dict)
    reload_needed: bool = False
    """A unit file changed since systemd read it."""
    hashed: Dict[str, str] = field(default_factory=dict)
    """Paths of the store that had to be read, with their digests: worth remembering."""


def observe(
    resources: Sequence[Resource],
    recorded_keys: Iterable[str] = (),
    machine: Optional[ThisMachine] = None,
    stale: Iterable[str] = (),
) -> Dict[str, Optional[Attributes]]:
    """Return the attributes of every resource and recorded key; None where nothing is there.

    Raises StepFailed, SystemdError, OSError when the machine cannot be read.
    """
    return look(resources, recorded_keys, machine, stale).attributes


def look(
    resources: Sequence[Resource],
    recorded_keys: Iterable[str] = (),
    machine: Optional[ThisMachine] = None,
    stale: Iterable[str] = (),
) -> Look:
    """Return the whole observation; see `observe`.

    `stale` are units that a killed run still had to restart: their processes are not `current`.
    """
    machine = machine or ThisMachine()
    keys = list(dict.fromkeys([*(key_of(resource) for resource in resources), *recorded_keys]))
    names: Dict[str, List[str]] = {}
    for key in keys:
        kind, name = split_key(key)
        names.setdefault(kind, []).append(name)
    result = Look(dict.fromkeys(keys))
    for kind, observer in _SINGLE.items():
        for name in names.get(kind, ()):
            result.attributes[kind + ":" + name] = observer(name, machine)
    cache = HashCache(machine.hashes)
    for name in names.get("artifact", ()):
        result.attributes["artifact:" + name] = _artifact(name, machine, cache, result.hashed)
    if names.get("route"):
        for name, attributes in kernel.observe_routes(names["route"], machine).items():
            result.attributes["route:" + name] = attributes
    if names.get("unit"):
        seen = units.observe_units(names["unit"], machine)
        result.reload_needed = seen.reload_needed
        for name, attributes in seen.attributes.items():
            result.attributes["unit:" + name] = attributes
    for key in stale:
        attributes = result.attributes.get(key)
        if attributes is not None:
            attributes["current"] = False
    return result


def contents_for_diff(resources: Sequence[Resource], changes: Sequence[Change]) -> Dict[str, str]:
    """Return the present text of files that will change, by key, for a plan to show what changes in them.

    Secret files, large ones (over 64 KiB) and those that are not UTF-8 are left out.
    """
    changing = {change.key for change in changes if change.action == "update"}
    found = {}
    for resource in resources:
        key = key_of(resource)
        if isinstance(resource, File) and not resource.secret and key in changing:
            text = _text(resource.path)
            if text is not None:
                found[key] = text
    return found


def _text(path: str) -> Optional[str]:
    try:
        if os.path.islink(path) or os.path.getsize(path) > LARGEST_DIFFED:
            return None
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError):
        return None


def text_of(resource: File) -> Optional[str]:
    """Return the text a file is to have, under the same rules as `contents_for_diff`."""
    if resource.secret or len(resource.content) > LARGEST_DIFFED:
        return None
    try:
        return resource.content.decode()
    except UnicodeDecodeError:
        return None


def _artifact(
    sha256: str, machine: ThisMachine, cache: HashCache, hashed: Dict[str, str]
) -> Optional[Attributes]:
    path = path_of(sha256, machine.store)
    try:
        state = os.lstat(path)
        digest = cache.digest(path)
        if digest is None:
            digest = hashed[path] = hash_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return {"sha256": digest, "size": state.st_size, "mode": stat.S_IMODE(state.st_mode)}


_SINGLE: Dict[str, Callable[[str, ThisMachine], Optional[Attributes]]] = {
    "user": lambda name, _machine: accounts.observe_user(name),
    "directory": lambda name, _machine: tree.observe_directory(name),
    "file": lambda name, _machine: tree.observe_file(name),
    "link": lambda name, _machine: tree.observe_link(name),
    "module": kernel.observe_module,
    "sysctl": kernel.observe_sysctl,
}
