"""Progress of the program on a machine, as steps of its lane. No wording of the agent's is repeated elsewhere."""

from collections.abc import Callable
from typing import Any

from freehold_agent.contract.resources import split_key
from freehold_installer.engine.lanes import Lane

_SHOWN = {"unit": "starting", "artifact": "fetching", "user": "adding user"}
"""Kinds whose single changes a person wants to follow; files and links pass in milliseconds."""


def change_reporter(
    lane: Lane, program: str, also: Callable[[dict[str, Any]], None] | None = None
) -> Callable[[dict[str, Any]], None]:
    """Return a callback for `Machine.program` that shows what happens on the machine; `program` is its verb."""

    def report(event: dict[str, Any]) -> None:
        if also is not None:
            also(event)
        kind = event.get("event")
        if kind == "change" and event.get("state") == "start":
            family, name = split_key(event["key"])
            if family in _SHOWN:
                lane.step(f"{_SHOWN[family]} {event.get('title') or name}")
        elif kind == "change":
            lane.changed(program, event["key"], event["state"], event["seconds"])
        elif kind == "received":
            lane.changed(program, "artifact:" + event["sha256"], "done", event["seconds"])
        elif kind == "step":
            lane.step(str(event.get("title", "")))
        elif kind == "note":
            lane.note(str(event.get("text", "")), "warning")

    return report
