"""Machines of distributions that nobody has here: their facts, from files as such systems have and print them.

`tests/systems/NAME`: `root/` holds files of the system, `said/` what programs print, `facts.json` what the kernel
says. What freehold reads from them goes through its own readers.
"""

import json
from pathlib import Path
from typing import Any

from freehold_agent import facts as reader
from freehold_agent.contract.firewall import parse_zones
from freehold_agent.facts import KUBELET_SYSCTLS, LIMITS, MODULES, TOOLS

PLACE = Path(__file__).parents[1] / "systems"
NAMES = tuple(sorted(path.name for path in PLACE.iterdir()))
ADDRESS = "10.73.0.12"
GIB = 1 << 30
OPENED = {"interfaces": [], "target": "ACCEPT", "sources": ["10.244.0.0/16"], "default": False}


def system(name: str, **changes: Any) -> dict[str, Any]:
    """Return the facts of a virtual machine of that system on cgroup v2, with every tool installed."""
    root = str(PLACE / name / "root")
    found: dict[str, Any] = {
        "python_executable": "/usr/bin/python3",
        "os_release": reader.parse_os_release((PLACE / name / "root/etc/os-release").read_text()),
        "cgroup_version": 2,
        "cap_sys_resource": True,
        "nofile": 524288,
        "swap": False,
        "conntrack_writable": True,
        "sysctls_writable": sorted((*KUBELET_SYSCTLS, *LIMITS)),
        "limits": {"fs.inotify.max_user_instances": 128, "fs.inotify.max_user_watches": 63000},
        "modules": dict.fromkeys(MODULES, "loadable"),
        "default_route": True,
        "default_route_v6": False,
        "foreign": [],
        "linked": {},
        "tools": {
            **dict.fromkeys(TOOLS, "/usr/sbin/x"),
            **{tool: reader.parse_version(_said(name, tool)) for tool in ("nft", "iptables")},
        },
        "firewalld": parse_zones(_said(name, "firewall-cmd")),
        "container_selinux": reader.knows_containers(root),
        "resolv_conf": reader.resolv_conf(root),
        "disk": {path: {"free": 40 * GIB, "total": 80 * GIB} for path in reader.DISKS},
        "memory": 4 * GIB,
        "cpus": 2,
        "time": 1_800_000_000.0,
        "release": "",
        **json.loads((PLACE / name / "facts.json").read_text()),
    }
    found["nameservers"] = reader.nameservers(root + found["resolv_conf"])
    found["routes"] = [
        {"destination": "0.0.0.0/0", "device": device(found), "protocol": 3, "via": "10.73.0.1"},
        {"destination": "10.73.0.0/24", "device": device(found), "protocol": 2, "via": None},
    ]
    return {**found, **changes}


def device(facts: dict[str, Any]) -> str:
    """Return the name of the machine's interface."""
    return str(facts["interfaces"][-1]["name"])


def with_open_firewall(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a machine whose owner lets through what a cluster needs, if it has a firewall at all."""
    if not facts["firewalld"]:
        return facts
    zones = {**facts["firewalld"], "trusted": {**OPENED, "interfaces": [device(facts)]}}
    zones["public"] = {**zones["public"], "interfaces": []}
    return {**facts, "firewalld": zones}


def _said(name: str, program: str) -> str:
    path = PLACE / name / "said" / program
    return path.read_text() if path.exists() else ""
