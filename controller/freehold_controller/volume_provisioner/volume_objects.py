"""Claims, classes and volumes of Kubernetes as the rules see them, and the PersistentVolumes we make. Pure."""

import decimal
import re
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_agent.contract import paths
from freehold_agent.contract.volumes import name_is_good
from freehold_bootstrap.identities import PROVISIONED_BY, VOLUME_FINALIZER, VOLUME_PROVISIONER

SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROTECTION = "kubernetes.io/pv-protection"
HOSTNAME = "kubernetes.io/hostname"
MODES = ("ReadWriteOnce", "ReadWriteOncePod")
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][-+]?[0-9]+)?)([A-Za-z]{0,2})\Z")
_UNITS = {
    "": 1,
    "m": decimal.Decimal("0.001"),
    **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit + "i": 1024**power for power, unit in enumerate(("K", "M", "G", "T", "P", "E"), 1)},
}


@dataclass(frozen=True)
class VolumeClass:
    """A StorageClass of ours."""

    name: str
    base: str
    retain: bool
    waits: bool
    """Volumes are made once a pod that wants one has a node."""
    mount_options: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim that wants a volume of ours."""

    key: str
    """`namespace/name`."""
    uid: str
    resource_version: str
    class_name: str
    node: str
    """Where the scheduler wants it; empty: nowhere yet."""
    capacity: int
    """Bytes."""
    quantity: str
    """The same as it was written."""
    access_modes: Tuple[str, ...]
    bound_to: str
    """Name of its PersistentVolume; empty: none yet."""
    leaving: bool
    misfit: str
    """What it asks for and cannot have from us; empty: nothing."""

    @property
    def volume(self) -> str:
        """Return the name of its volume, PersistentVolume and directory alike."""
        return "pvc-" + self.uid

    @property
    def reference(self) -> Dict[str, str]:
        namespace, _, name = self.key.partition("/")
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace,
            "name": name,
            "uid": self.uid,
        }


@dataclass(frozen=True)
class Persistent:
    """A PersistentVolume of ours."""

    name: str
    uid: str
    resource_version: str
    node: str
    base: str
    capacity: int
    retain: bool
    phase: str
    leaving: bool
    finalizers: Tuple[str, ...]

    @property
    def doomed(self) -> bool:
        """Say whether its data is to be removed: nobody uses it any more, and its class wants that."""
        return not self.retain and (self.phase == "Released" or self.free_to_go)

    @property
    def free_to_go(self) -> bool:
        """Say whether somebody deleted it and nothing but us holds it."""
        return self.leaving and PROTECTION not in self.finalizers


def class_of(obj: Mapping[str, Any]) -> Optional[VolumeClass]:
    """Return what a StorageClass says, None when it is not ours."""
    if obj.get("provisioner") != VOLUME_PROVISIONER:
        return None
    return VolumeClass(
        str(obj["metadata"]["name"]),
        str((obj.get("parameters") or {}).get("path") or paths.VOLUMES),
        obj.get("reclaimPolicy") == "Retain",
        obj.get("volumeBindingMode") == "WaitForFirstConsumer",
        tuple(obj.get("mountOptions") or ()),
    )


def claim_of(obj: Mapping[str, Any]) -> Claim:
    """Return what a PersistentVolumeClaim says. Raises ValueError for one that cannot be read."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    asked = str(((spec.get("resources") or {}).get("requests") or {}).get("storage") or "0")
    modes = tuple(spec.get("accessModes") or ())
    return Claim(
        key="{}/{}".format(metadata["namespace"], metadata["name"]),
        uid=str(metadata["uid"]),
        resource_version=str(metadata["resourceVersion"]),
        class_name=str(spec.get("storageClassName") or ""),
        node=str((metadata.get("annotations") or {}).get(SELECTED_NODE) or ""),
        capacity=quantity(asked),
        quantity=asked,
        access_modes=modes,
        bound_to=str(spec.get("volumeName") or ""),
        leaving=bool(metadata.get("deletionTimestamp")),
        misfit=_misfit(spec, modes),
    )


def persistent_of(obj: Mapping[str, Any]) -> Optional[Persistent]:
    """Return what a PersistentVolume says, None when it is not one that we made."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    name = str(metadata["name"])
    if (metadata.get("annotations") or {}).get(PROVISIONED_BY) != VOLUME_PROVISIONER:
        return None
    base, _, last = str((spec.get("local") or {}).get("path") or "").rpartition("/")
    node = _node_in(spec)
    if last != name or not name_is_good(name) or not node:
        return None
    return Persistent(
        name=name,
        uid=str(metadata["uid"]),
        resource_version=str(metadata["resourceVersion"]),
        node=node,
        base=base,
        capacity=quantity(str((spec.get("capacity") or {}).get("storage") or "0")),
        retain=spec.get("persistentVolumeReclaimPolicy") != "Delete",
        phase=str((obj.get("status") or {}).get("phase") or ""),
        leaving=bool(metadata.get("deletionTimestamp")),
        finalizers=tuple(metadata.get("finalizers") or ()),
    )


def persistent_volume(claim: Claim, volume_class: VolumeClass) -> Dict[str, Any]:
    """Return the PersistentVolume of a claim whose directory is there."""
    place = {"key": HOSTNAME, "operator": "In", "values": [claim.node]}
    spec: Dict[str, Any] = {
        "capacity": {"storage": claim.quantity},
        "accessModes": list(claim.access_modes),
        "persistentVolumeReclaimPolicy": "Retain" if volume_class.retain else "Delete",
        "storageClassName": volume_class.name,
        "volumeMode": "Filesystem",
        "claimRef": claim.reference,
        "local": {"path": volume_class.base + "/" + claim.volume},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}},
    }
    if volume_class.mount_options:
        spec["mountOptions"] = list(volume_class.mount_options)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": claim.volume,
            "annotations": {PROVISIONED_BY: VOLUME_PROVISIONER},
            "finalizers": [VOLUME_FINALIZER],
        },
        "spec": spec,
    }


def quantity(text: str) -> int:
    """Return a quantity of Kubernetes (`1.5Gi`, `500M`, `1e9`) in whole units, rounded up. Raises ValueError."""
    match = _QUANTITY.match(text)
    if match is None or match.group(2) not in _UNITS:
        raise ValueError("not a quantity: {!r}".format(text))
    try:
        exact = decimal.Decimal(match.group(1)) * _UNITS[match.group(2)]
        if exact >= 1 << 62:
            return 1 << 62
        return int(exact.to_integral_value(decimal.ROUND_CEILING))
    except decimal.DecimalException:
        raise ValueError("not a quantity: {!r}".format(text)) from None


def _misfit(spec: Mapping[str, Any], modes: Tuple[str, ...]) -> str:
    if spec.get("volumeMode") == "Block":
        return "local volumes are directories, not block devices"
    if not modes or any(mode not in MODES for mode in modes):
        return "a local volume is on one node: it can be {} only".format(" or ".join(MODES))
    if spec.get("dataSource") or spec.get("dataSourceRef"):
        return "a local volume starts empty: it cannot be made from a snapshot or another volume"
    if spec.get("selector"):
        return "local volumes are made as they are needed: a claim cannot select one"
    return ""


def _node_in(spec: Mapping[str, Any]) -> str:
    """Return the one node that a volume of ours names; empty for anything else."""
    try:
        (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
        (place,) = term["matchExpressions"]
        (node,) = place["values"]
    except (KeyError, TypeError, ValueError):
        return ""
    return str(node) if place.get("key") == HOSTNAME and place.get("operator") == "In" else ""
