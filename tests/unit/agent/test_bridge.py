"""Pods that have lost their bridge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from freehold_agent.bridge import LINKS, RESULTS, join_pods_again

BRIDGE = "5a:e0:25:e9:7a:0a"


class Machine:
    """Pods' links and what CNI noted of them, below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[str] = []

    def link(self, name: str, bridge: str = "") -> None:
        place = self.root / (LINKS + name)[1:]
        place.mkdir(parents=True)
        if bridge:
            (place / "master").symlink_to("../" + bridge)

    def pod(self, number: int, link: str, network: str = "freehold") -> None:
        ips = [
            {"address": f"10.244.1.{number}/24", "gateway": "10.244.1.1"},
            {"address": f"fd00:1::{number}/64", "gateway": "fd00:1::1"},
        ]
        links = [
            {"name": "cni0", "mac": BRIDGE},
            {"name": link, "mac": "x"},
            {"name": "eth0", "mac": "y", "sandbox": "/var/run/netns/cni-1"},
        ]
        self.note(f"{network}-{number}-eth0", {"result": {"interfaces": links, "ips": ips}})

    def note(self, name: str, content: Any) -> None:
        place = self.root / RESULTS[1:] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content if isinstance(content, str) else json.dumps(content))

    def run(self, command: list[str], **_options: Any) -> str:
        self.ran.append(" ".join(command))
        return ""

    def join(self) -> list[str]:
        return join_pods_again(self.run, str(self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_whole_pods_are_left_alone(machine: Machine) -> None:
    """Without pods, with pods on their bridge, and with what is none of ours, nothing is run."""
    assert machine.join() == []
    machine.pod(2, "veth2")
    machine.link("veth2", "cni0")
    machine.pod(3, "veth-gone")
    machine.pod(4, "veth4", network="another")
    machine.link("veth4")
    machine.link("veth-of-nobody")
    machine.note("freehold-5-eth0", '{"result": {"interfa')
    machine.note("freehold-6-eth0", {"result": {"interfaces": [], "ips": []}})
    assert machine.join() == []
    assert machine.ran == []


def test_the_bridge_comes_back_as_it_was(machine: Machine) -> None:
    """With its hardware address and the gateways of the pods, who are joined to it as CNI would."""
    for number in (2, 3):
        machine.pod(number, f"veth{number}")
        machine.link(f"veth{number}")
    assert machine.join() == ["veth2", "veth3"]
    assert machine.ran == [
        f"ip link add cni0 address {BRIDGE} type bridge",
        "ip address replace 10.244.1.1/24 dev cni0",
        "ip address replace fd00:1::1/64 dev cni0",
        "ip link set veth2 master cni0",
        "ip link set veth2 type bridge_slave hairpin on",
        "ip link set veth3 master cni0",
        "ip link set veth3 type bridge_slave hairpin on",
        "ip link set cni0 up",
    ]


def test_older_pods_follow_to_a_bridge_that_a_new_pod_got(machine: Machine) -> None:
    """Only those that have none are touched."""
    machine.link("cni0")
    machine.pod(2, "veth2")
    machine.link("veth2")
    machine.pod(3, "veth3")
    machine.link("veth3", "cni0")
    assert machine.join() == ["veth2"]
    assert not any("add" in line.split() or "veth3" in line for line in machine.ran)
