"""The kinds of resources a machine is made of, and the one difference between what is and what should be.

`difference` is pure: it compares attributes that `freehold_agent.observe` read with those a resource asks for.
Plan prints its result, apply and repair perform it, drift reports it, reset is the difference to nothing.

A resource is identified by its key, `kind:name`. Its wanted attributes are plain JSON values, so that an
observation can travel over SSH and be compared on either side.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, Union

from freehold_agent.contract import paths

Attributes = Dict[str, Any]


@dataclass(frozen=True)
class User:
    """A system user with a group of the same name, no password and no login shell."""

    name: str
    home: str = "/nonexistent"

    kind = "user"

    @property
    def wanted(self) -> Attributes:
        return {"home": self.home}


@dataclass(frozen=True)
class Directory:
    path: str
    mode: int = 0o755
    owner: str = "root"
    group: str = "root"
    keep: bool = False
    """Left in place by removal even when we made it (for example /etc/cni/net.d: containerd watches it)."""

    kind = "directory"

    @property
    def name(self) -> str:
        return self.path

    @property
    def wanted(self) -> Attributes:
        return {"mode": self.mode, "owner": self.owner, "group": self.group}


@dataclass(frozen=True)
class File:
    """A small file whose bytes travel with the resource; large ones are artifacts."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    secret: bool = False
    """Never diffed, printed or logged; its digest is not shown either."""

    kind = "file"

    @property
    def name(self) -> str:
        return self.path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def wanted(self) -> Attributes:
        return {"sha256": self.sha256, "mode": self.mode, "owner": self.owner, "group": self.group}


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle in the store, named by its digest. Mode is 0755 for all: most are programs."""

    title: str
    """What people call it: `kubelet`, `images/pause`."""
    sha256: str
    size: int
    """Bytes."""

    kind = "artifact"

    @property
    def name(self) -> str:
        return self.sha256

    @property
    def wanted(self) -> Attributes:
        return {"sha256": self.sha256, "size": self.size, "mode": 0o755}


@dataclass(frozen=True)
class Link:
    path: str
    target: str

    kind = "link"

    @property
    def name(self) -> str:
        return self.path

    @property
    def wanted(self) -> Attributes:
        return {"target": self.target}


@dataclass(frozen=True)
class KernelModule:
    """Loaded or built in. Never unloaded again: others may have come to need it."""

    name: str

    kind = "module"

    @property
    def wanted(self) -> Attributes:
        return {"available": True}


@dataclass(frozen=True)
class Sysctl:
    """The value in the running kernel; persistence is a File in /etc/sysctl.d."""

    name: str
    """Dotted: `net.ipv4.ip_forward`."""
    value: str

    kind = "sysctl"

    @property
    def wanted(self) -> Attributes:
        return {"value": self.value}


@dataclass(frozen=True)
class Route:
    destination: str
    device: str
    source: Optional[str] = None
    via: Optional[str] = None

    kind = "route"

    @property
    def name(self) -> str:
        return self.destination

    @property
    def wanted(self) -> Attributes:
        return {"device": self.device, "source": self.source, "via": self.via}


@dataclass(frozen=True)
class Unit:
    """A systemd unit that is enabled and running with its present inputs.

    `inputs` is a digest over everything the process reads at its start. The unit file carries it as
    `Environment=FREEHOLD_INPUTS=...`, so /proc/PID/environ says what the *running* process was started
    with: a restart that a killed installer never made is still seen as missing (docs/adr/0003).
    """

    name: str
    inputs: str = ""
    enabled: bool = True
    active: bool = True
    timeout: float = 90.0
    """Seconds to wait until systemd says it is active."""
    reads: Tuple[str, ...] = ()
    """Keys of resources that its process reads at its start (`file:/etc/...`). When one of them is put right, the
    process may have been started with what was wrong: it is restarted too."""

    kind = "unit"

    @property
    def wanted(self) -> Attributes:
        wanted: Attributes = {"enabled": self.enabled, "active": self.active}
        if self.inputs and self.active:
            wanted["inputs"] = self.inputs
        if self.active:
            wanted["current"] = True
        return wanted


Resource = Union[User, Directory, File, Artifact, Link, KernelModule, Sysctl, Route, Unit]

KINDS: Dict[str, Type[Any]] = {
    kind.kind: kind for kind in (User, Directory, File, Artifact, Link, KernelModule, Sysctl, Route, Unit)
}


def key_of(resource: Resource) -> str:
    """Return the identity of a resource: `file:/etc/hosts`, `unit:kubelet.service`."""
    return resource.kind + ":" + resource.name


@dataclass(frozen=True)
class Change:
    """One step from what is to what should be."""

    key: str
    action: str
    """`create`, `update` or `delete`."""
    before: Optional[Attributes]
    """The observed attributes that differ; None when there is nothing."""
    after: Optional[Attributes]
    """The wanted attributes that differ; None for a deletion."""
    title: str = ""
    """What people call it, where the key does not say (artifacts)."""

    def to_json(self) -> Attributes:
        return {
            "key": self.key,
            "action": self.action,
            "before": self.before,
            "after": self.after,
            "title": self.title,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Change":
        return cls(data["key"], data["action"], data["before"], data["after"], data.get("title", ""))


def difference(
    observed: Mapping[str, Optional[Attributes]],
    desired: Sequence[Resource],
    recorded: Iterable[str] = (),
) -> List[Change]:
    """Return the changes that turn the observed machine into the desired one, in the order to make them.

    `observed` maps keys to attributes, None or a missing key where nothing is there. `recorded` are the keys
    that were made for the same owner before, oldest first: those no longer desired are deleted, newest
    first, before anything is created, because a new resource may take their place. Only what belongs to an old
    release goes last: until the new one runs, a restart or a power cut needs it.
    """
    wanted_keys = {key_of(resource) for resource in desired}
    deletions = [
        Change(key, "delete", observed.get(key), None)
        for key in reversed(list(recorded))
        if key not in wanted_keys and observed.get(key) is not None
    ]
    changes = [change for change in deletions if not _of_a_release(change.key)]
    for resource in desired:
        key = key_of(resource)
        wanted = resource.wanted
        state = observed.get(key)
        if state is not None and isinstance(resource, Unit) and wanted.get("current"):
            put_right = {change.key for change in changes if change.action != "delete"}
            state = {**state, "current": state.get("current", True) and not put_right & set(resource.reads)}
        title = resource.title if isinstance(resource, Artifact) else ""
        if state is None:
            changes.append(Change(key, "create", None, wanted, title))
            continue
        differing = sorted(name for name in wanted if state.get(name) != wanted[name])
        if differing:
            before = {name: state.get(name) for name in differing}
            after = {name: wanted[name] for name in differing}
            changes.append(Change(key, "update", before, after, title))
    return changes + [change for change in deletions if _of_a_release(change.key)]


def _of_a_release(key: str) -> bool:
    """Say whether a key names a file of a bundle or a place in a release directory: harmless beside a newer one."""
    kind, name = split_key(key)
    return kind == "artifact" or (kind in ("link", "directory") and name.startswith(paths.RELEASES + "/"))


def digest_of_inputs(*parts: Union[str, bytes]) -> str:
    """Return a short digest over everything a unit reads at its start: files, settings, artifact digests."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:32]


def to_json(resource: Resource) -> Attributes:
    """Return a resource as JSON values; bytes become base64."""
    data: Attributes = {"kind": resource.kind}
    for name in resource.__dataclass_fields__:
        value = getattr(resource, name)
        data[name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return data


def from_json(data: Mapping[str, Any]) -> Resource:
    """Return the resource that `to_json` wrote. Raises ValueError for a kind this version does not know."""
    fields = dict(data)
    kind = KINDS.get(fields.pop("kind", ""))
    if kind is None:
        raise ValueError("unknown resource kind " + repr(data.get("kind")))
    if kind is File:
        fields["content"] = base64.b64decode(fields["content"])
    if kind is Unit:
        fields["reads"] = tuple(fields.get("reads", ()))
    resource: Resource = kind(**fields)
    return resource


def split_key(key: str) -> Tuple[str, str]:
    """Return kind and name of a key."""
    kind, _, name = key.partition(":")
    return kind, name
