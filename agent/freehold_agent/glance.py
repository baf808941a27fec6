"""A cheap look at what a node is made of: has anything changed since the last whole look?

A few hundred `lstat` and small reads, no program, some milliseconds: it says *that* something changed, never whether it
is right. That is the business of a whole look (`observe`), which it calls for.
"""

import ipaddress
import os
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.resources import (
    Artifact,
    Directory,
    File,
    Link,
    Resource,
    Route,
    Sysctl,
    Unit,
    key_of,
)
from freehold_agent.desired.network import BRIDGE
from freehold_agent.store import path_of

INVOCATIONS = "/run/systemd/units/invocation:"
"""A link that systemd keeps for each unit that is up, also for a oneshot that stays: another start, another target."""
WANTS = paths.UNITS + "/multi-user.target.wants/"
ENOUGH = 1 << 20
"""Bytes that /run needs for anything to work: sockets, pid files, systemd's own notes."""

Stamp = Dict[str, Any]


class Glance:
    """The stamps of one list of resources. Users and kernel modules are left to the whole look."""

    def __init__(self, resources: Sequence[Resource], root: str = "") -> None:
        self._root = root
        self._marks: List[Tuple[str, Callable[[], Any]]] = []
        self._routes = [resource for resource in resources if isinstance(resource, Route)]
        for resource in resources:
            mark = self._mark(resource)
            if mark is not None:
                self._marks.append((key_of(resource), mark))

    def stamp(self) -> Stamp:
        """Return what is there now, by key; two that are equal mean that nothing changed. Never raises OSError."""
        found: Stamp = {key: mark() for key, mark in self._marks}
        if self._routes:
            present = routes(self._root)
            for route in self._routes:
                found[key_of(route)] = (_network(route.destination), route.device) in present
        found["/run"] = run_is_full(self._root)
        # Another one of this name is another bridge.
        found[BRIDGE] = _text(self._root + "/sys/class/net/" + BRIDGE + "/ifindex")
        return found

    def _mark(self, resource: Resource) -> Optional[Callable[[], Any]]:
        if isinstance(resource, (File, Link)):
            path = self._root + resource.path
            return lambda: _whole(path)
        if isinstance(resource, Directory):
            path = self._root + resource.path
            return lambda: _access(path)
        if isinstance(resource, Artifact):
            path = self._root + path_of(resource.sha256)
            return lambda: _whole(path)
        if isinstance(resource, Sysctl):
            path = self._root + "/proc/sys/" + resource.name.replace(".", "/")
            return lambda: _text(path)
        if isinstance(resource, Unit):
            name, wants = resource.name, self._root + WANTS + resource.name
            return lambda: (invocation(name, self._root), os.path.islink(wants))
        return None


def invocation(unit: str, root: str = "") -> str:
    """Return what names this very run of a unit; empty while it is not up."""
    try:
        return os.readlink(root + INVOCATIONS + unit)
    except OSError:
        return ""


def run_is_full(root: str = "") -> bool:
    """Say whether /run has no room left."""
    try:
        state = os.statvfs(root + "/run")
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < ENOUGH or (state.f_files > 0 and state.f_favail == 0)


def routes(root: str = "") -> Dict[Tuple[Any, str], str]:
    """Return the gateway of each route of the main table by its network and device."""
    found: Dict[Tuple[Any, str], str] = {}
    for fields in _lines(root + "/proc/net/route"):
        if fields[0] != "Iface":
            # The kernel prints addresses as numbers in the machine's own byte order.
            where, gateway, mask = (int(fields[index], 16).to_bytes(4, sys.byteorder) for index in (1, 2, 7))
            prefix = bin(int.from_bytes(mask, "big")).count("1")
            network = ipaddress.ip_network((where, prefix), strict=False)
            found[network, fields[0]] = str(ipaddress.ip_address(gateway))
    for fields in _lines(root + "/proc/net/ipv6_route"):
        if fields[9].startswith("veth"):  # three of each pod, none of ours
            continue
        network6 = ipaddress.ip_network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)
        found[network6, fields[9]] = str(ipaddress.ip_address(bytes.fromhex(fields[4])))
    return found


def _network(destination: str) -> Any:
    return ipaddress.ip_network("0.0.0.0/0" if destination == "default" else destination, strict=False)


def _whole(path: str) -> Optional[Tuple[int, ...]]:
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state.st_ino, state.st_mode, state.st_uid, state.st_gid, state.st_size, state.st_ctime_ns


def _access(path: str) -> Optional[Tuple[int, ...]]:
    """Of a directory: its times say what is done in it, which is none of our business."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state.st_ino, state.st_mode, state.st_uid, state.st_gid


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _lines(path: str) -> List[List[str]]:
    return [line.split() for line in _text(path).splitlines() if line.strip()]
