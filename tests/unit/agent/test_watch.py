"""What glances and looks remember: looks that are due, drift, the daily reading."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from tests.support.a_node import a_document
from tests.support.watched_machine import PROGRAM, RESOURCES, Kernel, WatchedMachine

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Artifact, Resource, Unit
from freehold_agent.drift import find_drift
from freehold_agent.effects import KUBE_PROXY
from freehold_agent.rehash import DAY, Rehash
from freehold_agent.store import HashCache
from freehold_agent.watch import LOOKS_IN_A_ROW, SECONDS_PER_LOOK, Watch


@pytest.fixture
def machine(tmp_path: Path) -> WatchedMachine:
    return WatchedMachine(tmp_path)


@pytest.fixture
def kernel(machine: WatchedMachine) -> Kernel:
    return Kernel(machine)


def test_a_unit_that_somebody_started_meanwhile_is_left_alone(
    machine: WatchedMachine, kernel: Kernel
) -> None:
    """What a glance saw is of no use once another run has made the unit anew."""
    watch = Watch(str(machine.root))
    watch._effects = kernel.effects
    assert watch.begin(a_document(), RESOURCES) == {}
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "kube-proxy"): {"nat-prerouting": 0}}, 2
    assert watch.changed()
    machine.runs(KUBE_PROXY, "2")
    kernel.rules, kernel.number = {**kernel.rules, ("ip", "kube-proxy"): {"nat-prerouting": 1}}, 3
    assert watch.begin(a_document(), RESOURCES) == {}


def test_drift_names_what_is_not_ours(machine: WatchedMachine) -> None:
    """Drop-ins of our units and foreign networks; not our own file, nor those of other units."""
    root = str(machine.root)
    ours: list[Resource] = [Unit("kubelet.service")]
    machine.write(paths.CNI_CONFLIST, "{}")
    machine.write("/etc/systemd/system/sshd.service.d/x.conf", "")
    machine.write("/etc/systemd/system/kubelet.service.d/readme", "")
    assert find_drift(a_document(), ours, root) == []
    machine.write("/etc/systemd/system/kubelet.service.d/50-mine.conf", "")
    machine.write("/run/systemd/system.control/kubelet.service", "")
    machine.write(paths.CNI_CONFIG + "/05-first.conf", "{}")
    machine.write(paths.CNI_CONFIG + "/99-last.conflist", "{}")
    places = [one.place for one in find_drift(a_document(), ours, root)]
    assert places == [
        "/run/systemd/system.control/kubelet.service",
        "/etc/systemd/system/kubelet.service.d/50-mine.conf",
        paths.CNI_CONFIG + "/05-first.conf",
        paths.CNI_CONFIG + "/99-last.conflist",
    ]


def test_every_file_is_read_once_a_day(tmp_path: Path) -> None:
    """Within a day each has its turn exactly once, at even distances; after a start nothing is read at once."""
    artifacts = [Artifact(str(number), f"{number:064x}", 1) for number in range(40)]
    clock = [1e9]
    reading = Rehash("w1", lambda: clock[0], str(tmp_path))
    assert reading.next(artifacts) is None
    turns = []
    for _ in range(int(DAY / 60)):
        clock[0] += 60
        artifact = reading.next(artifacts)
        if artifact is not None:
            turns.append(artifact.title)
    assert sorted(turns) == sorted(artifact.title for artifact in artifacts)


@pytest.fixture
def reading(machine: WatchedMachine, monkeypatch: pytest.MonkeyPatch) -> Rehash:
    """What reads files anew, when it is the program's turn, whose digest is known."""
    path = machine.path(paths.STORE + "/" + PROGRAM.sha256)
    HashCache(str(machine.path(paths.HASHES))).remember({str(path): PROGRAM.sha256})
    turn = Rehash("w1", root=str(machine.root))
    monkeypatch.setattr(turn, "next", lambda artifacts: artifacts[0])
    return turn


def test_a_rotten_file_is_no_longer_believed(machine: WatchedMachine, reading: Rehash) -> None:
    """A file whose bytes differ behind unchanged times is found, and the next look sees its true digest."""
    path, hashes = machine.path(paths.STORE + "/" + PROGRAM.sha256), str(machine.path(paths.HASHES))
    before = os.stat(hashes).st_mtime_ns
    assert reading.check([PROGRAM]) is None
    assert os.stat(hashes).st_mtime_ns == before, "nothing is written for a file that is right"
    path.write_bytes(b"Xrogram")
    HashCache(hashes).remember({str(path): PROGRAM.sha256})  # as if its times had not changed
    assert reading.check([PROGRAM]) == PROGRAM
    assert HashCache(hashes).digest(str(path)) == hashlib.sha256(b"Xrogram").hexdigest()


def test_a_file_that_the_disk_does_not_give_back_is_damaged(machine: WatchedMachine, reading: Rehash) -> None:
    """An I/O error is no failure of the glance: the next look finds a file that is to be fetched again."""
    path, hashes = machine.path(paths.STORE + "/" + PROGRAM.sha256), str(machine.path(paths.HASHES))
    path.unlink()
    path.symlink_to("/proc/self/mem")  # nothing can be read at its beginning: EIO
    assert reading.check([PROGRAM]) == PROGRAM
    assert HashCache(hashes).digest(str(path)) not in (None, PROGRAM.sha256)


def test_glances_cannot_call_for_looks_without_end(machine: WatchedMachine, kernel: Kernel) -> None:
    """A unit that crashes every second gets some looks at once, and then one in so many seconds."""
    clock = [0.0]
    watch = Watch(str(machine.root), lambda: clock[0])
    watch._effects = kernel.effects
    looks = 0
    for second in range(0, 1000, 10):
        clock[0] = float(second)
        watch.begin(a_document(), RESOURCES)
        machine.runs("kubelet.service", str(second))
        looks += watch.changed()
    assert looks <= LOOKS_IN_A_ROW + 1000 / SECONDS_PER_LOOK
    assert looks >= 1000 / SECONDS_PER_LOOK
