"""Would firewalld keep out what a cluster needs? Facts and ports in, one sentence with the commands out.

It is the machine's owner who opens a firewall: freehold says how, and changes no rule of anyone else. Pure.
"""

import ipaddress
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from freehold_agent.contract.ports import Port

DEFAULT_ZONE = "public"
ACCEPTS = "ACCEPT"
TRUSTED = "trusted"

Zones = Mapping[str, Mapping[str, Any]]


def problems(
    facts: Mapping[str, Any], address: str, ports: Iterable[Port], pod_networks: Sequence[str]
) -> List[str]:
    """Return what firewalld drops of this machine's part in the cluster; nothing where it does not run.

    `address`: the machine's own, among whose interface's rules the ports must be.
    """
    zones: Optional[Zones] = facts.get("firewalld")
    if not zones:
        return []
    untrusted = [network for network in pod_networks if not _is_trusted(zones, network)]
    zone = _zone_of(facts, zones, address)
    rules = zones.get(zone, {})
    closed = [
        "{}/{}".format(port.number, port.protocol)
        for port in ports
        if port.remote and rules.get("target") != ACCEPTS and not _is_open(rules, port)
    ]
    commands = []
    if untrusted:
        sources = " ".join("--add-source=" + network for network in untrusted)
        commands.append("firewall-cmd --permanent --zone={} {}".format(TRUSTED, sources))
    if closed:
        opened = " ".join("--add-port=" + port for port in closed)
        commands.append("firewall-cmd --permanent --zone={} {}".format(zone, opened))
    if not commands:
        return []
    return [
        "its firewalld keeps out what the cluster needs: {} && firewall-cmd --reload; or turn it off: "
        "systemctl disable --now firewalld".format(" && ".join(commands))
    ]


def parse_zones(text: str) -> Dict[str, Dict[str, Any]]:
    """Return the zones in the output of `firewall-cmd --list-all-zones`: target, interfaces, sources, ports."""
    zones: Dict[str, Dict[str, Any]] = {}
    current: Dict[str, Any] = {}
    for line in text.splitlines():
        if line and not line[0].isspace():
            name, _, marks = line.partition(" ")
            current = zones.setdefault(name, {"default": "default" in marks})
        elif ":" in line and line.startswith("  ") and not line.startswith("   "):
            key, _, value = line.strip().partition(":")
            if key == "target":
                current[key] = value.strip()
            elif key in ("interfaces", "sources", "ports"):
                current[key] = value.split()
    return zones


def _is_trusted(zones: Zones, network: str) -> bool:
    wanted = ipaddress.ip_network(network)
    for rules in zones.values():
        if rules.get("target") != ACCEPTS:
            continue
        for source in rules.get("sources", ()):
            try:
                given = ipaddress.ip_network(source, strict=False)
            except ValueError:
                continue  # a MAC address or an ipset
            if given.version == wanted.version and wanted.subnet_of(given):  # type: ignore[arg-type]
                return True
    return False


def _zone_of(facts: Mapping[str, Any], zones: Zones, address: str) -> str:
    """Return the zone that judges what comes in at this address: that of its interface, else the default one."""
    device = next(
        (
            interface["name"]
            for interface in facts["interfaces"]
            if any(str(ipaddress.ip_interface(own).ip) == address for own in interface["addresses"])
        ),
        "",
    )
    holders = [name for name, rules in zones.items() if device and device in rules.get("interfaces", ())]
    defaults = [name for name, rules in zones.items() if rules.get("default")]
    return next(iter([*holders, *defaults]), DEFAULT_ZONE)


def _is_open(rules: Mapping[str, Any], port: Port) -> bool:
    for entry in rules.get("ports", ()):
        numbers, _, protocol = entry.partition("/")
        first, _, last = numbers.partition("-")
        if protocol == port.protocol and int(first) <= port.number <= int(last or first):
            return True
    return False
