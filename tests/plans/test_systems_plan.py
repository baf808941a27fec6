"""Other distributions, as far as it can be shown without them: preflight's words and every rendered difference.

The golden files hold what a control plane with its node gets otherwise than on Debian 12. Written anew by
`FREEHOLD_GOLDEN=write`.
"""

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_machine import the_manifest
from tests.support.a_node import a_document
from tests.support.repository import CHECKOUT
from tests.support.systems import ADDRESS, NAMES, system, with_open_firewall

from freehold_agent.contract import distribution, firewall, ports
from freehold_agent.contract.resources import File, KernelModule, Resource, Sysctl
from freehold_agent.desired import desired_node
from freehold_installer.config import Inventory, load, loads
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.desired.control_plane_context import ControlPlaneContext
from freehold_installer.phases import preflight

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = "debian-12"
RED_HAT = ("alma-9-arm64", "rhel-9", "rocky-9")
INVENTORY = f"""
name: test
hosts:
  cp1: {{address: {ADDRESS}, roles: [control-plane]}}
  w1: {{address: {ADDRESS}, roles: [worker]}}
"""


def an_inventory() -> Inventory:
    return loads(INVENTORY.replace(f"w1: {{address: {ADDRESS}", "w1: {address: 10.73.0.13"))


def problems(facts: dict[str, Any], host: str = "cp1") -> list[str]:
    inventory = an_inventory()
    return preflight.problems(inventory, inventory.hosts[host], facts, installed=False)


def rendered(facts: dict[str, Any]) -> dict[str, str]:
    """Return the text of everything that a control plane and a node of such a machine get, by its key."""
    inventory = load(CHECKOUT / "inventories" / "lab.yaml")
    manifest = dataclasses.replace(the_manifest(), architecture=facts["architecture"])
    document = dataclasses.replace(a_document(), manifest=manifest)
    (host,) = inventory.control_planes
    context = ControlPlaneContext(inventory, host, manifest, facts)
    return {
        resource.name: text(resource)
        for resource in [*control_plane_resources(context), *desired_node(document, facts)]
        if text(resource)
    }


def text(resource: Resource) -> str:
    if isinstance(resource, File) and not resource.secret:
        lines = resource.content.decode().splitlines()
        # A digest of what stands elsewhere says nothing to a reader.
        return "\n".join(line for line in lines if "FREEHOLD_INPUTS" not in line)
    if isinstance(resource, Sysctl):
        return f"sysctl {resource.value}"
    return "module" if isinstance(resource, KernelModule) else ""


def differences(facts: dict[str, Any]) -> str:
    """Return a diff of what this machine gets against what one with Debian 12 gets."""
    reference, here = rendered(system(REFERENCE)), rendered(facts)
    lines: list[str] = []
    for name in sorted({*reference, *here}):
        before, after = (every.get(name, "").splitlines() for every in (reference, here))
        lines += difflib.unified_diff(before, after, name, name, "", "", 0, "")
    # Without line numbers: they change with every other setting of a unit.
    shown = [line for line in lines if not line.startswith(("+++", "@@"))]
    return "\n".join(shown) + "\n" if shown else ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("host", ["cp1", "w1"])
def test_a_prepared_machine_of_each_system_is_fit(name: str, host: str) -> None:
    """Nothing is asked of it that its distribution's own packages and a word with its firewall do not give."""
    facts = with_open_firewall(system(name))
    if host == "w1":
        facts["interfaces"] = [
            facts["interfaces"][0],
            {**facts["interfaces"][1], "addresses": ["10.73.0.13/24"]},
        ]
    assert problems(facts, host) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_each_system_gets_otherwise(name: str) -> None:
    """The golden file holds every line of every file that differs from Debian 12, and nothing else differs."""
    golden = GOLDEN / f"system-{name}.diff"
    found = differences(system(name))
    if os.environ.get("FREEHOLD_GOLDEN") == "write":
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_one_runs_nftables_and_the_systemd_driver(name: str) -> None:
    """Kernel and nft of each are new enough, and on cgroup v2 containers are systemd's."""
    texts = rendered(system(name))
    assert '"mode": "nftables"' in texts["/etc/freehold/kube-proxy.json"]
    assert '"cgroupDriver": "systemd"' in texts["/etc/freehold/kubelet.json"]
    assert "failCgroupV1" not in texts["/etc/freehold/kubelet.json"]
    assert "SystemdCgroup = true" in texts["/etc/containerd/config.toml"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ubuntu-22.04", "/run/systemd/resolve/resolv.conf"),
        ("ubuntu-24.04", "/run/systemd/resolve/resolv.conf"),
        ("debian-13", "/etc/resolv.conf"),
        ("rhel-9", "/etc/resolv.conf"),
    ],
)
def test_pods_and_dns_get_a_resolver_that_they_can_reach(name: str, expected: str) -> None:
    """Not systemd-resolved's stub, which answers the machine alone: the list behind it."""
    texts = rendered(system(name))
    assert f'"resolvConf": "{expected}"' in texts["/etc/freehold/kubelet.json"]
    assert f"forward . {expected}\n" in texts["/etc/freehold/coredns/Corefile"]
    assert system(name)["nameservers"] == ["192.0.2.53"]


@pytest.mark.parametrize("name", NAMES)
def test_missing_tools_are_named_with_the_systems_own_packages(name: str) -> None:
    """The command can be pasted: names of packages differ between the families, and so does the installer."""
    facts = with_open_firewall(system(name))
    facts["tools"] = {"systemctl": "/usr/bin/systemctl"}
    command = (
        "dnf install conntrack-tools iproute iptables-nft kmod util-linux nftables"
        if name in RED_HAT
        else "apt-get install conntrack iproute2 iptables kmod mount nftables"
    )
    assert problems(facts) == [f"{', '.join(distribution.TOOLS)} missing: {command}"]


@pytest.mark.parametrize("name", RED_HAT)
def test_selinux_without_a_policy_for_containers_is_refused(name: str) -> None:
    """Enforcing without container-selinux no container would start; permissive it is a word in the plan."""
    facts = with_open_firewall(system(name, container_selinux=False))
    assert problems(facts) == [
        "SELinux is enforcing and its policy knows no containers: dnf install container-selinux"
    ]
    facts["selinux"] = "permissive"
    assert problems(facts) == []
    assert any("dnf install container-selinux" in note for note in preflight.notes(facts))
    assert "chcon" not in "".join(rendered(facts).values())


@pytest.mark.parametrize("mode", ["enforcing", "permissive"])
def test_with_selinux_programs_are_labelled_and_containers_confined(mode: str) -> None:
    """Every unit labels the programs that it starts, containerd itself for its own domain; containers get labels."""
    facts = system("rhel-9", selinux=mode)
    texts = rendered(facts)
    for name, content in texts.items():
        program = next((line for line in content.splitlines() if line.startswith("ExecStart=/opt/")), "")
        binary = program.removeprefix("ExecStart=").split(" ")[0]
        assert not binary or f"{binary}" in "".join(
            line for line in content.splitlines() if line.startswith("ExecStartPre=+/usr/bin/chcon -t ")
        ), name
    assert (
        "chcon -t container_runtime_exec_t /opt/freehold/current/bin/containerd\n"
        in (texts["/etc/systemd/system/containerd.service"])
    )
    assert "enable_selinux = true" in texts["/etc/containerd/config.toml"]
    assert any(f"SELinux is {mode}" in note for note in preflight.notes(facts))


@pytest.mark.parametrize("name", RED_HAT)
def test_a_closed_firewalld_is_refused_with_the_commands_that_open_it(name: str) -> None:
    """As installed, it drops what the cluster needs: each role is told its own ports, and the pods' network."""
    facts = system(name)
    (problem,) = problems(facts)
    opened = "6443/tcp 6444/tcp 6445/tcp 1053/tcp 1053/udp 10250/tcp 8472/udp"
    assert problem == (
        "its firewalld keeps out what the cluster needs: "
        "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16 && "
        f"firewall-cmd --permanent --zone=public {' '.join('--add-port=' + port for port in opened.split())} && "
        "firewall-cmd --reload; or turn it off: systemctl disable --now firewalld"
    )
    zones = facts["firewalld"]
    zones["trusted"]["sources"] = ["10.244.0.0/16"]
    zones["public"]["ports"] = ["6443-6445/tcp", "1053/tcp", "1053/udp", "10250/tcp", "8472/udp"]
    assert problems(facts) == []
    zones["public"]["ports"].remove("8472/udp")
    (problem,) = problems(facts)
    assert "add-source" not in problem
    assert "--zone=public --add-port=8472/udp &&" in problem


def test_the_zone_of_the_interface_counts_else_the_default_one() -> None:
    """A newer firewalld marks the default zone; an interface in none is judged by that."""
    zones = firewall.parse_zones(
        "home (default)\n  target: default\n  interfaces: \n\ntrusted\n  target: ACCEPT\n"
    )
    facts = system("rhel-9", firewalld=zones)
    (problem,) = firewall.problems(facts, ADDRESS, ports.NODE, [])
    assert "--zone=home --add-port=10250/tcp" in problem
    zones["trusted"]["interfaces"] = ["enp1s0"]
    assert firewall.problems(facts, ADDRESS, ports.NODE, []) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RED_HAT])
def test_elsewhere_there_is_nothing_to_say(name: str) -> None:
    """Without SELinux and firewalld no unit labels anything, and the plan has no remark."""
    assert "chcon" not in "".join(rendered(system(name)).values())
    assert preflight.notes(system(name)) == []


def test_a_resolver_of_the_machine_alone_is_said() -> None:
    """dnsmasq or unbound on the loopback: no list of others is known, so the plan says who is without names."""
    (note,) = preflight.notes(system("debian-13", nameservers=["127.0.0.1", "::1"]))
    assert "its resolver 127.0.0.1, ::1 answers only the machine itself" in note
    assert preflight.notes(system("debian-13", nameservers=["127.0.0.1", "192.0.2.53"])) == []
