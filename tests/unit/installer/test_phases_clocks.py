"""Clocks of machines against ours: latency is allowed for, and what is off is said once."""

from types import SimpleNamespace
from typing import Any

import pytest

from freehold_installer.phases import clocks, look

NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("asked", "told", "answered", "expected"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 25.0, 50.0, 0.0),
        (0.0, 60.0, 10.0, 50.0),
        (0.0, -60.0, 10.0, -60.0),
        (100.0, 100.0, 155.0, 0.0),
        (100.0, 155.0, 155.0, 0.0),
    ],
    ids=["same", "slow answer", "ahead", "behind", "told at once", "told late"],
)
def test_only_what_latency_cannot_explain_counts(
    asked: float, told: float, answered: float, expected: float
) -> None:
    """A machine's time anywhere between question and answer may be right, however long the answer took."""
    assert clocks.difference(NOON + asked, NOON + told, NOON + answered) == expected


@pytest.mark.parametrize("seconds", [0.0, 29.9, -29.9, 30.0])
def test_small_differences_are_none(seconds: float) -> None:
    """Half a minute is what clocks may differ by."""
    assert clocks.problems({"cp1": seconds, "w1": 0.0}) == []


def test_a_clock_that_is_off_is_one_sentence() -> None:
    """It names the machine, how far and which way, and what would come of it."""
    assert clocks.problems({"cp1": 0.4, "w1": -3600.0 * 3}) == [
        "w1: its clock is 3 hours behind that of this machine; certificates made here would not be valid there"
    ]
    (problem,) = clocks.problems({"cp1": 45.2})
    assert problem.startswith("cp1: its clock is 45 seconds ahead of that of this machine")


def test_our_own_clock_is_named_when_it_differs_from_all() -> None:
    """When all machines agree with each other, it is the operator's machine that is to be set."""
    (problem,) = clocks.problems({"cp1": 200.0, "w1": 201.0, "w2": 199.5})
    assert problem.startswith(
        "the clock of this machine is 3 minutes behind that of every machine of the cluster"
    )
    assert len(clocks.problems({"cp1": 200.0, "w1": 500.0})) == 2
    assert len(clocks.problems({"cp1": 200.0, "w1": -200.0})) == 2


def test_a_look_measures_around_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's time is compared with ours before the question and after the answer."""
    ours = iter([NOON, NOON + 40])

    def program(_request: Any, **_options: Any) -> dict[str, Any]:
        return {"facts": {"time": told}, "document": None, "owners": []}

    machine: Any = SimpleNamespace(program=program)
    monkeypatch.setattr(look.time, "time", lambda: next(ours))
    told = NOON + 20
    assert look.look_at(machine).ahead == 0.0
    ours = iter([NOON, NOON + 40])
    told = NOON + 100
    assert look.look_at(machine).ahead == 60.0
