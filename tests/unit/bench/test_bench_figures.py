"""Numbers of several runs become one figure, and figures become tables."""

from bench.figures import by_key, figure, number, table


def test_a_figure_is_least_median_and_most() -> None:
    """The median is what is told first, and the extremes stand beside it."""
    found = figure([3.0, 1.0, 2.0, 9.0])
    assert found is not None
    assert (found.least, found.median, found.most, found.runs) == (1.0, 2.5, 9.0, 4)
    assert found.text() == "1.0 / 2.5 / 9.0"


def test_one_run_shows_one_number() -> None:
    """A single run must not look like three that agree."""
    found = figure([12.345])
    assert found is not None
    assert found.text(2) == "12.35"


def test_missing_values_are_left_out() -> None:
    """A run that did not see something says nothing about it; no run at all gives no figure."""
    found = figure([None, 4.0])
    assert found is not None
    assert found.runs == 1
    assert figure([None]) is None


def test_keys_that_only_some_runs_have_are_kept() -> None:
    """A phase that was renamed or is new between runs does not lose the others."""
    found = by_key([{"a": 1.0}, {"a": 3.0, "b": 5.0}])
    assert {key: (value.median, value.runs) for key, value in found.items()} == {"a": (2.0, 2), "b": (5.0, 1)}


def test_a_number_is_found_at_its_path() -> None:
    """What is not there is None, never an error: older results lack what newer ones have."""
    record = {"wall": 3, "seen": {"nodes": 1.5, "name": "x"}}
    assert number(record, ("wall",)) == 3.0
    assert number(record, ("seen", "nodes")) == 1.5
    assert number(record, ("seen", "dns")) is None
    assert number(record, ("wall", "more")) is None
    assert number(record, ("seen", "name")) is None


def test_a_table_lines_up() -> None:
    """Markdown that is also readable in a terminal."""
    assert table(("A", "Second"), [("long cell", "1"), ("b", "22")]) == (
        "| A         | Second |\n"
        "|-----------|--------|\n"
        "| long cell | 1      |\n"
        "| b         | 22     |"
    )  # fmt: skip


def test_a_table_without_rows_keeps_its_head() -> None:
    """Nothing was measured: the head alone, no error."""
    assert table(("Name", "X"), []) == "| Name | X   |\n|------|-----|"
