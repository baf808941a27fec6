"""Local volumes between control plane and agent: what a node is to have, and what it says it has. Versioned JSON.

The control plane keeps one list per node; each version of it has a greater generation. The agent answers with a
report of what it did about a generation. Neither side believes the other more than this file lets it.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Tuple

from freehold_agent.contract import paths

VERSION = 1
KIND = "volumes"
"""Tells a list of volumes from a join document where both travel the same way."""
MAKE, KEEP, DELETE = "make", "keep", "delete"
"""To be made; holds data, never made anew; to be removed with all its data."""
STATES = (MAKE, KEEP, DELETE)
MOST = 1000
"""Volumes of one node: both list and report stay small enough to be one object."""
LONGEST_MESSAGE = 300

_NAME = re.compile(r"pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+\Z")
_TAKEN = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",  # noqa: S108 named because it is refused
    "/usr",
    "/var/cache",
    "/var/lock",
    "/var/log",
    "/var/run",
    "/var/tmp",  # noqa: S108 as above
    "/var/lib/cni",
    paths.CONTAINERD_STATE,
    paths.ETCD_STATE,
    paths.KUBELET_STATE,
    paths.OPT,
    paths.STATE,
)
"""Where no volumes lie, nor in what contains them: it is the system's, or lost at a restart."""


class VolumesError(ValueError):
    """A list or report that cannot be acted on."""


def name_is_good(name: str) -> bool:
    """Say whether this is a volume's name: `pvc-` and a UUID. Nothing else ever becomes a directory."""
    return _NAME.match(name) is not None


def base_problem(path: str) -> str:
    """Return what speaks against keeping volumes in this directory; empty when nothing does. Looks at the text only."""
    if path == paths.VOLUMES:
        return ""
    parts = path.split("/")
    if len(path) > 200 or not _PATH.match(path) or "." in parts or ".." in parts:
        return "{!r} is no absolute path of plain letters".format(path[:200])
    for taken in _TAKEN:
        if (path + "/").startswith(taken + "/"):
            return "{} is no place for volumes: {} is the system's".format(path, taken)
        if taken.startswith(path + "/"):
            return "{} is no place for volumes: it contains {}".format(path, taken)
    return ""


@dataclass(frozen=True)
class Volume:
    """One directory, `base/name`."""

    name: str
    base: str
    capacity: int
    """Bytes that were promised."""
    state: str
    since: int
    """The generation of the list in which it came to this state: older reports say nothing about it."""
    retain: bool = False
    """Its data outlives its claim, and the node."""

    @property
    def path(self) -> str:
        return self.base + "/" + self.name


@dataclass(frozen=True)
class VolumeList:
    """What a node is to have. Names are unique."""

    generation: int = 0
    volumes: Tuple[Volume, ...] = ()

    def to_json(self) -> Dict[str, Any]:
        entries = [asdict(volume) for volume in self.volumes]
        return {"kind": KIND, "version": VERSION, "generation": self.generation, "volumes": entries}

    @classmethod
    def from_json(cls, data: Any) -> "VolumeList":
        """Return the list. Raises VolumesError for another version or malformed entries.

        Whether names and paths are allowed is judged by whoever acts on them, entry by entry.
        """
        try:
            if data["kind"] != KIND or data["version"] != VERSION:
                raise VolumesError("list of volumes of version {!r}".format(data["version"]))
            volumes = tuple(_volume(entry) for entry in data["volumes"])
            if len({volume.name for volume in volumes}) != len(volumes):
                raise VolumesError("a volume is listed twice")
            return cls(int(data["generation"]), volumes)
        except (KeyError, TypeError, AttributeError) as error:
            raise VolumesError("not a list of volumes: {!r}".format(error)) from error


@dataclass(frozen=True)
class Refusal:
    """Why a volume was not made here."""

    message: str
    free: int = 0
    """Bytes that could still be promised here."""


@dataclass(frozen=True)
class VolumeReport:
    """What a node says about one generation of its list; names only of volumes in it."""

    generation: int = 0
    made: Tuple[str, ...] = ()
    """To be made, and there."""
    deleted: Tuple[str, ...] = ()
    """To be removed, and gone."""
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    """To be made, and not possible here."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Holds data that cannot be found, or to be removed and cannot be: name -> why."""

    def to_json(self) -> Dict[str, Any]:
        return {
            "version": VERSION,
            "generation": self.generation,
            "made": sorted(self.made),
            "deleted": sorted(self.deleted),
            "refused": {name: asdict(refusal) for name, refusal in self.refused.items()},
            "failed": dict(self.failed),
        }

    @classmethod
    def from_json(cls, data: Any) -> "VolumeReport":
        """Return the report, every name and text of it checked: it comes from a machine that may be anybody's.

        Raises VolumesError.
        """
        try:
            if data["version"] != VERSION:
                raise VolumesError("report of version {!r}".format(data["version"]))
            report = cls(
                _number(data["generation"]),
                tuple(map(_name, data["made"])),
                tuple(map(_name, data["deleted"])),
                {
                    _name(name): Refusal(_text(refusal["message"]), _number(refusal["free"]))
                    for name, refusal in data["refused"].items()
                },
                {_name(name): _text(why) for name, why in data["failed"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise VolumesError("not a report about volumes: {!r}".format(error)) from error
        if max(map(len, (report.made, report.deleted, report.refused, report.failed))) > MOST:
            raise VolumesError("a report about too many volumes")
        return report


def _volume(entry: Mapping[str, Any]) -> Volume:
    known = {name: value for name, value in entry.items() if name in Volume.__dataclass_fields__}
    volume = Volume(**known)
    texts = (volume.name, volume.base, volume.state)
    if not all(isinstance(text, str) for text in texts) or volume.state not in STATES:
        raise VolumesError("not a volume: {!r}".format(volume.name))
    _number(volume.capacity)
    _number(volume.since)
    return volume


def _name(value: Any) -> str:
    if not isinstance(value, str) or not name_is_good(value):
        raise VolumesError("not the name of a volume: {!r}".format(value)[:LONGEST_MESSAGE])
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise VolumesError("a message is text")
    return "".join(letter if letter.isprintable() else " " for letter in value[:LONGEST_MESSAGE])


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise VolumesError("not a number: {!r}".format(value)[:LONGEST_MESSAGE])
    return value
