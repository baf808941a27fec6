"""The manifest of a built bundle: which files make up a release, and where each belongs on a machine."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Tuple

from freehold_agent.contract.resources import Artifact

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class ArtifactEntry:
    """One file of the bundle."""

    name: str
    """Path inside a release directory: `bin/kubelet`, `cni/bridge`, `images/pause.tar`."""
    sha256: str
    size: int
    """Bytes."""
    roles: Tuple[str, ...]
    """Who needs it: `control-plane`, `node`, `operator` (kubectl at the operator's side), `test`."""
    component: str = ""
    version: str = ""
    image: str = ""
    """For an image: the reference it is known by, `freehold.local/pause:1`."""

    def artifact(self) -> Artifact:
        return Artifact(self.name, self.sha256, self.size)


@dataclass(frozen=True)
class Manifest:
    """The outputs of one built release for one architecture."""

    release: str
    """Kubernetes version without `v`: `1.37.2`."""
    architecture: str
    """Go's name: `amd64`, `arm64`."""
    entries: Tuple[ArtifactEntry, ...]
    build: str = ""
    """Digest over all entries: the name of the release directory on a machine is `RELEASE-BUILD[:12]`."""

    @property
    def directory(self) -> str:
        return self.release + "-" + self.build[:12]

    def for_roles(self, *roles: str) -> List[ArtifactEntry]:
        return [entry for entry in self.entries if set(entry.roles) & set(roles)]

    def entry(self, name: str) -> ArtifactEntry:
        """Return the entry of that name. Raises KeyError."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def to_json(self) -> Dict[str, Any]:
        return {
            "version": MANIFEST_VERSION,
            "release": self.release,
            "architecture": self.architecture,
            "build": self.build,
            "entries": [asdict(entry) for entry in self.entries],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """Return the manifest. Raises ValueError for a version this program does not know."""
        if data.get("version") != MANIFEST_VERSION:
            raise ValueError("unknown manifest version " + repr(data.get("version")))
        entries = tuple(
            ArtifactEntry(**{**entry, "roles": tuple(entry["roles"])}) for entry in data["entries"]
        )
        return cls(data["release"], data["architecture"], entries, data.get("build", ""))
