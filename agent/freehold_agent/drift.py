"""What differs on this node and is not ours to put back: settings of others that change what our programs do.

It is told, never touched: whoever put a drop-in beside our unit meant it. A few directories are listed, nothing else.
"""

import os
from dataclasses import dataclass
from typing import Dict, List, Sequence

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import Resource, Unit
from freehold_agent.glance import run_is_full

DROPINS = ("/etc/systemd/system.control", "/run/systemd/system.control", paths.UNITS, "/run/systemd/system")
"""Where drop-ins and unit files of others take part; the first two also stand above our own unit files."""
ABOVE_OURS = DROPINS[:2]
CNI_ENDINGS = (".conf", ".conflist", ".json")
"""What containerd reads in its directory."""


@dataclass(frozen=True)
class Drift:
    """One thing."""

    place: str
    says: str

    def __str__(self) -> str:
        return "{}: {}".format(self.place, self.says)


def find_drift(document: JoinDocument, resources: Sequence[Resource], root: str = "") -> List[Drift]:
    """Return what others changed beside what is ours, in a fixed order. Never raises OSError."""
    units = [resource.name for resource in resources if isinstance(resource, Unit)]
    found = _dropins(units, root)
    if document.network.flannel:
        found += _networks(root)
    if run_is_full(root):
        found.append(Drift("/run", "no room is left; systemd and containerd need it"))
    return found


def _dropins(units: Sequence[str], root: str) -> List[Drift]:
    found = []
    for directory in DROPINS:
        names = set(_names(root + directory))
        for unit in units:
            if unit + ".d" in names:
                place = directory + "/" + unit + ".d"
                files = [name for name in _names(root + place) if name.endswith(".conf")]
                found += [Drift(place + "/" + name, "changes " + unit) for name in files]
            if unit in names and directory in ABOVE_OURS:
                found.append(Drift(directory + "/" + unit, "takes the place of " + unit))
    return found


def _networks(root: str) -> List[Drift]:
    ours = os.path.basename(paths.CNI_CONFLIST)
    others = [name for name in _names(root + paths.CNI_CONFIG) if name != ours and name.endswith(CNI_ENDINGS)]
    says: Dict[bool, str] = {
        True: "comes before freehold's pod network: new pods use it",
        False: "another pod network, not used while freehold's is there",
    }
    return [Drift(paths.CNI_CONFIG + "/" + name, says[name < ours]) for name in others]


def _names(path: str) -> List[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
