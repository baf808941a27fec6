"""What other installers took for the same work on machines of this kind, and what freehold aims at.

Measured on such machines on 2026-11-22 (two cores shared by all machines, one disk, systemd containers): seconds,
least / median / most, from the project's design notes. kubeadm had its binaries and images in place, not timed, with
the iptables proxy and the bridge CNI. k0s had its real payload, upload timed, but no kubelet on its controllers and
several components off. They are given figures: `python -m bench` does not measure them again.
"""

from dataclasses import dataclass

MEASURED = "2026-11-22"


@dataclass(frozen=True)
class Peer:
    kubeadm: str = ""
    k0s: str = ""
    aim: str = ""


PEERS = {
    "apply-1+0 nodes": Peer("5.7 / 6.4 / 8.3, copies not timed (about 8 more)", "", "<= 8"),
    "apply-1+0 dns": Peer("", "", "<= 10"),
    "apply-1+1 nodes": Peer(
        "17.3 / 20.2 / 28.9, copies not timed (about 32 with them)", "21.2 / 24.4 / 32.2", "<= 10"
    ),
    "apply-1+1 dns": Peer("26 / 54 / 67 (both CoreDNS pods Ready)", "", "<= 12"),
    "apply-converged wall": Peer("", "1.1 / 1.1 / 2.1 (1+1)", "<= 1"),
    "worker nodes": Peer("2.7 warm, 8-19 right after init", "7.6 Ready (10.9 accepted)", "<= 4"),
    "reset-worker wall": Peer("0.6, leaves rules, cgroups, links", "", "<= 4"),
    "reset-all wall": Peer(
        "1.4 and 0.6 by machine, leaves rules, cgroups, links", "5.6, leaves rules, routes", "<= 4"
    ),
    "idle cp1 rss": Peer("1072 (2 CoreDNS)", "802 (no kubelet, proxy)", "<= 800"),
    "idle cp1 pss": Peer("849", "696", ""),
    "idle w1 rss": Peer("278", "287", "<= 260"),
    "idle w1 pss": Peer("170", "248", "<= 165"),
}
"""By the name of a row of the report."""
