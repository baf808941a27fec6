"""Which packet filter this machine can give: nftables, or iptables where kernel or tool are too old."""

import re
from typing import Any, Mapping, Tuple

from freehold_agent.contract.fitness import MINIMUM_KERNEL, MINIMUM_NFT


def packet_filter(facts: Mapping[str, Any]) -> str:
    """Return `nftables` or `iptables`: one answer for kube-proxy, flannel and hostPorts alike."""
    nft = version_of(facts.get("tools", {}).get("nft") or "")
    kernel = version_of(str(facts.get("kernel", "")))
    return "nftables" if nft >= MINIMUM_NFT and kernel >= MINIMUM_KERNEL else "iptables"


def version_of(text: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version: `6.1.0-18-amd64` is (6, 1, 0); nothing is ()."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
