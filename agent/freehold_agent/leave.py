"""Take everything of freehold off this machine: what the records say was made, and what components left behind.

Works after half an install and again after a failure; on a machine without records it touches nothing that could
be someone else's. The records go last, so that a killed run can be finished by the next.
"""

import contextlib
import errno
import functools
import glob
import os
import time
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence

from freehold_agent import volumes
from freehold_agent.contract import paths
from freehold_agent.contract.resources import Change, split_key
from freehold_agent.converge import Progress, Summary
from freehold_agent.errors import StepFailed
from freehold_agent.kinds import accounts, kernel, removal, units
from freehold_agent.machine import files
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import Properties, SystemdError
from freehold_agent.records import OWNERS, Record
from freehold_agent.remains import iptables, linked, network, processes, trees
from freehold_agent.store import path_of
from freehold_agent.this_machine import ThisMachine

NODE_TREES = (
    paths.KUBELET_STATE,
    paths.CONTAINERD_STATE,
    "/run/containerd",
    "/run/nri",
    "/var/lib/cni",
    "/run/flannel",
    "/var/log/pods",
    "/var/log/containers",
)
CONTROL_TREES = (paths.ETCD_STATE,)
SHARED_TREES = (paths.KUBERNETES,)
OWN_TREES = (paths.OPT, paths.ETC, paths.RUN)
UNMOUNT = (paths.KUBELET_STATE, "/run/containerd", paths.CONTAINERD_STATE)
SLICES = (paths.NODE_SLICE, paths.CONTROL_SLICE, "freehold.slice", "kubepods.slice")
AGENT = "freehold-agent.service"
_MARK = "FREEHOLD_INPUTS="


def leave(progress: Progress, machine: Optional[ThisMachine] = None) -> Summary:
    """Remove everything of freehold, for both owners; return what was removed (nothing the second time).

    Draining the node is the caller's business. Raises StepFailed with what is in the way, Locked, OSError.
    """
    machine = machine or ThisMachine()
    begun = time.monotonic()
    # The agent may be in the middle of a repair that waits for a control plane which is gone already. It ends
    # at once, and with it its lock; it is started again by nobody but a boot or an apply.
    if os.path.exists(os.path.join(machine.units, AGENT)):
        with contextlib.suppress(SystemdError):
            machine.systemd.stop(AGENT)
    with machine.locked("control"), machine.locked():
        run = _Leave(progress, machine)
        run.perform()
    return Summary(tuple(run.changes), time.monotonic() - begun)


class _Leave:
    def __init__(self, progress: Progress, machine: ThisMachine) -> None:
        self._progress = progress
        self._machine = machine
        # The node stands on the control plane: it goes first.
        self._records = [Record(owner, machine.records) for owner in reversed(OWNERS)]
        self._before = _before_all(self._records)
        self._units: List[str] = []
        self.changes: List[Change] = []

    def perform(self) -> None:
        machine = self._machine
        owners = {record.owner for record in self._records if record.keys}
        pod_cidrs = self._pod_cidrs()
        self._stop_units()
        if "node" in owners:
            self._step("process", lambda: processes.kill_all(machine.cgroups, machine.proc))
            self._step("mount", lambda: trees.unmount_below(_mounted_in(UNMOUNT), machine.run))
            self._step("namespace", lambda: trees.remove_network_namespaces(machine.run))
            self._step("interface", lambda: network.remove_links(machine.run))
            self._step("table", lambda: network.remove_tables(machine.run))
            self._step("chain", lambda: iptables.remove_chains(machine.run))
        elif owners:
            # A control plane that is no node: tables of such programs are not from here.
            self._step("table", lambda: network.remove_tables(machine.run, (network.OWN_TABLE,)))
        if owners:
            self._step("slice", self._stop_slices)
            self._step("cgroup", lambda: processes.remove_cgroups(machine.cgroups))
            self._step("route", lambda: network.remove_routes(pod_cidrs, machine.run))
        for record in self._records:
            self._undo(record)
        self._step("volume", self._remove_volumes)
        for path in self._trees(owners):
            self._step("tree", functools.partial(self._remove_tree, path))
        self._forget_units()
        for record in self._records:
            self._step("sysctl", functools.partial(self._restore_sysctls, record))
        self._step("tree", functools.partial(self._remove_tree, paths.STATE))

    def _stop_units(self) -> None:
        """Stop what is recorded, newest first, and units with our mark that a lost record does not name."""
        names = [
            split_key(key)[1]
            for record in self._records
            for key in reversed(record.keys)
            if key.startswith("unit:")
        ]
        for path in sorted(glob.glob(os.path.join(self._machine.units, "*.service"))):
            if _is_marked(path):
                names.append(os.path.basename(path))
        self._units = list(dict.fromkeys(names))
        known = self._show(self._units)
        present = [
            name
            for name in self._units
            if known[name].get("LoadState") != "not-found" or known[name].get("ActiveState") == "active"
        ]
        if present:
            self._tell("unit", "start", 0.0, len(present))
            self._step("unit", functools.partial(self._remove_units, present))

    def _remove_units(self, names: Sequence[str]) -> Sequence[str]:
        units.remove_units(names, self._machine)
        return names

    def _stop_slices(self) -> Sequence[str]:
        known = self._show(SLICES)
        active = [name for name in SLICES if known[name].get("ActiveState") == "active"]
        try:
            self._machine.systemd.stop(*active)
        except SystemdError as error:
            raise units.step_failed(error) from error
        return active

    def _undo(self, record: Record) -> None:
        """Put back what was there before, newest first. Units are stopped and routes are gone already."""
        changes = [Change(key, "delete", None, None) for key in reversed(record.keys)]
        for kind, group in removal.grouped(changes):
            keys = [change.key for change in group if self._is_there(kind, change.key)]
            if keys and kind in {"file", "link", "directory", "artifact", "user"}:
                self._step(kind, functools.partial(self._undo_group, kind, keys))

    def _undo_group(self, kind: str, keys: Sequence[str]) -> Sequence[str]:
        removal.undo(kind, {key: self._before[key] for key in keys}, self._machine)
        return keys

    def _is_there(self, kind: str, key: str) -> bool:
        name = split_key(key)[1]
        if kind == "artifact":
            return os.path.lexists(path_of(name, self._machine.store))
        if kind == "user":
            return bool(self._before[key].get("created")) and accounts.observe_user(name) is not None
        if kind == "directory" and os.path.islink(name):
            return False
        return os.path.lexists(name)

    def _trees(self, owners: Collection[str]) -> List[str]:
        """Return directories to remove as a whole: those of components, and those that only we made."""
        made = [
            split_key(key)[1]
            for key, before in self._before.items()
            if key.startswith("directory:") and before.get("created") and not before.get("keep")
        ]
        found = [*NODE_TREES] if "node" in owners else []
        found += CONTROL_TREES if "control" in owners else ()
        found += SHARED_TREES if owners else ()
        found += [*made, *OWN_TREES]
        # The records are in the last one: without them a killed run could not be finished.
        return [path for path in dict.fromkeys(found) if not (path + "/").startswith(paths.STATE + "/")]

    def _remove_tree(self, path: str) -> Sequence[str]:
        if os.path.islink(path):
            return self._remove_linked(path)
        before = self._before.get("directory:" + path)
        was_there = before is not None and not before.get("created")
        return [path] if trees.remove_tree(path, files.mount_points(), keep_itself=was_there) else []

    def _remove_linked(self, path: str) -> Sequence[str]:
        if not linked.is_followed(path):
            self._note("{} is a link that does not belong to root: it was not followed".format(path))
            return []
        removed, left = linked.remove_contents(path, files.mount_points())
        if left:
            names = ", ".join(left[:10]) + (", ..." if left[10:] else "")
            place = os.path.realpath(path)
            self._note("{} is a link to {}: not freehold's, stays there: {}".format(path, place, names))
        return [os.path.join(path, name) for name in removed]

    def _forget_units(self) -> None:
        if not self.changes:
            return
        try:
            self._machine.systemd.daemon_reload()
            self._machine.systemd.reset_failed(*self._units)
        except SystemdError as error:
            raise units.step_failed(error) from error

    def _remove_volumes(self) -> Sequence[str]:
        """Remove volumes that lie outside our own tree; those whose data is to be retained stay."""
        try:
            listed = volumes.volumes_elsewhere(files.read_json(paths.VOLUME_LIST))
        except (OSError, ValueError):
            return []
        keeper, done = volumes.VolumeKeeper(), []
        for volume in listed:
            try:
                if keeper.remove(volume):
                    done.append(volume.path)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    said = "{}: {}".format(volume.path, error.strerror or error)
                    raise StepFailed("volume:" + volume.path, said) from error
        return done

    def _restore_sysctls(self, record: Record) -> Sequence[str]:
        """Give settings their old values: those we set, and those that components set on their own."""
        wanted = dict(record.sysctls)
        ours = {split_key(key)[1]: self._before[key] for key in record.keys if key.startswith("sysctl:")}
        wanted.update({name: before["value"] for name, before in ours.items() if "value" in before})
        done = []
        for name, value in wanted.items():
            now = kernel.observe_sysctl(name, self._machine)
            if now is None or now["value"] == value:
                continue
            try:
                kernel.set_sysctl(name, value, self._machine)
                done.append("sysctl:" + name)
            except StepFailed:
                if name in ours:
                    raise
        return done

    def _pod_cidrs(self) -> Sequence[str]:
        """Return the cluster's pod networks, from the document this node was made from."""
        try:
            document = files.read_json(paths.JOIN_DOCUMENT) or {}
            cidrs: Sequence[str] = document.get("network", {}).get("pod_cidrs", ())
            return cidrs
        except (OSError, ValueError, AttributeError):
            return ()

    def _show(self, names: Sequence[str]) -> Dict[str, Properties]:
        try:
            return self._machine.systemd.show(names)
        except SystemdError as error:
            raise units.step_failed(error) from error

    def _step(self, title: str, work: Callable[[], Sequence[str]]) -> None:
        begun = time.monotonic()
        try:
            removed = work()
        except ProgramFailed as error:
            self._tell(title, "failed", begun)
            raise StepFailed(title, str(error)) from error
        except BaseException:
            self._tell(title, "failed", begun)
            raise
        if not removed:
            return
        for name in removed:
            key = name if split_key(name)[0] == title else title + ":" + name
            self.changes.append(Change(key, "delete", None, None))
        self._tell(title, "done", begun, len(removed))

    def _tell(self, key: str, state: str, begun: float, count: int = 0) -> None:
        """Tell one event for all that a step removes: there may be hundreds of files."""
        seconds = round(time.monotonic() - begun, 3) if begun else 0.0
        title = "{} removed".format(count) if count and state == "done" else ""
        event = {"event": "change", "key": key, "action": "delete", "title": title, "state": state}
        self._progress({**event, "seconds": seconds})

    def _note(self, text: str) -> None:
        self._progress({"event": "note", "text": text})


def _mounted_in(paths_of_state: Sequence[str]) -> List[str]:
    return [place for path in paths_of_state for place in linked.places(path)]


def _before_all(records: Sequence[Record]) -> Dict[str, Dict[str, Any]]:
    """Return what was there before either owner came.

    Both begin at the same time on a new machine: what one of them found may be what the other had just made.
    """
    found: Dict[str, Dict[str, Any]] = {}
    for record in records:
        for key in record.keys:
            before = record.before(key) or {}
            if key not in found or before.get("created"):
                found[key] = before
    return found


def _is_marked(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return _MARK in stream.read()
    except OSError:
        return False
