"""The whole cluster leaves: half installed, with a machine that is off, twice; and an apply makes a new one."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.cluster import Cluster
from tests.support.inventory_of_machine import Inventory, differences, inventory_of
from tests.support.kubectl import Answer, Kubectl
from tests.support.pods import serve_echo
from tests.support.whole import Accident, network_works, nothing_to_apply

KEPT_BY_DESIGN = ("/etc/cni",)
"""Directories that stay, empty: a containerd that was there before would end without them."""
UNREACHABLE = 5
Event = dict[str, Any]


def test_what_can_be_reached_is_reset(
    cluster: Cluster, echo: Kubectl, untouched: dict[str, Inventory]
) -> None:
    """One machine is off: the others are clean, the exit code and one line tell the rest, the keys stay."""
    away = cluster.workers[0]
    cluster.lab.power_cut(away, stay_off=True)
    story = Accident("reset of all but one")
    answer = cluster.freehold("reset", "--yes")
    story.tell("done")
    assert answer.code == UNREACHABLE, str(answer)
    assert f"{away}: " in answer.stderr
    assert "cannot be reached" in answer.stderr
    _are_untouched(cluster, untouched, *(node for node in cluster.nodes if node != away))
    assert (cluster.state / "pki" / "ca.key").exists(), "the work is not done"
    assert "Traceback" not in answer.stderr


def test_the_same_command_goes_on(cluster: Cluster, untouched: dict[str, Inventory]) -> None:
    """Once the machine is up, it is reset, too; then no key and no kubeconfig is left with the operator."""
    away = cluster.workers[0]
    cluster.lab.start(away)
    cluster.lab.wait_for_ssh(away)
    answer = cluster.freehold("reset", "--yes")
    assert answer.code == 0, str(answer)
    # Its boot may still be going on.
    cluster.run(away, "timeout 50 systemctl is-system-running --wait", check=False)
    _are_untouched(cluster, untouched, away)
    _no_keys(cluster)


def test_a_second_reset_has_nothing_to_do(cluster: Cluster, untouched: dict[str, Inventory]) -> None:
    """It says so and changes nothing."""
    answer = cluster.freehold("reset", "--yes")
    assert answer.code == 0, str(answer)
    assert "nothing to do" in answer.stdout + answer.stderr
    _are_untouched(cluster, untouched, *cluster.nodes)


def _phase(event: Event) -> bool:
    return event.get("event") == "phase-started" and event.get("phase") == "node"


def _joining(event: Event) -> bool:
    return event.get("event") == "step" and "joining" in str(event.get("text"))


@pytest.mark.parametrize("moment", [_phase, _joining], ids=["while files arrive", "while a node joins"])
def test_half_an_install_can_be_reset(
    cluster: Cluster, untouched: dict[str, Inventory], moment: Callable[[Event], bool]
) -> None:
    """The installer is killed in the middle of the first apply: a reset leaves nothing of it."""
    _killed_apply(cluster, moment)
    story = Accident("reset of half an install")
    answer = cluster.freehold("reset", "--yes")
    story.tell("done")
    assert answer.code == 0, str(answer)
    _are_untouched(cluster, untouched, *cluster.nodes)
    _no_keys(cluster)


def test_a_new_cluster_can_be_made(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """The same machines become a cluster again, with new keys, and it works."""
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    cluster.load_images()
    serve_echo(cluster, kubectl, echo.namespace)
    network_works(cluster, echo)
    nothing_to_apply(cluster)


def test_an_apply_without_its_keys_is_refused(cluster: Cluster, tmp_path: Any) -> None:
    """With another state directory new keys would be made and the cluster's data be unreadable: nothing is changed."""
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    answer = cluster.freehold("apply", "--yes", environment=environment)
    assert answer.code == 4, str(answer)
    assert f"{cluster.control_plane} was installed with keys that are not in" in answer.stderr
    nothing_to_apply(cluster)
    shutil.rmtree(tmp_path)


def _killed_apply(cluster: Cluster, moment: Callable[[Event], bool]) -> None:
    """Start an apply and kill it with SIGKILL when an event says so."""
    process = subprocess.Popen(
        cluster.freehold.command("apply", "--yes", "--output", "json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=cluster.freehold.variables(),
    )
    assert process.stderr is not None
    said: list[str] = []
    with process.stderr as stream:
        for line in stream:
            said.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if moment(event):
                break
        else:
            raise AssertionError("that moment never came:\n" + Answer("apply", 0, "", "".join(said)).stderr)
        # In the middle of what begins now.
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    process.wait()


def _are_untouched(cluster: Cluster, untouched: dict[str, Inventory], *machines: str) -> None:
    found = [
        f"{machine}: {line}"
        for machine in machines
        for line in differences(
            untouched[machine], inventory_of(cluster.lab, machine), expected=KEPT_BY_DESIGN
        )
    ]
    assert not found, "\n".join(found)


def _no_keys(cluster: Cluster) -> None:
    """No private key, certificate or token is left in the operator's state directory."""
    left = [path for path in cluster.state.rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"journal.jsonl", "known_hosts", "lock", "lock.json"}, left
    for path in left:
        content = path.read_text(errors="replace")
        assert "PRIVATE KEY" not in content, path
