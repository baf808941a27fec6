"""What each owner (control plane, node) made on this machine, and what was there before.

Written ahead of the first change of a key, so that a killed run can still be undone. One JSON file per owner,
mode 0600, because what was there before may be secret. Knows no kinds: `before` is their business.
"""

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Set

from freehold_agent.contract import paths
from freehold_agent.errors import StepFailed
from freehold_agent.machine import files

VERSION = 1
OWNERS = ("control", "node")


@dataclass(frozen=True)
class Entry:
    """One thing that was made."""

    key: str
    before: Dict[str, Any]
    """What was there: `{"created": true}` for nothing, else what its kind needs to bring it back."""

    def to_json(self) -> Dict[str, Any]:
        return {"key": self.key, "before": self.before}


class Record:
    """The entries of one owner, oldest first."""

    def __init__(self, owner: str, directory: str = "") -> None:
        """Read the record. Raises StepFailed when it is damaged or of another version, OSError."""
        self.owner = owner
        self.path = os.path.join(directory or paths.RECORDS, owner + ".json")
        self._entries: Dict[str, Entry] = {}
        self.stale: Set[str] = set()
        """Units whose restart is due because a file they read was put right; kept until it is done."""
        self.sysctls: Dict[str, str] = {}
        """Settings that components change on their own, as they were before the first change."""
        self._changed = False
        try:
            data = files.read_json(self.path)
        except ValueError as error:
            raise StepFailed("", "the record of what freehold made is damaged: {}".format(error)) from error
        if data is None:
            return
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise StepFailed("", "{} is of a version that this agent does not know".format(self.path))
        self.sysctls = data.get("sysctls", {})
        self.stale = set(data.get("stale", ()))
        for entry in data["entries"]:
            self._entries[entry["key"]] = Entry(entry["key"], entry["before"])

    @property
    def keys(self) -> List[str]:
        return list(self._entries)

    def before(self, key: str) -> Optional[Dict[str, Any]]:
        """Return what was there before we made it; None when we did not."""
        entry = self._entries.get(key)
        return entry.before if entry else None

    def add(self, key: str, before: Dict[str, Any]) -> None:
        """Note what was there before the first change; later calls for the same key change nothing."""
        if key not in self._entries:
            self._entries[key] = Entry(key, before)
            self._changed = True

    def mark_stale(self, key: str) -> None:
        """Note that a unit is to be restarted, ahead of putting right what it reads."""
        self._changed = self._changed or key not in self.stale
        self.stale.add(key)

    def unmark_stale(self, keys: Iterable[str]) -> None:
        """Note that units run with what their files hold."""
        done = self.stale.intersection(keys)
        self._changed = self._changed or bool(done)
        self.stale -= done

    def drop(self, keys: Iterable[str]) -> None:
        """Forget keys that are no longer ours."""
        for key in keys:
            if self._entries.pop(key, None) is not None:
                self._changed = True

    def save(self) -> None:
        """Make the record durable; writes nothing when nothing changed. Raises OSError."""
        if not self._changed:
            return
        entries = [entry.to_json() for entry in self._entries.values()]
        data = {
            "version": VERSION,
            "owner": self.owner,
            "entries": entries,
            "sysctls": self.sysctls,
            "stale": sorted(self.stale),
        }
        files.write_json(self.path, data)
        self._changed = False


def entries_of_others(owner: str, directory: str = "") -> Dict[str, Dict[str, Any]]:
    """Return what other owners made here as well, with what was there before: ours must not take it."""
    found: Dict[str, Dict[str, Any]] = {}
    for other in OWNERS:
        if other != owner:
            record = Record(other, directory)
            found.update({key: record.before(key) or {} for key in record.keys})
    return found


def sysctls_of_others(owner: str, directory: str = "") -> Dict[str, str]:
    """Return settings as they were before other owners came: what is there now may be their doing."""
    found: Dict[str, str] = {}
    for other in OWNERS:
        if other != owner:
            found.update(Record(other, directory).sysctls)
    return found
