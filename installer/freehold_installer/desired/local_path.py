"""Objects of local volumes: one StorageClass each, and the CSIDriver that makes the scheduler ask for room.

No driver runs: the object says that nodes without room for a class are to be left out, as freehold-controller
publishes them (docs/adr/0013).
"""

from typing import Any

from freehold_bootstrap.identities import MANAGED_LABEL, VOLUME_PROVISIONER
from freehold_installer.config.cluster import LocalPathClass, LocalPathProvisioner

DEFAULT_ANNOTATION = "storageclass.kubernetes.io/is-default-class"
_LABELS = {MANAGED_LABEL: "local-path"}


def objects(settings: LocalPathProvisioner) -> list[dict[str, Any]]:
    """Return the driver, then the classes."""
    driver = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": VOLUME_PROVISIONER, "labels": _LABELS},
        "spec": {
            "attachRequired": False,
            "podInfoOnMount": False,
            "storageCapacity": True,
            "volumeLifecycleModes": ["Persistent"],
        },
    }
    return [driver, *(_storage_class(name, found) for name, found in settings.all_classes().items())]


def _storage_class(name: str, settings: LocalPathClass) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": name,
            "labels": _LABELS,
            "annotations": {DEFAULT_ANNOTATION: "true" if settings.default else "false"},
        },
        "provisioner": VOLUME_PROVISIONER,
        "parameters": {"path": settings.path},
        "reclaimPolicy": settings.reclaim_policy,
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": False,
    }
