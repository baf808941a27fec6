"""converge and units: reloads, restarts and what a killed run left to restart, with a pretended systemd."""

import os
from typing import Any, Dict, List

import pytest
from tests.support.converging import a_file, a_machine_below, a_unit, no_artifact, run

from freehold_agent.contract.resources import (
    Unit,
    key_of,
)
from freehold_agent.converge import converge
from freehold_agent.errors import StepFailed


@pytest.fixture
def machine(tmp_path):
    """A machine whose every path is below a temporary directory."""
    return a_machine_below(tmp_path)


def test_units_are_reloaded_once_and_neighbours_started_together(machine, tmp_path):
    """One reload serves all unit files; units with nothing between them are one call, in order otherwise."""
    first, second, third = (a_unit(tmp_path, name, "1") for name in ("a.service", "b.service", "c.service"))
    resources = [first[0], second[0], first[1], second[1], a_file(tmp_path / "between"), *third]
    run(machine, resources)
    assert machine.systemd.calls == [
        "enable a.service b.service",
        "daemon-reload",
        "restart a.service b.service",
        "enable c.service",
        "restart c.service",
    ]
    machine.systemd.calls.clear()
    assert run(machine, resources)[0].changes == ()
    assert machine.systemd.calls == []


def test_a_changed_unit_restarts_only_itself(machine, tmp_path):
    """New inputs lead to a reload and a restart of that unit, and of no other."""
    other = a_unit(tmp_path, "b.service", "1")
    run(machine, [*a_unit(tmp_path, "a.service", "1"), *other])
    machine.systemd.calls.clear()
    summary, _ = run(machine, [*a_unit(tmp_path, "a.service", "2"), *other])
    assert machine.systemd.calls == ["daemon-reload", "restart a.service"]
    assert {change.key for change in summary.changes} == {
        "file:" + str(tmp_path / "units/a.service"),
        "unit:a.service",
    }


def test_a_restart_that_a_killed_run_never_made_is_seen(machine, tmp_path):
    """When files are new but the process is old, only the process counts."""
    run(machine, a_unit(tmp_path, "a.service", "1"))
    (tmp_path / "units" / "a.service").write_bytes(a_unit(tmp_path, "a.service", "2")[0].content)
    machine.systemd.calls.clear()
    summary, _ = run(machine, a_unit(tmp_path, "a.service", "2"))
    assert [change.key for change in summary.changes] == ["unit:a.service"]
    assert machine.systemd.calls == ["daemon-reload", "restart a.service"]


def test_a_unit_that_does_not_start_says_why(machine, tmp_path):
    """The error names the unit and carries its journal, and the event says failed."""
    machine.systemd.refuse.add("a.service")
    events: List[Dict[str, Any]] = []
    with pytest.raises(StepFailed, match=r"a\.service did not start: it is inactive") as caught:
        converge(a_unit(tmp_path, "a.service", "1"), "node", no_artifact, events.append, machine=machine)
    assert caught.value.detail == "it said why"
    assert events[-1]["state"] == "failed"


def test_a_file_put_right_restarts_its_reader(machine, tmp_path):
    """The process may have read what was wrong; afterwards nothing is left to do."""
    file = a_file(tmp_path / "settings", b"right")
    wanted = [file, *a_unit(tmp_path, "a.service", "1")[:1], Unit("a.service", "1", reads=(key_of(file),))]
    run(machine, wanted)
    (tmp_path / "settings").write_bytes(b"wrong")
    machine.systemd.calls.clear()
    run(machine, wanted)
    assert machine.systemd.calls == ["restart a.service"]
    assert run(machine, wanted)[0].changes == ()


def test_a_reader_is_restarted_even_if_the_run_was_killed(machine, tmp_path):
    """The restart is due from before the file is right until the unit runs again."""
    file = a_file(tmp_path / "settings", b"right")
    wanted = [file, *a_unit(tmp_path, "a.service", "1")[:1], Unit("a.service", "1", reads=(key_of(file),))]
    run(machine, wanted)
    (tmp_path / "settings").write_bytes(b"wrong")
    machine.systemd.refuse.add("a.service")
    machine.systemd.running.clear()
    with pytest.raises(StepFailed):
        run(machine, wanted)
    assert (tmp_path / "settings").read_bytes() == b"right"
    machine.systemd.refuse.clear()
    machine.systemd.restart("a.service")
    machine.systemd.calls.clear()
    run(machine, wanted)
    assert machine.systemd.calls == ["restart a.service"]


def test_removed_units_are_stopped_before_their_files_go(machine, tmp_path):
    """Units leave in reverse order, then their files, then systemd forgets them."""
    run(machine, [*a_unit(tmp_path, "a.service", "1"), *a_unit(tmp_path, "b.service", "1")])
    machine.systemd.calls.clear()
    run(machine, [])
    assert machine.systemd.calls == ["stop b.service", "stop a.service", "daemon-reload"]
    assert machine.systemd.enabled == set()
    assert os.listdir(tmp_path / "units") in ([], ["multi-user.target.wants"])
