"""What every join document of a cluster says alike; JSON in the configuration of the services."""

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Tuple

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import Network

SETTINGS_VERSION = 1


@dataclass(frozen=True)
class ClusterSettings:
    cluster: str
    endpoints: Tuple[str, ...]
    """API servers, `https://host:port`, first is preferred."""
    artifact_endpoints: Tuple[str, ...]
    join_endpoints: Tuple[str, ...]
    ca_pem: str
    network: Network
    """With empty `node_pod_cidrs`: each document gets its own."""
    manifest: Manifest
    """Entries of the role `node` only."""
    kubelet: Mapping[str, Any] = field(default_factory=dict)
    """Extra KubeletConfiguration fields; merged last."""
    registries: Mapping[str, Any] = field(default_factory=dict)
    """containerd registry hosts: name -> {endpoints: [...], caPem: ...}."""

    def to_json(self) -> Dict[str, Any]:
        data = asdict(self)
        data["manifest"] = self.manifest.to_json()
        data["version"] = SETTINGS_VERSION
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ClusterSettings":
        """Return the settings. Raises ValueError for another version or a missing field."""
        if data.get("version") != SETTINGS_VERSION:
            raise ValueError("unknown version of cluster settings: {!r}".format(data.get("version")))
        try:
            network: Dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in data["network"].items()
            }
            return cls(
                cluster=data["cluster"],
                endpoints=tuple(data["endpoints"]),
                artifact_endpoints=tuple(data["artifact_endpoints"]),
                join_endpoints=tuple(data["join_endpoints"]),
                ca_pem=data["ca_pem"],
                network=Network(**network),
                manifest=Manifest.from_json(data["manifest"]),
                kubelet=data.get("kubelet", {}),
                registries=data.get("registries", {}),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("cluster settings are incomplete: {}".format(error)) from error
