"""The command `vagrant/lab`: machines to try freehold on, from nothing to a generated inventory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from . import inventory, places, podman
from .containers import ContainerMachines
from .errors import LabError
from .shape import DEFAULT_NAME, Lab, lab_from
from .virtual_machines import VirtualMachines

_ABOUT = """\
Machines to try freehold on. By default three (cp1, w1, w2): containers that run systemd and sshd, on a
network of their own without a way out.

  vagrant/lab up          makes or revives them and writes inventories/generated/lab.yaml
  vagrant/lab ssh cp1     opens a shell
  vagrant/lab destroy     removes them, their disks and their network
"""
_ENVIRONMENT = """\
environment:
  FREEHOLD_LAB=NAME             another lab beside the default one, on a network of its own
  FREEHOLD_LAB_SHAPE=CP+W       control planes + workers, default 1+2
  FREEHOLD_LAB_SUBNET=10.73.N.0/24
  FREEHOLD_LAB_PROVIDER=docker|libvirt|virtualbox   default docker, which here is podman
  FREEHOLD_CACHE=DIR            image and SSH key, default ~/.cache/freehold
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code (3 for bad input, 1 for what failed)."""
    options = _parser().parse_args(arguments)
    try:
        lab = lab_from(os.environ)
    except LabError as error:
        return _failed(error, 3)
    try:
        return _run(lab, options)
    except LabError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        places.say("interrupted; the same command goes on from here")
        return 130


def _run(lab: Lab, options: argparse.Namespace) -> int:
    if options.verb == "machines":
        return _show_machines(lab)
    machines = ContainerMachines(lab) if lab.provider == "docker" else VirtualMachines(lab)
    if options.verb == "ssh":
        return _ssh(lab, options)
    if machines.needs_root and os.geteuid() != 0:
        return _again_as_root(options.verb)
    if options.verb == "exec":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        return subprocess.run(
            machines.command(options.name, command), check=False, env=podman.environment()
        ).returncode
    if options.verb == "status":
        return _status(lab, machines)
    if options.verb == "keys":
        for machine in lab.machines:
            print(f"{machine.address} {machines.host_key(machine.name)}")
        return 0
    with places.locked(lab.name):
        _change(lab, machines, options)
    return 0


def _change(lab: Lab, machines: ContainerMachines | VirtualMachines, options: argparse.Namespace) -> None:
    verb = options.verb
    if verb == "up":
        names = options.machines or [machine.name for machine in lab.machines]
        machines.up(names)
        _finish(lab, machines, names)
    elif verb == "destroy":
        machines.destroy()
        inventory.remove(lab)
        places.say(f"lab {lab.name} is gone; the image stays in podman for the next `vagrant/lab up`")
    elif verb == "fresh":
        machines.fresh(options.names)
        _rewrite(lab, machines, options.names)
    elif verb == "power-cut":
        machines.power_cut(options.names)
        if not options.stay_off:
            machines.start(options.names)
    else:
        getattr(machines, verb)(options.names)
    if verb in ("stop", "start", "reboot", "power-cut", "fresh"):
        places.say(f"{verb} {' '.join(options.names)}: done")


def _finish(lab: Lab, machines: ContainerMachines | VirtualMachines, names: Sequence[str]) -> None:
    keys = {name: machines.host_key(name) for name in names}
    path = inventory.write(lab, keys)
    for name in names:
        places.say(f"{name:5} {lab.machine(name).address:13} {', '.join(lab.machine(name).roles)}")
    places.say(f"inventory: {os.path.relpath(path)}   ssh key: {places.key()}")
    places.say("next: vagrant/lab ssh cp1, or freehold apply -i " + os.path.relpath(path))


def _rewrite(lab: Lab, machines: ContainerMachines | VirtualMachines, made: Sequence[str]) -> None:
    """Write the inventory again: the keys of machines just made, and of the others that run."""
    there = [
        machine.name
        for machine in lab.machines
        if machine.name in made or machines.status(machine.name) == "running"
    ]
    inventory.write(lab, {name: machines.host_key(name) for name in there})


def _status(lab: Lab, machines: ContainerMachines | VirtualMachines) -> int:
    states = {machine.name: machines.status(machine.name) for machine in lab.machines}
    for machine in lab.machines:
        print(f"{machine.name:5} {machine.address:13} {machine.roles[0]:14} {states[machine.name]}")
    return 0 if set(states.values()) == {"running"} else 1


def _show_machines(lab: Lab) -> int:
    described = {
        "name": lab.name,
        "provider": lab.provider,
        "subnet": lab.subnet,
        "image": podman.image(),
        "key": places.key(),
        "inventory": places.inventory(lab.name, DEFAULT_NAME),
        "machines": [
            {
                "name": machine.name,
                "container": machine.container,
                "address": machine.address,
                "roles": list(machine.roles),
                "volumes": machine.volumes(),
                "create_args": lab.create_args(machine),
            }
            for machine in lab.machines
        ],
    }
    print(json.dumps(described, indent=2))
    return 0


def _ssh(lab: Lab, options: argparse.Namespace) -> int:
    """Open SSH with the host key pinned: the generated inventory is where it is written down."""
    machine = lab.machine(options.name)
    known = os.path.join(places.cache(), f"{lab.name}-{machine.name}.known_hosts")
    host_key = inventory.host_key(lab, machine.name)
    if not host_key:
        raise LabError(f"no host key of {machine.name} is known", hint="vagrant/lab up")
    with open(known, "w", encoding="ascii") as handle:
        handle.write(f"{machine.address} {host_key}\n")
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    arguments = ["-i", places.key(), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known}"]
    strict = ["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
    target = [f"freehold@{machine.address}", *command]
    return subprocess.run(["ssh", *arguments, *strict, *target], check=False).returncode


def _again_as_root(verb: str) -> int:
    """Start this very command under sudo: containers with systemd and a bridge need root."""
    script = os.path.join(places.VAGRANT_DIRECTORY, "lab")
    prepare = os.path.join(places.VAGRANT_DIRECTORY, "prepare-host")
    # As the person who typed it, so that the SSH key is theirs; it asks sudo for what needs root.
    if verb in ("up", "fresh") and subprocess.run([prepare], check=False, stdout=2).returncode:
        return 1
    kept = [
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(("FREEHOLD_", "VAGRANT_"))
    ]
    kept = [entry for entry in kept if not entry.startswith("FREEHOLD_CACHE=")]
    kept.append(f"FREEHOLD_CACHE={os.path.dirname(places.cache())}")
    return subprocess.run(
        ["sudo", "env", *kept, sys.executable, script, *sys.argv[1:]], check=False
    ).returncode


def _failed(error: LabError, code: int) -> int:
    print(f"lab: {error}", file=sys.stderr)
    if error.hint:
        print(f"     {error.hint}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vagrant/lab",
        description=_ABOUT,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="make or revive the machines, write the generated inventory")
    up.add_argument("--machines", nargs="+", metavar="NAME", help="only these")
    verbs.add_parser("status", help="show the machines; exit 1 unless all run")
    for verb, text in (
        ("stop", "shut machines down in order"),
        ("start", "start machines that are off, disks kept"),
        ("reboot", "shut machines down and start them again"),
        ("fresh", "make machines anew from the image: empty disks, new host keys"),
    ):
        verbs.add_parser(verb, help=text).add_argument("names", nargs="+", metavar="NAME")
    cut = verbs.add_parser("power-cut", help="kill everything in machines at once, then start them")
    cut.add_argument("--stay-off", action="store_true", help="do not start them again")
    cut.add_argument("names", nargs="+", metavar="NAME")
    verbs.add_parser("destroy", help="remove all machines of this lab, their disks and network")
    for verb, text in (
        ("ssh", "open a shell on a machine, or run a command there (host key pinned)"),
        ("exec", "run a command as root in a machine, past its network"),
    ):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("name", metavar="NAME")
        sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    verbs.add_parser(
        "keys", help="print the machines' SSH host keys as known_hosts lines, read past the network"
    )
    machines = verbs.add_parser("machines", help="print what the Vagrantfile needs to know (JSON)")
    machines.add_argument("--json", action="store_true", help="(the only form)")
    return parser
