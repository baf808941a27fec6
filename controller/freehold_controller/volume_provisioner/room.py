"""Which nodes the scheduler is not to choose for a class, because they said that they have no room.

Without it a pod whose node is full would be sent there again and again. A class has one CSIStorageCapacity that
allows every node but those, and one for each of those with what is left there. They are told apart by a digest of what
they say, because their nodes cannot be changed: a new one is made before the old one goes.
"""

import contextlib
import hashlib
import json
import time
from typing import Any, Callable, Dict, Iterable, List, Tuple

from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap import journal
from freehold_bootstrap.identities import MANAGED_LABEL, NAMESPACE, VOLUME_PROVISIONER
from freehold_controller.volume_provisioner.volume_objects import HOSTNAME

CAPACITIES = "/apis/storage.k8s.io/v1/namespaces/{}/csistoragecapacities".format(NAMESPACE)
SELECTOR = MANAGED_LABEL + "=" + VOLUME_PROVISIONER
PATIENCE = 300.0
"""Seconds until a full node is tried again."""
PLENTY = str(1 << 62)


class Room:
    """What nodes said about their room. Not thread-safe: one loop's."""

    def __init__(self, api: KubernetesApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._full: Dict[Tuple[str, str], Tuple[int, float]] = {}
        """(class, node) -> bytes that are left, and until when that counts."""
        self._there: Dict[str, str] = {}
        """Objects by name -> class."""
        self._read = False

    def full(self, class_name: str, node: str, free: int) -> None:
        """Note that a node has only `free` bytes left for a class."""
        self._full[(class_name, node)] = (free, self._clock() + PATIENCE)

    def freed(self, class_name: str, node: str) -> None:
        """Note that a volume of a class went away on a node: there may be room again."""
        self._full.pop((class_name, node), None)

    def publish(self, classes: Iterable[str]) -> int:
        """Bring the objects to what is known; return how many were written. Raises ApiError, OSError."""
        now = self._clock()
        for key in [key for key, (_, until) in self._full.items() if until <= now]:
            journal.info("node is tried again", node=key[1], storage_class=key[0])
            del self._full[key]
        if not self._read:
            listed = self._api.list(CAPACITIES, labelSelector=SELECTOR).get("items") or ()
            self._there = {item["metadata"]["name"]: str(item.get("storageClassName")) for item in listed}
            self._read = True
        wanted: Dict[str, Dict[str, Any]] = {}
        for name in classes:
            free = {node: left for (one, node), (left, _) in self._full.items() if one == name}
            wanted.update({obj["metadata"]["name"]: obj for obj in capacities(name, free)})
        written = 0
        for name, obj in wanted.items():
            if name not in self._there:
                with contextlib.suppress(Conflict):
                    self._api.create(CAPACITIES, obj)
                self._there[name] = obj["storageClassName"]
                written += 1
        for name in [name for name in self._there if name not in wanted]:
            with contextlib.suppress(NotFound):
                self._api.delete(CAPACITIES + "/" + name)
            del self._there[name]
            written += 1
        return written


def capacities(class_name: str, free: Dict[str, int]) -> List[Dict[str, Any]]:
    """Return the objects of a class; `free` has the bytes left on nodes that are full. Pure."""
    everywhere: Dict[str, Any] = {}
    if free:
        everywhere = {"matchExpressions": [{"key": HOSTNAME, "operator": "NotIn", "values": sorted(free)}]}
    found = [_capacity(class_name, everywhere, PLENTY)]
    for node, left in sorted(free.items()):
        if left > 0:
            found.append(_capacity(class_name, {"matchLabels": {HOSTNAME: node}}, str(left)))
    return found


def _capacity(class_name: str, topology: Dict[str, Any], capacity: str) -> Dict[str, Any]:
    said = json.dumps([class_name, topology, capacity], sort_keys=True)
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity",
        "metadata": {
            "name": "local-path-" + hashlib.sha256(said.encode()).hexdigest()[:20],
            "namespace": NAMESPACE,
            "labels": {MANAGED_LABEL: VOLUME_PROVISIONER},
        },
        "storageClassName": class_name,
        "nodeTopology": topology,
        "capacity": capacity,
    }
