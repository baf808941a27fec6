"""What the control plane knows about a node, in a place where nodes cannot write: one ConfigMap each.

The approver compares requests for certificates with it, the document writer renders from it.
"""

import contextlib
import hashlib
import ipaddress
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import KubernetesApi, NotFound
from freehold_bootstrap.identities import NAMESPACE, PREFIX

RECORDS = "/api/v1/namespaces/" + NAMESPACE + "/configmaps"
ADDRESS_PREFIX = "address." + PREFIX
RECORD_LABEL = PREFIX + "record"
"""`node` on node records, `document` on documents: what a watch selects by."""

Object = Dict[str, Any]


@dataclass(frozen=True)
class NodeRecord:
    """One node as it was admitted."""

    node: str
    addresses: Tuple[str, ...]
    """The only addresses its serving certificates may name; the first is `--node-ip`."""
    join_uid: str
    """The join that made or last replaced it."""
    node_uid: str
    """UID of the Node; a namesake with another one was never admitted."""
    replace: bool = False
    """This join may take over a live Node; cleared when it has."""
    control_plane: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those we keep on the Node."""
    taints: Tuple[Mapping[str, str], ...] = ()
    bootstrap_id: str = ""
    """Id of the bootstrap token that was handed out last and not yet removed."""
    key: str = ""
    """SHA-256 (hex) of the public key that this join's first certificate was given to; empty: none yet."""
    credentials: Optional[Tuple[str, ...]] = None
    """SHA-256 (hex) of the client certificates that this join gave, newest last; None: not known (a record of
    an earlier version), and then any certificate of the node's name counts."""

    source: str = ""
    """Where its machine was last seen to come from, when that is none of its addresses: NAT, or several networks."""

    def to_object(self, resource_version: str = "") -> Object:
        """Return the ConfigMap; with a resourceVersion a replacement fails if somebody was faster."""
        metadata: Object = {
            "name": record_name(self.node),
            "namespace": NAMESPACE,
            "labels": {RECORD_LABEL: "node", **{address_label(address): "" for address in self.addresses}},
        }
        if resource_version:
            metadata["resourceVersion"] = resource_version
        text = json.dumps(asdict(self), sort_keys=True)
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"record": text}}

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> "NodeRecord":
        """Return the record in a ConfigMap. Raises ValueError when it holds none."""
        try:
            data = json.loads(obj["data"]["record"])
            known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
            known["addresses"], known["taints"] = tuple(data["addresses"]), tuple(data.get("taints", ()))
            credentials = data.get("credentials")
            known["credentials"] = None if credentials is None else tuple(credentials)
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a node record: {!r}".format(error)) from error

    @property
    def has_given(self) -> bool:
        """Tell whether this join gave its machine a certificate. If not, and a kubelet reports from the Node all the
        same, it is one that had the name before: its certificate is valid for days, and it reports wherever it can.
        """
        return bool(self.key or self.credentials is None or self.credentials)

    def knows(self, credential: str) -> bool:
        """Tell whether a client certificate (its fingerprint) belongs to the machine that joined last."""
        return self.credentials is None or credential in self.credentials


def address_label(address: str) -> str:
    """Return the label of records with this address (or name): found without reading those of a thousand nodes."""
    with contextlib.suppress(ValueError):
        address = str(ipaddress.ip_address(address))
    return ADDRESS_PREFIX + hashlib.sha256(address.encode()).hexdigest()[:40]


def record_name(node: str) -> str:
    return "node-" + node


def record_path(node: str) -> str:
    return RECORDS + "/" + record_name(node)


def read_object(api: KubernetesApi, node: str) -> Optional[Object]:
    """Return the ConfigMap of a node, None when there is none. Raises ApiError, OSError."""
    try:
        return api.get(record_path(node))
    except NotFound:
        return None


def read(api: KubernetesApi, node: str) -> Optional[NodeRecord]:
    """Return the record of a node, None when there is none. Raises ApiError, OSError, ValueError."""
    obj = read_object(api, node)
    return NodeRecord.from_object(obj) if obj is not None else None


def write(api: KubernetesApi, record: NodeRecord, previous: Optional[Object]) -> None:
    """Create the record, or replace exactly `previous`. Raises Conflict when somebody else was faster."""
    if previous is None:
        api.create(RECORDS, record.to_object())
        return
    wanted = record.to_object(previous["metadata"]["resourceVersion"])
    labels = previous["metadata"].get("labels") or {}
    if NodeRecord.from_object(previous) != record or labels != wanted["metadata"]["labels"]:
        api.replace(record_path(record.node), wanted)
