"""The generated inventory: the committed one with what only this host can know.

That is the machines' SSH host keys, read past the network, the path of the lab's key, and for another shape
than the committed one, the machines.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from . import places
from .errors import LabError
from .shape import DEFAULT_NAME, Lab


def write(lab: Lab, host_keys: Mapping[str, str]) -> str:
    """Write the inventory of the machines in `host_keys` (name -> `TYPE BASE64`); return its path."""
    yaml = _yaml()
    committed: dict[str, Any] = {}
    if os.path.exists(places.COMMITTED_INVENTORY):
        with open(places.COMMITTED_INVENTORY, encoding="utf-8") as handle:
            committed = yaml.safe_load(handle) or {}
    known = committed.get("hosts") or {}
    hosts = {}
    for machine in lab.machines:
        if machine.name not in host_keys:
            continue
        entry = dict(known.get(machine.name) or {})
        entry["address"] = machine.address
        entry.pop("internalAddress", None)
        entry["roles"] = list(machine.roles)
        entry["hostKey"] = host_keys[machine.name]
        hosts[machine.name] = entry
    content = {
        **committed,
        "name": committed.get("name", "lab") if lab.name == DEFAULT_NAME else lab.name,
        "ssh": {**(committed.get("ssh") or {}), "user": "freehold", "key": places.key()},
        "hosts": hosts,
    }
    content.setdefault("config", {})
    text = (
        f"# Written by `vagrant/lab up` for the lab {lab.name} ({lab.shape}) from inventories/lab.yaml; do not edit.\n"
        + yaml.safe_dump(content, sort_keys=False, default_flow_style=False, width=1000)
    )
    path = places.inventory(lab.name, DEFAULT_NAME)
    if _read(path) != text:
        _replace(path, text)
    return path


def host_key(lab: Lab, name: str) -> str:
    """Return the host key (`TYPE BASE64`) that the generated inventory holds for a machine, or ''."""
    hosts = (_yaml().safe_load(_read(places.inventory(lab.name, DEFAULT_NAME))) or {}).get("hosts") or {}
    return str(hosts.get(name, {}).get("hostKey", ""))


def remove(lab: Lab) -> None:
    """Remove the lab's inventory."""
    path = places.inventory(lab.name, DEFAULT_NAME)
    if os.path.exists(path):
        os.unlink(path)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        # Pure Python is enough: whatever interpreter the project's own environment has.
        sys.path += glob.glob(os.path.join(places.CHECKOUT, ".venv", "lib", "python3*", "site-packages"))
        try:
            import yaml
        except ImportError:
            raise LabError("the inventory needs PyYAML", hint="make venv, or install python3-yaml") from None
    return yaml


def _replace(path: str, text: str) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    places.own(directory)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".inventory-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    os.chmod(temporary, 0o644)
    places.own(temporary)
    os.replace(temporary, path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return ""
