"""A machine to leave: every path below a temporary directory, programs that only answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from freehold_agent import leave as leave_module
from freehold_agent.machine.systemd import Systemd
from freehold_agent.this_machine import ThisMachine


class Programs:
    """Answers commands by their beginning and remembers all of them."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name.replace("_", " "): answer for name, answer in answers.items()}
        self.calls: list[str] = []

    def __call__(self, command: list[str], **options: Any) -> str:
        line = " ".join(command)
        self.calls.append(line)
        for beginning, answer in self.answers.items():
            if line.startswith(beginning):
                if isinstance(answer, Exception):
                    raise answer
                return str(answer)
        return ""


def a_leaving_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ThisMachine:
    """Return it; its programs are `machine.run`. What the whole host has (processes, namespaces) is left alone."""
    runner = Programs()
    for name in ("OPT", "ETC", "STATE", "RUN", "JOIN_DOCUMENT"):
        monkeypatch.setattr(leave_module.paths, name, str(tmp_path / name.lower()))
    for name in ("NODE_TREES", "CONTROL_TREES", "SHARED_TREES", "UNMOUNT"):
        monkeypatch.setattr(leave_module, name, (str(tmp_path / name.lower()),))
    monkeypatch.setattr(leave_module, "OWN_TREES", (str(tmp_path / "opt"), str(tmp_path / "etc")))
    monkeypatch.setattr(leave_module.processes, "kill_all", lambda *arguments: [])
    monkeypatch.setattr(leave_module.trees, "remove_network_namespaces", lambda *arguments: [])
    for name in ("units", "proc", "cg"):
        (tmp_path / name).mkdir()
    return ThisMachine(
        systemd=Systemd(runner),
        run=runner,
        units=str(tmp_path / "units"),
        store=str(tmp_path / "opt" / "store"),
        records=str(tmp_path / "state" / "records"),
        proc=str(tmp_path / "proc"),
        cgroups=str(tmp_path / "cg"),
        lock=str(tmp_path),
    )


def a_record(tmp_path: Path, entries: list[tuple[str, Any]], owner: str = "node", **more: Any) -> None:
    """Write what an owner made: key and what was there before."""
    directory = tmp_path / "state" / "records"
    directory.mkdir(parents=True, exist_ok=True)
    listed = [{"key": key, "before": before} for key, before in entries]
    (directory / (owner + ".json")).write_text(
        json.dumps({"version": 1, "owner": owner, "entries": listed, **more})
    )
