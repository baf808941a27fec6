"""A joined node on disk for tests of the resident loop and of one repair; nothing of the machine is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.a_node import a_document, lab

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Change
from freehold_agent.converge import Summary
from freehold_agent.keep import Keeper
from freehold_agent.repair import Host

CHANGE = Change("file:/etc/freehold/kubelet.json", "update", {}, {})


class KeptNode:
    """A joined node on disk, whose converge does what a test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: tuple[Change, ...] = ()
        self.error: Exception | None = None
        self.trouble = ""
        self.facts = lab()
        self.looks = 0
        self.told: list[str] = []
        self.log: list[tuple[int, str]] = []
        self.path(paths.JOIN_DOCUMENT).parent.mkdir(parents=True)
        self.path(paths.JOIN_DOCUMENT).write_bytes(a_document().dumps())
        self.path(paths.KUBELET_CLIENT_CERTIFICATE).parent.mkdir(parents=True)
        self.path(paths.KUBELET_CLIENT_CERTIFICATE).touch()
        self.host = Host(
            facts=lambda: self.facts,
            converge=self._converge,
            lock=self._lock,
            notify=self._notify,
            now=lambda: 1000.0 + self.looks,
            health=lambda _node, _now: self.trouble,
            root=str(root),
        )
        self.keeper = Keeper(self.host, lambda level, text: self.log.append((level, text)))

    def path(self, name: str) -> Path:
        return self.root / name[1:]

    def _notify(self, state: str) -> bool:
        self.told.append(state)
        return True

    @contextlib.contextmanager
    def _lock(self, timeout: float = 0) -> Iterator[None]:
        assert timeout == 0
        yield

    def _converge(
        self, _resources: Any, owner: str, _deliver: Any, progress: Any, _only: Any = None
    ) -> Summary:
        assert owner == "node"
        self.looks += 1
        if self.error:
            raise self.error
        for change in self.changes:
            progress({"event": "change", "key": change.key, "action": change.action, "state": "done"})
        return Summary(self.changes, 0.1)
