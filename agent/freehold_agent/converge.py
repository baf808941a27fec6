"""Bring a machine from what it is to what it should be: observe, `difference`, perform, in order.

The only place that changes a machine, for control planes and nodes, over SSH and in the resident agent. What
was there before is recorded ahead of the first change. When nothing differs nothing is written at all.
"""

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from freehold_agent import store
from freehold_agent.contract.resources import (
    Artifact,
    Change,
    Directory,
    File,
    KernelModule,
    Link,
    Resource,
    Route,
    Sysctl,
    Unit,
    User,
    difference,
    key_of,
    split_key,
)
from freehold_agent.errors import DeliveryFailed, StepFailed
from freehold_agent.kinds import accounts, kernel, removal, tree, units
from freehold_agent.machine import files
from freehold_agent.machine.systemd import SystemdError
from freehold_agent.observe import Look, look
from freehold_agent.records import Record, entries_of_others, sysctls_of_others
from freehold_agent.store import HashCache, has, path_of
from freehold_agent.this_machine import ThisMachine

Deliverer = Callable[[Artifact], None]
"""Puts an artifact into the store, verified. May have `announce(artifacts)`, called once with all that are
missing, in the order in which they are needed."""

Progress = Callable[[Dict[str, Any]], None]


@dataclass(frozen=True)
class Summary:
    """What a run changed."""

    changes: Tuple[Change, ...]
    seconds: float

    def to_json(self) -> Dict[str, Any]:
        return {"changes": [change.to_json() for change in self.changes], "seconds": round(self.seconds, 3)}


def converge(
    resources: Sequence[Resource],
    owner: str,
    deliver: Deliverer,
    progress: Progress,
    only: Optional[Collection[str]] = None,
    *,
    machine: Optional[ThisMachine] = None,
) -> Summary:
    """Make the machine have these resources and none that `owner` had and no longer wants.

    Deletions come first, then resources in the given order. With `only` (keys), other keys are left alone.
    `progress` gets {"event": "change", "key", "action", "title", "state": "start|done|failed", "seconds"}.
    Raises StepFailed, DeliveryFailed, Locked, OSError; what was done by then stays done and is recorded.
    """
    machine = machine or ThisMachine()
    begun = time.monotonic()
    with machine.locked(owner):
        run = _Run(resources, owner, deliver, progress, machine)
        run.perform(only)
    return Summary(tuple(run.changes), time.monotonic() - begun)


class _Run:
    def __init__(
        self,
        resources: Sequence[Resource],
        owner: str,
        deliver: Deliverer,
        progress: Progress,
        machine: ThisMachine,
    ) -> None:
        self._resources = list(resources)
        self._by_key = {key_of(resource): resource for resource in resources}
        self._record = Record(owner, machine.records)
        self._shared = entries_of_others(owner, machine.records)
        self._deliver = deliver
        self._progress = progress
        self._machine = machine
        self._look = Look()
        self._reload = False
        self._staged: List[Tuple[Change, files.Staged]] = []
        self._dirty: Set[str] = set()
        self.changes: List[Change] = []

    def perform(self, only: Optional[Collection[str]]) -> None:
        recorded = [key for key in self._record.keys if key not in self._shared]
        self._look = look(self._resources, recorded, self._machine, self._record.stale)
        changes = difference(self._look.attributes, self._resources, recorded)
        if only is not None:
            changes = [change for change in changes if change.key in only and change.action != "delete"]
        self.changes = changes
        self._reload = self._look.reload_needed
        if only is None:
            self._record.drop(self._not_ours_any_more())
        others = [change for change in changes if change.action != "delete"]
        first = list(itertools.takewhile(lambda change: change.action == "delete", changes))
        last = [change for change in changes[len(first) :] if change.action == "delete"]
        try:
            self._write_ahead(others)
            self._announce(others)
            if first:
                self._delete(first)
            for group in self._groups(others):
                self._make(group)
            self._flush()
            self._reload_if_needed()
            if last:
                self._delete(last)
        finally:
            files.discard(staged for _, staged in self._staged)
        # A digest that had to be computed again is kept, so that the next look is quick.
        HashCache(self._machine.hashes).remember(self._look.hashed if changes else {})

    def _write_ahead(self, changes: Sequence[Change]) -> None:
        """Record what is there before, and what another owner made that we rely on from now on."""
        changing = {change.key for change in changes}
        if changing and not self._record.keys:
            self._record.sysctls = {
                **kernel.component_sysctls(self._machine),
                **sysctls_of_others(self._record.owner, self._machine.records),
            }
        for resource in self._resources:
            key = key_of(resource)
            if key in changing and self._record.before(key) is None and key not in self._shared:
                self._record.add(key, removal.before(resource, self._look.attributes.get(key)))
            if key in self._shared:
                self._record.add(key, self._shared[key])
        for change in changes:
            if "current" in (change.after or {}):
                self._record.mark_stale(change.key)
        self._record.save()

    def _not_ours_any_more(self) -> List[str]:
        """Return recorded keys that are no longer wanted and gone already, or another owner's now."""
        return [
            key
            for key in self._record.keys
            if key not in self._by_key and (key in self._shared or self._look.attributes.get(key) is None)
        ]

    def _announce(self, changes: Sequence[Change]) -> None:
        """Drop damaged files of the store, and tell the deliverer what will be asked for."""
        missing = []
        for change in changes:
            resource = self._by_key[change.key]
            if isinstance(resource, Artifact) and set(change.after or {}) != {"mode"}:
                path = path_of(resource.sha256, self._machine.store)
                if (
                    change.action == "update"
                    and HashCache(self._machine.hashes).digest(path) != resource.sha256
                ):
                    files.remove(path)
                    self._look.hashed.pop(path, None)
                missing.append(resource)
        announce = getattr(self._deliver, "announce", None)
        if announce is not None and missing:
            announce(missing)

    def _delete(self, changes: Sequence[Change]) -> None:
        gone: List[str] = []
        try:
            for kind, group in removal.grouped(changes):
                with self._reported(group):
                    before = {change.key: self._record.before(change.key) or {} for change in group}
                    removal.undo(kind, before, self._machine)
                    gone += [change.key for change in group]
                self._reload = self._reload or any(self._is_unit_file(change.key) for change in group)
        finally:
            self._record.drop(gone)
            self._record.save()

    def _groups(self, changes: Sequence[Change]) -> Iterator[List[Change]]:
        """Yield changes to make together: neighbouring units as one group, everything else alone.

        Unit files are inert until systemd reads them, so all of them come before the first unit: systemd then
        reads them once. Units are neighbours when no other resource stands between them in the desired list,
        changed or not: what stands between two units orders them.
        """
        first = next((i for i, change in enumerate(changes) if change.key.startswith("unit:")), len(changes))
        early = [change for change in changes[first:] if self._is_unit_file(change.key)]
        late = [change for change in changes[first:] if not self._is_unit_file(change.key)]
        places = self._unit_places()
        group: List[Change] = []
        for change in [*changes[:first], *early, *late]:
            place = places.get(change.key)
            if group and (place is None or place != places[group[-1].key]):
                yield group
                group = []
            if place is None:
                yield [change]
            else:
                group.append(change)
        if group:
            yield group

    def _unit_places(self) -> Dict[str, int]:
        """Return for each unit the number of resources of other kinds before it in the desired list."""
        places: Dict[str, int] = {}
        others = 0
        for resource in self._resources:
            if isinstance(resource, Unit):
                places[key_of(resource)] = others
            else:
                others += 1
        return places

    def _make(self, group: Sequence[Change]) -> None:
        resource = self._by_key[group[0].key]
        if isinstance(resource, File):
            # Its rename waits for the other files of the batch: they become durable together.
            self._tell(group, "start")
            try:
                self._staged.append((group[0], tree.stage_file(resource)))
            except BaseException:
                self._tell(group, "failed")
                raise
            return
        if not isinstance(resource, Directory):
            self._flush()
        with self._reported(group):
            if isinstance(resource, Unit):
                self._make_units(group)
            else:
                self._make_one(resource, group[0])

    def _make_one(self, resource: Resource, change: Change) -> None:
        machine, present = self._machine, change.action == "update"
        if isinstance(resource, User):
            accounts.make_user(resource, machine, present)
        elif isinstance(resource, Directory):
            tree.make_directory(resource)
            self._dirty.add(parent_of(resource.path))
        elif isinstance(resource, Link):
            tree.make_link(resource)
            self._dirty.add(parent_of(resource.path))
            self._reload = self._reload or self._is_unit_file(change.key)
        elif isinstance(resource, Artifact):
            if set(change.after or {}) == {"mode"}:
                os.chmod(path_of(resource.sha256, machine.store), store.MODE)
                return
            self._deliver(resource)
            if not has(resource.sha256, resource.size, machine.store):
                raise DeliveryFailed("{} ({}) did not arrive".format(resource.title, resource.sha256))
        elif isinstance(resource, KernelModule):
            kernel.load_module(resource, machine)
        elif isinstance(resource, Sysctl):
            kernel.set_sysctl(resource.name, resource.value, machine)
        elif isinstance(resource, Route):
            kernel.set_route(resource, machine, present)

    def _make_units(self, group: Sequence[Change]) -> None:
        resources = [self._by_key[change.key] for change in group]
        wanted = [resource for resource in resources if isinstance(resource, Unit)]
        stale = {change.key for change in group if "current" in (change.after or {})}
        seen = self._look.attributes
        enable = [u.name for u in wanted if u.enabled and not (seen.get(key_of(u)) or {}).get("enabled")]
        disable = [u.name for u in wanted if not u.enabled and (seen.get(key_of(u)) or {}).get("enabled")]
        try:
            self._machine.systemd.enable(enable)
            self._machine.systemd.disable(disable)
        except SystemdError as error:
            raise units.step_failed(error) from error
        self._reload_if_needed()
        units.start_units(wanted, seen, self._machine, stale)
        self._record.unmark_stale(change.key for change in group)
        self._record.save()

    def _flush(self) -> None:
        """Put staged files in their places and make everything of this batch durable."""
        staged, self._staged = self._staged, []
        changes = [change for change, _ in staged]
        begun = time.monotonic()
        try:
            files.commit([item for _, item in staged])
            for directory in self._dirty:
                files.sync_path(directory)
        except OSError as error:
            self._tell(changes, "failed", begun)
            key = changes[0].key if changes else ""
            raise StepFailed(key, "{}: {}".format(error.filename or key, error.strerror)) from error
        self._dirty.clear()
        self._tell(changes, "done", begun)
        self._reload = self._reload or any(self._is_unit_file(change.key) for change in changes)

    def _reload_if_needed(self) -> None:
        if not self._reload:
            return
        try:
            self._machine.systemd.daemon_reload()
        except SystemdError as error:
            raise units.step_failed(error) from error
        self._reload = False

    def _is_unit_file(self, key: str) -> bool:
        kind, name = split_key(key)
        return kind in {"file", "link"} and name.startswith(self._machine.units + "/")

    @contextlib.contextmanager
    def _reported(self, group: Sequence[Change]) -> Iterator[None]:
        begun = time.monotonic()
        self._tell(group, "start")
        try:
            yield
        except BaseException:
            self._tell(group, "failed", begun)
            raise
        self._tell(group, "done", begun)

    def _tell(self, group: Sequence[Change], state: str, begun: Optional[float] = None) -> None:
        seconds = 0.0 if begun is None else round(time.monotonic() - begun, 3)
        for change in group:
            event = {"event": "change", "key": change.key, "action": change.action, "title": change.title}
            self._progress({**event, "state": state, "seconds": seconds})


def parent_of(path: str) -> str:
    """Return the directory that holds the entry of `path`."""
    return os.path.dirname(path.rstrip("/")) or "/"
