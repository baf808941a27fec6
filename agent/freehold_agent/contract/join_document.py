"""The join document: everything a machine needs to be a node, as versioned JSON without any secret.

The control plane writes it (`freehold_bootstrap.node_admission`), the agent stores it at
`paths.JOIN_DOCUMENT` and derives every resource of the node from it. The bootstrap credential travels beside
it and is never stored in it.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from freehold_agent.contract.artifacts import Manifest

DOCUMENT_VERSION = 1


class DocumentError(ValueError):
    """A document that this version of the agent cannot act on."""


@dataclass(frozen=True)
class Network:
    pod_cidrs: Tuple[str, ...]
    """The cluster's."""
    service_cidrs: Tuple[str, ...]
    node_pod_cidrs: Tuple[str, ...]
    """This node's share, given by the controller manager; empty only in a plan made before admission."""
    dns_addresses: Tuple[str, ...]
    domain: str
    backend: str = "vxlan"
    """flannel's: `vxlan` or `host-gw`."""
    flannel: bool = True
    kube_proxy: bool = True


@dataclass(frozen=True)
class JoinDocument:
    cluster: str
    node: str
    node_uid: str
    """UID of the Node object that admission made: a document of a removed namesake is not ours."""
    addresses: Tuple[str, ...]
    """First is `--node-ip`; IPv4 or IPv6."""
    endpoints: Tuple[str, ...]
    """API servers, `https://host:port`, first is preferred."""
    artifact_endpoints: Tuple[str, ...]
    """Artifact services, `https://host:port`."""
    join_endpoints: Tuple[str, ...]
    ca_pem: str
    network: Network
    manifest: Manifest
    """Entries of the role `node` only."""
    control_plane: bool = False
    """The machine also carries a control plane: its resources are reserved too."""
    kubelet: Mapping[str, Any] = field(default_factory=dict)
    """Extra KubeletConfiguration fields of the inventory; merged last."""
    registries: Mapping[str, Any] = field(default_factory=dict)
    """containerd registry hosts: name -> {endpoints: [...], caPem: ...}."""
    credential: str = "kubelet"
    """Which credential the node's own components use (`freehold_agent.desired.credential`)."""
    generation: int = 1
    """Never goes back."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Tuple[Mapping[str, str], ...] = ()

    def to_json(self) -> Dict[str, Any]:
        data = asdict(self)
        data["manifest"] = self.manifest.to_json()
        data["version"] = DOCUMENT_VERSION
        return data

    def dumps(self) -> bytes:
        return (json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "JoinDocument":
        """Return the document. Raises DocumentError when it is of another version or a field is missing."""
        if data.get("version") != DOCUMENT_VERSION:
            raise DocumentError(
                "join document version {!r}; this agent knows version {}".format(
                    data.get("version"), DOCUMENT_VERSION
                )
            )
        try:
            network = _tuples(data["network"])
            fields = {
                name: value for name, value in _tuples(data).items() if name in cls.__dataclass_fields__
            }
            fields["network"] = Network(
                **{name: value for name, value in network.items() if name in Network.__dataclass_fields__}
            )
            fields["manifest"] = Manifest.from_json(data["manifest"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError("join document is incomplete: {}".format(error)) from error

    @classmethod
    def loads(cls, text: bytes) -> "JoinDocument":
        """Return the document in the bytes of a file. Raises DocumentError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DocumentError("join document is not JSON: {}".format(error)) from error
        return cls.from_json(data)


@dataclass(frozen=True)
class BootstrapCredential:
    """A standard bootstrap token, valid for minutes, bound to one node by `node_admission`."""

    token: str = field(repr=False)
    expires: str = ""
    """RFC 3339."""

    @classmethod
    def from_json(cls, data: Optional[Mapping[str, Any]]) -> "Optional[BootstrapCredential]":
        return cls(data["token"], data.get("expires", "")) if data else None


def _tuples(data: Mapping[str, Any]) -> Dict[str, Any]:
    """Turn the lists of JSON into the tuples of frozen dataclasses, one level deep."""
    result: Dict[str, Any] = {}
    for name, value in data.items():
        as_list: List[Any] = value if isinstance(value, list) else []
        result[name] = tuple(as_list) if isinstance(value, list) else value
    return result
