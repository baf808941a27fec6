"""Kernel modules, sysctls and routes: state of the running kernel, gone with a reboot."""

import ipaddress
import json
import os
from typing import Any, Dict, Iterable, List, Optional

from freehold_agent.contract.paths import ROUTE_PROTOCOL
from freehold_agent.contract.resources import Attributes, KernelModule, Route, key_of
from freehold_agent.errors import StepFailed
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.this_machine import ThisMachine

# What exists only when a module is loaded or built in: containers often lack /lib/modules, and a built-in
# module without parameters does not appear in /sys/module.
_PROOFS = {
    "br_netfilter": "sys/net/bridge/bridge-nf-call-iptables",
    "nf_conntrack": "sys/net/netfilter/nf_conntrack_max",
    "bridge": "sys/net/bridge",
}
COMPONENT_SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_udp_timeout",
    "net.netfilter.nf_conntrack_udp_timeout_stream",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
"""Settings that kubelet, kube-proxy, flannel and the CNI plugins set on their own."""
_FILESYSTEMS = {"overlay": "overlay"}


def observe_module(name: str, machine: ThisMachine) -> Optional[Attributes]:
    """Say that the module is loaded or built in; None when nothing shows it."""
    plain = name.replace("-", "_")
    if os.path.isdir(os.path.join(machine.sys, "module", plain)):
        return {"available": True}
    proof = _PROOFS.get(plain)
    if proof and os.path.exists(os.path.join(machine.proc, proof)):
        return {"available": True}
    if plain in _FILESYSTEMS and _FILESYSTEMS[plain] in _lines(os.path.join(machine.proc, "filesystems")):
        return {"available": True}
    builtin = _lines(os.path.join(machine.lib, "modules", os.uname().release, "modules.builtin"))
    names = {os.path.basename(line).split(".")[0].replace("-", "_") for line in builtin}
    return {"available": True} if plain in names else None


def load_module(resource: KernelModule, machine: ThisMachine) -> None:
    """Load the module. Raises StepFailed."""
    try:
        machine.run(["modprobe", "--", resource.name], timeout=30)
    except ProgramFailed as error:
        raise StepFailed(
            key_of(resource),
            "the kernel module {} cannot be loaded: {}".format(resource.name, error.output),
            hint="install the kernel's module package, or a kernel that has it built in",
        ) from error


def observe_sysctl(name: str, machine: ThisMachine) -> Optional[Attributes]:
    """Return the running value, its white space made single; None when the kernel has no such setting."""
    try:
        with open(_sysctl_path(name, machine), encoding="ascii") as stream:
            return {"value": " ".join(stream.read().split())}
    except OSError:
        return None


def component_sysctls(machine: ThisMachine) -> Dict[str, str]:
    """Return the present values of settings that components will change without asking."""
    seen = {name: observe_sysctl(name, machine) for name in COMPONENT_SYSCTLS}
    return {name: attributes["value"] for name, attributes in seen.items() if attributes is not None}


def set_sysctl(name: str, value: str, machine: ThisMachine) -> None:
    """Set the running value. Raises StepFailed."""
    try:
        with open(_sysctl_path(name, machine), "r+", encoding="ascii") as stream:
            stream.write(value)
    except OSError as error:
        raise StepFailed(
            "sysctl:" + name, "cannot set {} to {}: {}".format(name, value, error.strerror)
        ) from error


def observe_routes(destinations: Iterable[str], machine: ThisMachine) -> Dict[str, Optional[Attributes]]:
    """Return device, source and gateway of our routes (protocol 70) to these destinations."""
    wanted = {name: _network(name) for name in destinations}
    found: Dict[str, Optional[Attributes]] = dict.fromkeys(wanted)
    for family, version in (("-4", 4), ("-6", 6)):
        names = {network: name for name, network in wanted.items() if network.version == version}
        if not names:
            continue
        for route in _routes(family, machine):
            name = names.get(_network(route["dst"], version))
            if name is not None:
                found[name] = {
                    "device": route.get("dev"),
                    "source": route.get("prefsrc"),
                    "via": route.get("gateway"),
                }
    return found


def set_route(resource: Route, machine: ThisMachine, present: bool) -> None:
    """Add the route, or replace ours when `present`. Raises StepFailed when another one is in the way."""
    command = [*_ip(resource.destination), "route", "replace" if present else "add"]
    command.append(resource.destination)
    command += ["via", resource.via] if resource.via else []
    command += ["dev", resource.device, "proto", str(ROUTE_PROTOCOL)]
    command += ["src", resource.source] if resource.source else []
    try:
        machine.run(command, timeout=15)
    except ProgramFailed as error:
        raise StepFailed(
            key_of(resource), "route to {}: {}".format(resource.destination, error.output)
        ) from error


def remove_route(destination: str, machine: ThisMachine) -> None:
    """Remove our route to a destination; one that is gone is no error."""
    command = [*_ip(destination), "route", "del", destination, "proto", str(ROUTE_PROTOCOL)]
    machine.run(command, timeout=15, check=False)


def _ip(destination: str) -> List[str]:
    return ["ip", "-6" if _network(destination).version == 6 else "-4"]


def _routes(family: str, machine: ThisMachine) -> List[Dict[str, Any]]:
    try:
        text = machine.run(["ip", family, "-j", "route", "show", "proto", str(ROUTE_PROTOCOL)], timeout=15)
        routes: List[Dict[str, Any]] = json.loads(text or "[]")
    except (ProgramFailed, ValueError) as error:
        raise StepFailed("route:", "cannot read the routes: {}".format(error)) from error
    return [route for route in routes if "dst" in route]


def _network(destination: str, version: int = 4) -> Any:
    if destination == "default":
        destination = "::/0" if version == 6 else "0.0.0.0/0"
    return ipaddress.ip_network(destination, strict=False)


def _sysctl_path(name: str, machine: ThisMachine) -> str:
    return os.path.join(machine.proc, "sys", *name.split("."))


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return [line.split("\t")[-1].strip() for line in stream]
    except OSError:
        return []
