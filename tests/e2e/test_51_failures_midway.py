"""What goes wrong in the middle of the first apply is said at once in one message, and the next apply goes on."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.applying import Applying, step
from tests.support.cluster import Bundle
from tests.support.damaged_store import copied_store, flip_a_byte
from tests.support.kubectl import Kubectl
from tests.support.lab import Lab
from tests.support.program import Freehold
from tests.support.refusal import Inventories, check_refused

from freehold_agent.contract import paths
from freehold_installer.bundle.store import VERIFIED

AT_ONCE = 100.0
"""Seconds on a busy host; whoever waits for bytes or machines that will not come needs 120."""
STORE = paths.STORE


@pytest.fixture(scope="module")
def inventory(spare_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spare machines as a cluster."""
    base: dict[str, Any] = {**spare_lab.inventory(), "name": "midway"}
    return Inventories(base, tmp_path_factory.mktemp("inventories"))()


@pytest.fixture(scope="module")
def freehold(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Freehold:
    """The command with a state directory for this cluster."""
    return Freehold(inventory, tmp_path_factory.mktemp("state"))


def on(lab: Lab, machine: str, script: str) -> str:
    """Run a script on a machine past SSH; return what it said."""
    return lab.exec(machine, "bash", "-euc", script).stdout


def test_bytes_that_are_not_what_they_should_be(freehold: Freehold, tmp_path: Path) -> None:
    """A machine refuses a damaged file whatever its times say; nobody waits for it, and the file is named."""
    file = flip_a_byte(copied_store(tmp_path / "cache"), "bin/coredns")
    os.utime(file, ns=(VERIFIED, VERIFIED))
    began = time.monotonic()
    answer = freehold("apply", "--yes", environment={"FREEHOLD_CACHE": str(tmp_path / "cache")})
    assert time.monotonic() - began < AT_ONCE
    check_refused(answer, 3, "cp1: bin/coredns", "sha256", "freehold bundle verify")


def test_the_connection_is_lost(spare_lab: Lab, freehold: Freehold) -> None:
    """When a machine goes away in the middle the run ends at once and says which, and how to continue."""
    applying = Applying(freehold)
    assert applying.until(step("starting")), "".join(applying.said)
    began = time.monotonic()
    on(spare_lab, "cp1", "pkill -KILL -f '^sshd: freehold'")
    code, said = applying.end(AT_ONCE)
    assert time.monotonic() - began < AT_ONCE
    assert code in (1, 5), said
    error = applying.error()
    assert error["message"].startswith("cp1: "), error
    assert "connection was lost" in error["message"], error
    assert error["continue"].startswith("freehold apply"), error
    assert "Traceback" not in said


def test_the_disk_fills_up(spare_lab: Lab, freehold: Freehold) -> None:
    """A disk that was large enough at first and is full now: machine and disk are named, exit code 1."""
    on(spare_lab, "cp1", f"mkdir -p {STORE}; mount -t tmpfs -o size=96m none {STORE}")
    try:
        began = time.monotonic()
        answer = freehold("apply", "--yes")
        assert time.monotonic() - began < AT_ONCE
    finally:
        # What was started from there keeps it busy.
        on(spare_lab, "cp1", f"umount --lazy {STORE}")
    message = check_refused(
        answer, 1, "cp1", "no space left on the disk of", "make room", "to continue: freehold apply --yes"
    )
    assert STORE in message


def test_the_next_apply_goes_on(spare_lab: Lab, freehold: Freehold) -> None:
    """After all that an apply with a good bundle and a good disk makes the whole cluster."""
    answer = freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    assert freehold("plan").code == 0
    kubectl = Kubectl(Bundle().file("bin/kubectl"), freehold.state("midway") / "kubeconfig")
    kubectl.wait("nodes --all", "condition=Ready")
    for machine in spare_lab.machines:
        assert on(spare_lab, machine, f"find {STORE} -name '*.part'") == "", machine
        check = f'cd {STORE}; for file in *; do echo "$file  $file"; done | sha256sum --check --quiet'
        assert on(spare_lab, machine, check) == "", machine
