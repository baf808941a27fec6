"""Progress of the program on a machine, as steps of its lane. No wording of the agent's is repeated elsewhere."""

from collections.abc import Callable
from typing import Any

from freehold_agent.contract.resources import split_key
from freehold_installer.engine.lanes import Lane

_SHOWN = {"unit": "starting", "artifact": "fetching", "user": "adding user"}
"""Kinds whose single changes a person wants to follow; files and links pass in milliseconds."""


def change_reporter(
    lane: Lane, also: Callable[[dict[str, Any]], None] | None = None
) -> Callable[[dict[str, Any]], None]:
    """Return a callback for `Machine.program` that shows what happens on the machine."""

    def report(event: dict[str, Any]) -> None:
        if also is not None:
            also(event)
        if event.get("event") == "change" and event.get("state") == "start":
            kind, name = split_key(event["key"])
            if kind in _SHOWN:
                lane.step(f"{_SHOWN[kind]} {event.get('title') or name}")
        elif event.get("event") == "step":
            lane.step(str(event.get("text", "")))

    return report
