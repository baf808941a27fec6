"""The order of measurements, what is kept, and what a failure does to the rest. No machine is touched."""

import json
from pathlib import Path
from typing import Any

import bench.__main__ as command
import pytest
from bench import measurements
from bench.machines import Lab
from bench.measurements import MEASUREMENTS, SHAPES, Bench, planned


class RecordingBench(Bench):
    """Notes what would be done to the lab."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Lab(), directory, lambda _: None)
        self.done: list[str] = []

    def _renew(self, machines: Any) -> None:
        self.done.append("fresh " + " ".join(machines))
        self.untouched |= set(machines)

    def inventory(self, shape: str) -> str:
        return shape

    def freehold(self, *arguments: str, codes: Any = (0,)) -> Any:
        self.done.append(" ".join(arguments))

    def timed(self, shape: str, *arguments: str, watch: bool = False, codes: Any = (0,)) -> dict[str, Any]:
        self.done.append(f"timed {' '.join(arguments)} -i {shape}")
        return {"wall": 1.0, "events": ["left out"]}


@pytest.fixture
def lab(tmp_path: Path) -> RecordingBench:
    return RecordingBench(tmp_path)


def of_machines() -> list[str]:
    """Names of the measurements that a pretended lab can do."""
    return [name for name in MEASUREMENTS if name not in ("bundle-warm", "idle")]


def test_a_round_prepares_nothing_twice(lab: RecordingBench) -> None:
    """Each measurement begins where the one before it ended, so that three rounds fit in minutes."""
    for name in of_machines():
        MEASUREMENTS[name][1](lab)
    assert lab.done == [
        "fresh cp1 w1 w2",
        "timed apply --yes -i 1+0",
        "fresh cp1 w1 w2",
        "timed plan -i 1+1",
        "timed apply --yes -i 1+1",
        "timed plan -i 1+1",
        "timed apply --yes -i 1+1",
        "timed apply --yes -i 1+2",
        "timed reset --yes --machine w2 -i 1+2",
        "timed reset --yes -i 1+1",
        "fresh cp1 w1 w2",
        "timed apply --yes -i 1+2",
    ]


@pytest.mark.parametrize(
    ("name", "prepared"),
    [
        ("apply-converged", ["fresh cp1 w1 w2", "apply --yes -i 1+1"]),
        ("worker", ["fresh cp1 w1 w2", "apply --yes -i 1+1"]),
        ("reset-worker", ["fresh cp1 w1 w2", "apply --yes -i 1+2"]),
        ("apply-1+2", ["fresh cp1 w1 w2"]),
    ],
)
def test_one_alone_brings_the_lab_to_where_it_begins(
    lab: RecordingBench, name: str, prepared: list[str]
) -> None:
    """`--only NAME` works on a lab in any state, and what prepares is not timed."""
    MEASUREMENTS[name][1](lab)
    assert lab.done[:-1] == prepared


def test_a_worker_that_left_is_made_anew_before_it_joins_again(lab: RecordingBench) -> None:
    """A machine that was reset is not a fresh one."""
    for name in ("worker", "reset-worker", "worker"):
        MEASUREMENTS[name][1](lab)
    assert lab.done[-2:] == ["fresh w2", "timed apply --yes -i 1+2"]


def test_a_failure_is_told_and_the_next_begins_from_fresh_machines(
    lab: RecordingBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad run costs its own figure only."""

    def broken(bench: Bench) -> dict[str, Any]:
        bench.have_cluster("1+1")
        raise SystemExit("freehold reset ended with 1")

    monkeypatch.setitem(measurements.MEASUREMENTS, "reset-all", ("reset", broken))
    results = command.measured(lab, ["reset-all", "apply-1+2"], 1, tmp_path)
    assert results["failed"] == {"reset-all": [{"run": 1, "why": "freehold reset ended with 1"}]}
    assert lab.done[-2:] == ["fresh cp1 w1 w2", "timed apply --yes -i 1+2"]
    assert len(results["records"]["apply-1+2"]) == 1


def test_changes_are_counted_in_the_output_of_plan_and_apply() -> None:
    """`apply` wraps the plan that `plan` prints; other commands have none."""
    plan = {"machines": [{"changes": [1, 2]}, {"changes": []}], "objects": [3], "toBeIssued": ["a key"]}
    assert planned(plan) == planned({"plan": plan, "seconds": 1.0}) == 4
    assert planned({"removed": {}}) is None


def test_a_converged_apply_that_changes_something_is_no_figure(
    lab: RecordingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that is changed at each apply would be measured as if it were nothing."""
    monkeypatch.setattr(lab, "timed", lambda *_, **__: {"wall": 9.0, "changes": 2})
    with pytest.raises(SystemExit, match="2 changes"):
        MEASUREMENTS["apply-converged"][1](lab)


def test_records_are_kept_as_files(lab: RecordingBench, tmp_path: Path) -> None:
    """Events go into a file for each run, for timelines; the summary is small."""
    command.measured(lab, ["plan-converged"], 2, tmp_path)
    assert json.loads((tmp_path / "plan-converged-2.json").read_text())["events"] == ["left out"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["records"]["plan-converged"] == [{"wall": 1.0}, {"wall": 1.0}]


def test_names_are_measured_in_the_order_of_a_round() -> None:
    """However they are written, so that they prepare each other."""
    assert command.parsed(["--only", "reset-all,apply-1+0"]).only == ["apply-1+0", "reset-all"]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo must not measure nothing for a quarter of an hour."""
    with pytest.raises(SystemExit) as ended:
        command.parsed(["--only", "aply-1+0"])
    assert ended.value.code == 2
    assert "no such measurement: aply-1+0" in capsys.readouterr().err


def test_shapes_have_a_control_plane_and_grow() -> None:
    """Every larger shape holds the smaller one, so that a cluster can grow into it."""
    assert set(SHAPES["1+0"]) < set(SHAPES["1+1"]) < set(SHAPES["1+2"])
