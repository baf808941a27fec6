"""The plan: what apply would change, per machine and in the API, as one value to show, save and count.

Pure. Contents of secrets never enter it: a secret file is known only by its key.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold_agent.contract.resources import Change, File, Resource, key_of


@dataclass(frozen=True)
class Content:
    """The text of a file before and after, for a diff; either may be empty."""

    before: str
    after: str


@dataclass(frozen=True)
class MachinePlan:
    """The changes of one machine."""

    machine: str
    changes: tuple[Change, ...]
    contents: Mapping[str, Content] = field(default_factory=dict)
    """Key of a changing file -> its text; never of a secret."""
    notes: tuple[str, ...] = ()
    """What was derived from facts: `no default route: a route for the service network is added`."""


@dataclass(frozen=True)
class Plan:
    """Everything apply would do, in the order of the inventory."""

    cluster: str
    machines: tuple[MachinePlan, ...]
    to_be_issued: tuple[str, ...] = ()
    """Keys and certificates that do not exist yet."""
    objects: tuple[Change, ...] = ()
    """Kubernetes objects."""
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Nodes that no inventory names: they joined without SSH, and apply leaves them as they are."""

    @property
    def empty(self) -> bool:
        return not (self.objects or self.to_be_issued or any(machine.changes for machine in self.machines))

    @property
    def count(self) -> int:
        return (
            len(self.objects)
            + len(self.to_be_issued)
            + sum(len(machine.changes) for machine in self.machines)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; `digest` names exactly these changes."""
        body: dict[str, Any] = {
            "cluster": self.cluster,
            "machines": [
                {
                    "machine": machine.machine,
                    "changes": [change.to_json() for change in machine.changes],
                    "notes": list(machine.notes),
                }
                for machine in self.machines
            ],
            "objects": [change.to_json() for change in self.objects],
            "toBeIssued": list(self.to_be_issued),
            "notes": list(self.notes),
        }
        body["digest"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        # Not part of what is carried out: a machine that joins meanwhile makes no other plan of it.
        body["otherNodes"] = list(self.others)
        return body


def without_secrets(changes: Iterable[Change], desired: Sequence[Resource]) -> list[Change]:
    """Return the changes without digests of secret files: from a digest a short secret can be guessed."""
    secrets = {key_of(r) for r in desired if isinstance(r, File) and r.secret}
    result = []
    for change in changes:
        if change.key in secrets:
            before, after = _hidden(change.before), _hidden(change.after)
            result.append(Change(change.key, change.action, before, after, change.title))
        else:
            result.append(change)
    return result


def _hidden(attributes: dict[str, Any] | None) -> dict[str, Any] | None:
    if attributes is None:
        return None
    return {name: ("secret" if name == "sha256" else value) for name, value in attributes.items()}
