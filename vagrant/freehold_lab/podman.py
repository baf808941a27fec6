"""Machines as containers: every call to podman is in this file. Knows containers, not recovery or inventories."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from . import places
from .errors import LabError
from .shape import Lab, Machine, hardware_address


@dataclass(frozen=True)
class Container:
    """What podman says about a container; `pid` is 0 when it says that nothing runs."""

    identity: str
    status: str
    pid: int
    image: str
    namespace: str


def environment() -> dict[str, str]:
    """Return the environment in which podman and Vagrant use the lab's own settings and docker shim."""
    return {
        **os.environ,
        "CONTAINERS_CONF": os.path.join(places.VAGRANT_DIRECTORY, "containers.conf"),
        "PATH": f"{places.VAGRANT_DIRECTORY}/shim:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }


def podman(*arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run podman; raise LabError with its last words when it fails and `check` is set."""
    try:
        done = subprocess.run(
            ["podman", *arguments],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            env=environment(),
        )
    except FileNotFoundError:
        raise LabError("podman is not installed", hint="vagrant/prepare-host") from None
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(arguments, 124, "", f"no answer in {timeout:.0f} s")
    if check and done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"podman {' '.join(arguments[:2])} failed: {last}")
    return done


def image() -> str:
    """Return the name of the image that belongs to this checkout and key."""
    done = subprocess.run(
        [os.path.join(places.VAGRANT_DIRECTORY, "prepare-host"), "--image-tag"],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def inspect(name: str) -> Container | None:
    """Return what podman knows about container `name`, or None when it knows none."""
    done = podman("container", "inspect", name, check=False)
    if done.returncode:
        return None
    data: dict[str, Any] = json.loads(done.stdout)[0]
    state = data["State"]
    return Container(
        data["Id"],
        state["Status"],
        int(state.get("Pid") or 0),
        data.get("ImageName", ""),
        data.get("NetworkSettings", {}).get("SandboxKey", "") or "",
    )


def answers(machine: Machine) -> bool:
    """Say whether the machine really runs: podman may remember one whose processes are long gone."""
    probe = ("exec", machine.container, "systemctl", "show", "--property=Version")
    return podman(*probe, check=False, timeout=10).returncode == 0


def answers_within(machine: Machine, seconds: float) -> bool:
    """Wait until a machine that was just started runs; say whether it does."""
    until = time.monotonic() + seconds
    while not answers(machine):
        found = inspect(machine.container)
        if time.monotonic() > until or found is None or found.status != "running":
            return False
        time.sleep(0.1)
    return True


def create(lab: Lab, machine: Machine, image_name: str) -> None:
    """Make and start a machine just as Vagrant would, in a third of a second."""
    volumes = [f"--volume={volume}" for volume in machine.volumes()]
    podman(
        "run",
        "--detach",
        "--privileged",
        f"--name={machine.container}",
        f"--hostname={machine.name}",
        *volumes,
        *lab.create_args(machine),
        image_name,
    )


def names_in(lab: Lab) -> list[str]:
    """Return the names of all containers of this lab, of whatever shape it was made."""
    listed = podman(
        "ps", "--all", f"--filter=label=io.freehold.lab={lab.name}", "--format={{.Names}}", check=False
    )
    return sorted(listed.stdout.split())


def ensure_network(lab: Lab) -> None:
    """Make the lab's isolated network; raise LabError if one of that name has other addresses."""
    found = network(lab)
    if found is None:
        made = podman(
            "network",
            "create",
            "--internal",
            "--disable-dns",
            f"--subnet={lab.subnet}",
            f"--label=io.freehold.lab={lab.name}",
            lab.name,
            check=False,
        )
        if made.returncode:
            raise LabError(
                f"cannot make network {lab.name} ({lab.subnet}): {made.stderr.strip()}",
                hint="FREEHOLD_LAB_SUBNET=10.73.N.0/24 chooses another one",
            )
        return
    subnets = [entry["subnet"] for entry in found.get("subnets", [])]
    if subnets != [lab.subnet] or not found.get("internal"):
        raise LabError(
            f"network {lab.name} exists with {', '.join(subnets)}, but this lab is to be {lab.subnet}",
            hint="vagrant/lab destroy, then up",
        )


def network(lab: Lab) -> dict[str, Any] | None:
    """Return podman's description of the lab's network, or None."""
    done = podman("network", "inspect", lab.name, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def give_host_an_address(lab: Lab) -> None:
    """Put the host on the machines' network: an internal network of podman's leaves the host out.

    The bridge is made here if no machine has yet: Vagrant waits for SSH as soon as a machine starts.
    """
    found = network(lab)
    if found is None:
        raise LabError(f"network {lab.name} is gone", hint="vagrant/lab up")
    bridge = found["network_interface"]
    shown = _ip("-json", "address", "show", "dev", bridge)
    if shown.returncode:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        shown = _ip("-json", "address", "show", "dev", bridge)
    links = json.loads(shown.stdout or "[]")
    mac = hardware_address(lab.host_address)
    if any(link.get("address") != mac for link in links):
        # A bridge without an address of its own takes that of whichever machine's interface comes and goes.
        _ip("link", "set", bridge, "address", mac)
    held = [entry.get("local") for link in links for entry in link.get("addr_info", [])]
    if lab.host_address not in held:
        added = _ip("address", "add", f"{lab.host_address}/24", "dev", bridge)
        if added.returncode:
            raise LabError(f"cannot give this host {lab.host_address} on {bridge}: {added.stderr.strip()}")


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, env=environment())
