"""Numbers of several runs become one figure: least, median, most. Knows nothing of where they come from."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    least: float
    median: float
    most: float
    runs: int

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """Return `least / median / most`, or the one value of a single run."""
        if self.runs == 1:
            return f"{self.median * scale:.{digits}f}"
        return " / ".join(f"{value * scale:.{digits}f}" for value in (self.least, self.median, self.most))

    def to_json(self) -> dict[str, float]:
        return {"min": self.least, "median": self.median, "max": self.most, "runs": self.runs}


def figure(values: Iterable[float | None]) -> Figure | None:
    """Return the figure of these values, None among them left out; None when nothing is left."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return Figure(min(known), statistics.median(known), max(known), len(known))


def by_key(rows: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """Return a figure for each key, in the order in which keys are met; not every row needs every key."""
    keys = dict.fromkeys(key for row in rows for key in row)
    found = {key: figure(row.get(key) for row in rows) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def number(record: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """Return the number at a path of keys in nested JSON, or None when it is not there."""
    value: Any = record
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return float(value) if isinstance(value, int | float) else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up as plain text."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), ruler, *(line(row) for row in cells[1:])])
