"""Where the seconds of an apply go: a Gantt chart per machine from the events of `freehold apply --output json`.

    python -m bench.timeline EVENTS.jsonl [--svg FILE]

EVENTS.jsonl is the standard error of that command, or a file of `bench/results` with `events`.
"""

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.product import parse_events

COLUMNS = 72
SHORTEST = 0.08
"""Seconds below which a change gets no line of its own in the text."""
COLOURS = {
    "receive": "#9aa5b1",
    "converge": "#3b7dd8",
    "prepare": "#e08a1e",
    "join": "#2e9e5b",
    "phase": "#d9dde2",
}


@dataclass(frozen=True)
class Bar:
    machine: str
    track: str
    """`phase`, `lane`, or the verb of a program."""
    label: str
    start: float
    end: float
    """Seconds since the start of the command."""

    @property
    def seconds(self) -> float:
        return self.end - self.start


def bars(events: Sequence[Mapping[str, Any]], titles: Mapping[str, str] | None = None) -> list[Bar]:
    """Return everything that took time, by machine, in order of its start. `titles`: digest -> name."""
    names = titles or {}
    found: list[Bar] = []
    for event in events:
        kind = event.get("event")
        if kind == "phase-finished":
            end = float(event["time"])
            found.append(Bar(event["machine"], "phase", event["phase"], end - float(event["seconds"]), end))
        elif kind == "changed":
            end = float(event["time"])
            name = event["key"]
            family, _, rest = name.partition(":")
            if family == "artifact":
                name = names.get(rest, rest[:12])
            found.append(Bar(event["machine"], event["program"], name, end - float(event["seconds"]), end))
    merged: dict[tuple[str, str, float, float], list[str]] = {}
    for bar in found:
        key = (bar.machine, bar.track, round(bar.start, 2), round(bar.end, 2))
        merged.setdefault(key, []).append(bar.label)
    grouped = [
        Bar(machine, track, _together(labels), start, end)
        for (machine, track, start, end), labels in merged.items()
    ]
    return sorted(grouped, key=lambda bar: (bar.machine, bar.start, -bar.end))


def text(found: Sequence[Bar], shortest: float = SHORTEST) -> str:
    """Return the chart as lines; bars shorter than `shortest` seconds are left out."""
    end = max((bar.end for bar in found), default=1.0)
    lines = []
    for machine in dict.fromkeys(bar.machine for bar in found):
        lines.append(f"{machine}  (one column is {end / COLUMNS:.2f} s)")
        for bar in found:
            if bar.machine != machine or (bar.seconds < shortest and bar.track != "phase"):
                continue
            first = int(bar.start / end * COLUMNS)
            width = max(1, int(bar.end / end * COLUMNS) - first)
            mark = "=" if bar.track == "phase" else "#"
            drawn = " " * first + mark * min(width, COLUMNS - first)
            lines.append(f"{bar.start:7.2f} {bar.seconds:6.2f}  {drawn:<{COLUMNS}} {bar.track}: {bar.label}")
    return "\n".join(lines)


def svg(found: Sequence[Bar], shortest: float = 0.02) -> str:
    """Return the chart as an SVG document."""
    shown = [bar for bar in found if bar.seconds >= shortest or bar.track == "phase"]
    end = max((bar.end for bar in shown), default=1.0)
    scale, row = 900 / end, 14
    parts: list[str] = []
    y = 24
    for second in range(int(end) + 1):
        x = 100 + second * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="100%" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="12" fill="#888">{second}</text>')
    for machine in dict.fromkeys(bar.machine for bar in shown):
        parts.append(f'<text x="4" y="{y + 10}" font-weight="bold">{html.escape(machine)}</text>')
        for bar in (bar for bar in shown if bar.machine == machine):
            x, width = 100 + bar.start * scale, max(bar.seconds * scale, 1)
            colour = COLOURS.get(bar.track, "#777")
            label = html.escape(f"{bar.label} {bar.seconds:.2f}")
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{row - 3}" fill="{colour}"/>'
            )
            parts.append(f'<text x="{x + width + 3:.1f}" y="{y + 9}">{label}</text>')
            y += row
        y += row
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="1300" height="{y + 8}" font-family="sans-serif"'
    return f'{head} font-size="9">\n' + "\n".join(parts) + "\n</svg>\n"


def titles_of_bundle(release: str = "1.37.2", architecture: str = "amd64") -> dict[str, str]:
    """Return the names of the bundle's files by digest; nothing when there is no bundle here."""
    from freehold_installer.bundle.store import Store
    from freehold_installer.bundle.zipapps import stored_zipapps
    from freehold_installer.errors import FreeholdError

    try:
        store = Store()
        entries = [*store.load_manifest(release, architecture).entries, *stored_zipapps(store).values()]
    except (FreeholdError, OSError):
        return {}
    return {entry.sha256: entry.name for entry in entries}


def _together(labels: Sequence[str]) -> str:
    shown = [label.rsplit("/", 1)[-1] if label.startswith(("file:", "link:")) else label for label in labels]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=Path)
    parser.add_argument("--svg", type=Path, help="also write a chart into this file")
    parser.add_argument("--shortest", type=float, default=SHORTEST, help="seconds; shorter bars are left out")
    arguments = parser.parse_args()
    content = arguments.events.read_text()
    events = (
        json.loads(content)["events"] if content.startswith('{"begun"') else parse_events(content, 0.0)[0]
    )
    first = min((event["time"] for event in events if "time" in event), default=0.0)
    if first > 1e6:
        for event in events:
            event["time"] = event.get("time", first) - first
    found = bars(events, titles_of_bundle())
    print(text(found, arguments.shortest))
    if arguments.svg:
        arguments.svg.write_text(svg(found))


if __name__ == "__main__":
    main()
