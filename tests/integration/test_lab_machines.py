"""The lab's machines are what the other tests take them for."""

import ipaddress
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    lab = Lab.ensure("1+2")
    yield lab
    lab.up()


def boot_id(lab: Lab, name: str) -> str:
    return lab.exec(name, "cat", "/proc/sys/kernel/random/boot_id").stdout.strip()


def test_every_machine_lets_the_user_in_by_key_and_become_root(machines: Lab) -> None:
    """SSH with the key and the pinned host key gives the user freehold, who may use sudo without a password."""
    for name in machines.machines:
        said = machines.ssh(name, "whoami; hostname; sudo -n id -u").stdout.split()
        assert said == ["freehold", name, "0"]


def test_host_keys_are_pinned_and_differ(machines: Lab) -> None:
    """The generated inventory holds each machine's own key, and another machine's key is refused."""
    hosts = machines.inventory()["hosts"]
    keys = {name: host["hostKey"] for name, host in hosts.items()}
    assert set(keys) == set(machines.machines)
    assert len(set(keys.values())) == len(keys)
    scanned = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", machines.machines["w1"].address],
        capture_output=True,
        text=True,
        check=True,
    )
    assert scanned.stdout.split()[1:3] == keys["w1"].split()


def test_a_machine_has_no_way_out(machines: Lab) -> None:
    """There is no default route and no address outside the lab's network, as on an air-gapped site."""
    for name, machine in machines.machines.items():
        assert machines.exec(name, "ip", "route", "show", "default").stdout == ""
        assert ipaddress.ip_address(machine.address) in ipaddress.ip_network(machines.subnet)
        assert machines.exec(name, "ping", "-c1", "-W1", "192.0.2.1", check=False).returncode == 2


def test_machines_see_each_other(machines: Lab) -> None:
    """Every machine reaches every other by its fixed address."""
    for name in machines.machines:
        for other in machines.machines.values():
            machines.exec(name, "ping", "-c1", "-W20", other.address)


def test_a_machine_has_control_groups_and_identity_of_its_own(machines: Lab) -> None:
    """Machines share neither systemd's groups nor a machine id, and all their units run."""
    identities = set()
    for name in machines.machines:
        identities.add(machines.exec(name, "cat", "/etc/machine-id").stdout)
        group = machines.exec(name, "cat", "/proc/1/cgroup").stdout
        assert "/.." not in group
        mounts = machines.exec(name, "cat", "/proc/1/mountinfo").stdout.splitlines()
        assert not [line for line in mounts if line.split()[4].startswith("/sys/fs/cgroup") and "/.." in line]
        assert machines.exec(name, "systemctl", "is-system-running", "--wait").stdout.strip() == "running"
    assert len(identities) == len(machines.machines)


def test_a_reboot_is_a_new_boot_of_the_same_disk(machines: Lab) -> None:
    """After a reboot the boot id is new; files, host key and the journal of the boot before are still there."""
    before = boot_id(machines, "w1")
    machines.exec(
        "w1", "sh", "-c", "echo kept >/root/kept; echo kept >/var/lib/kubelet/kept; logger -t lab mark; sync"
    )
    machines.exec("w1", "journalctl", "--sync")
    machines.reboot("w1")
    assert boot_id(machines, "w1") != before
    assert machines.exec("w1", "cat", "/root/kept", "/var/lib/kubelet/kept").stdout.split() == [
        "kept",
        "kept",
    ]
    machines.wait_for_ssh("w1")
    earlier = machines.exec("w1", "journalctl", "--boot=" + before.replace("-", ""), "--identifier=lab")
    assert "mark" in earlier.stdout


def test_a_reboot_leaves_the_other_machines_alone(machines: Lab) -> None:
    """One machine's shutdown stops nothing on another (they once shared control groups)."""
    shown = ("systemctl", "show", "ssh.service", "--property=ActiveEnterTimestampMonotonic,MainPID,SubState")
    before = machines.exec("w2", *shown).stdout
    machines.reboot("w1")
    assert machines.exec("w2", *shown).stdout == before
    assert machines.exec("w2", "systemctl", "restart", "ssh.service").returncode == 0
    machines.wait_for_ssh("w2")


def test_a_power_cut_ends_everything_at_once(machines: Lab) -> None:
    """A cut machine is off without a shutdown, and starts again from its disk."""
    machines.exec("w1", "sh", "-c", "echo kept >/root/cut")
    before = boot_id(machines, "w1")
    machines.power_cut("w1", stay_off=True)
    assert machines.status()["w1"] == "exited"
    machines.start("w1")
    assert machines.exec("w1", "cat", "/root/cut").stdout == "kept\n"
    assert boot_id(machines, "w1") != before
    machines.wait_for_ssh("w1")


def test_up_with_everything_up_is_quick_and_changes_nothing(machines: Lab) -> None:
    """A second `up` touches no machine, not even the inventory file."""
    before = {name: boot_id(machines, name) for name in machines.machines}
    written = machines.inventory_path.stat().st_mtime_ns
    started = time.monotonic()
    machines.up()
    assert time.monotonic() - started < 60
    assert {name: boot_id(machines, name) for name in machines.machines} == before
    assert machines.inventory_path.stat().st_mtime_ns == written


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to kill a machine's processes on the host")
def test_up_revives_a_machine_that_died_with_its_monitor(machines: Lab) -> None:
    """When all of a machine's processes are gone, its monitor's too, `up` starts it again with its disk."""
    machines.exec("w2", "sh", "-c", "echo kept >/root/died")
    inside = machines.exec("w2", "cat", "/proc/sys/kernel/random/boot_id").stdout
    shown = subprocess.run(
        [
            "podman",
            "inspect",
            machines.machines["w2"].container,
            "--format={{.State.ConmonPid}} {{.State.Pid}}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    for pid in shown.stdout.split():
        os.kill(int(pid), 9)
    while any(Path(f"/proc/{pid}/exe").exists() for pid in shown.stdout.split()):
        time.sleep(0.05)
    assert machines.status()["w2"] == "dead"
    machines.up()
    assert machines.exec("w2", "cat", "/root/died").stdout == "kept\n"
    assert boot_id(machines, "w2") != inside.strip()


def test_a_fresh_machine_has_forgotten_everything(machines: Lab) -> None:
    """`fresh` gives an empty disk and a new host key, and the inventory knows it."""
    machines.exec("w2", "touch", "/root/forgotten", "/var/lib/containerd/forgotten")
    before = machines.inventory()["hosts"]
    machines.fresh("w2")
    left = machines.exec("w2", "ls", "/root/forgotten", "/var/lib/containerd/forgotten", check=False)
    assert left.returncode == 2
    after = machines.inventory()["hosts"]
    assert after["w2"]["hostKey"] != before["w2"]["hostKey"]
    assert {name: after[name] for name in ("cp1", "w1")} == {name: before[name] for name in ("cp1", "w1")}
    machines.wait_for_ssh("w2")
