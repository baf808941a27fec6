"""Which packet filter this machine can give: nftables, or iptables where kernel or tool are too old."""

from typing import Any, Mapping

from freehold_agent.contract.fitness import MINIMUM_KERNEL, MINIMUM_NFT, version


def packet_filter(facts: Mapping[str, Any]) -> str:
    """Return `nftables` or `iptables`: one answer for kube-proxy, flannel and hostPorts alike."""
    nft = version(facts.get("tools", {}).get("nft") or "")
    kernel = version(str(facts.get("kernel", "")))
    return "nftables" if nft >= MINIMUM_NFT and kernel >= MINIMUM_KERNEL else "iptables"
