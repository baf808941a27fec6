"""A cluster with local volumes, its provisioner and a clock; reports come as from the agents of its nodes."""

import threading
from typing import Any, Dict, List, Optional

from tests.support import volumes
from tests.support.fake_kubernetes import FakeKubernetes

from freehold_agent.contract.volumes import VolumeReport
from freehold_bootstrap import volume_records
from freehold_bootstrap.node_record import RECORDS
from freehold_controller.volume_provisioner.provisioner import CLASSES, NODES, VOLUMES, VolumeProvisioner
from freehold_controller.volume_provisioner.volume_objects import SELECTED_NODE

UID = "00000000-0000-4000-8000-{:012x}"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
EVENTS = "/api/v1/namespaces/default/events"


class VolumeHouse:
    """A cluster with nodes w1 and w2; what their agents say is up to the test."""

    def __init__(self) -> None:
        self.api = FakeKubernetes()
        self.time = 1000.0
        self.api.add(CLASSES + "/local-path", volumes.storage_class("local-path", "/srv/v"))
        self.api.add(CLASSES + "/kept", volumes.storage_class("kept", "/srv/v", "Retain"))
        for node in ("w1", "w2"):
            self.api.add(NODES + "/" + node, {"metadata": {"name": node}})
        self.provisioner = self.new()

    def new(self) -> VolumeProvisioner:
        return VolumeProvisioner(self.api, "cp1", clock=lambda: self.time, now=lambda: self.time)

    def claim(self, number: int = 1, node: Optional[str] = "w1", storage_class: str = "local-path") -> str:
        body = volumes.claim("c{}".format(number), "1Gi", storage_class)
        body["metadata"].update(namespace="default", uid=UID.format(number))
        if node:
            body["metadata"]["annotations"] = {SELECTED_NODE: node}
        self.api.add("{}/c{}".format(CLAIMS, number), body)
        return "pvc-" + UID.format(number)

    def step(self, times: int = 1) -> None:
        """Look at everything as it is, and write what follows."""
        for _ in range(times):
            self.see()
            self.provisioner.step()

    def see(self) -> None:
        """Look at everything as it is."""
        ended = threading.Event()
        ended.set()
        for mirror in self.provisioner.mirrors:
            mirror._api = _Still(self.api)  # type: ignore[assignment]
            mirror.follow(ended)

    def wanted(self, node: str = "w1") -> Dict[str, str]:
        """Return the states that a node's list asks for."""
        path = RECORDS + "/volumes-" + node
        if path not in self.api.objects:
            return {}
        return {
            volume.name: volume.state for volume in volume_records.list_in(self.api.objects[path]).volumes
        }

    def report(self, node: str = "w1", **said: Any) -> None:
        """Report as the agent of a node about its present list."""
        listed = volume_records.list_in(self.api.objects[RECORDS + "/volumes-" + node])
        volume_records.store_report(self.api, node, VolumeReport(listed.generation, **said))

    def bind(self, name: str, number: int = 1, phase: str = "Bound") -> None:
        """Do what the controller manager does with a new PersistentVolume."""
        self.api.merge(VOLUMES + "/" + name, {"status": {"phase": phase}}, "status")
        if phase == "Bound":
            self.api.merge("{}/c{}".format(CLAIMS, number), {"spec": {"volumeName": name}})

    def events(self) -> List[str]:
        return [self.api.objects[path]["message"] for path in self.api.paths(EVENTS)]

    def provisioned(self, **options: Any) -> str:
        """Return a volume that is bound."""
        name = self.claim(**options)
        self.step()
        self.report(made=(name,))
        self.step()
        self.bind(name)
        self.step()
        return name


class _Still:
    """An API whose watches say nothing: a mirror is what one list says."""

    def __init__(self, api: FakeKubernetes) -> None:
        self._api = api

    def list(self, path: str, **query: Any) -> Dict[str, Any]:
        return self._api.list(path, **query)
