"""What distributions call the packages that hold our tools, and how they install them."""

from typing import Any, Iterable, Mapping

DEBIAN = {
    "conntrack": "conntrack",
    "ip": "iproute2",
    "iptables": "iptables",
    "modprobe": "kmod",
    "mount": "mount",
    "nft": "nftables",
    "umount": "mount",
}
RED_HAT = {
    "conntrack": "conntrack-tools",
    "ip": "iproute",
    "iptables": "iptables-nft",
    "modprobe": "kmod",
    "mount": "util-linux",
    "nft": "nftables",
    "umount": "util-linux",
}
"""Tool -> package; freehold installs no distribution packages."""
TOOLS = tuple(sorted(DEBIAN))
_RED_HAT_FAMILY = frozenset(("almalinux", "centos", "fedora", "ol", "rhel", "rocky"))


def is_red_hat(facts: Mapping[str, Any]) -> bool:
    """Say whether the machine is of the RHEL family, by what its os-release calls itself and what it is like."""
    known = facts.get("os_release", {})
    names = {known.get("id", ""), *known.get("id_like", "").split()}
    return bool(names & _RED_HAT_FAMILY)


def install_command(facts: Mapping[str, Any], tools: Iterable[str]) -> str:
    """Return the command that installs these tools there."""
    packages = RED_HAT if is_red_hat(facts) else DEBIAN
    names = " ".join(dict.fromkeys(packages[tool] for tool in tools))
    return ("dnf install " if is_red_hat(facts) else "apt-get install ") + names
