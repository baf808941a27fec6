"""Keep lists, PersistentVolumes and claims to what `volume_rules` decides.

One loop looks at mirrors of the cluster and writes; every write is a compare-and-swap, a creation under a name that
follows from the claim, or a deletion of what was seen. Whatever fails is decided anew from what is there then, so a
leader may end between any two calls. Rights: see `freehold_controller.controller`.
"""

import time
from dataclasses import replace
from threading import Event, Thread
from typing import Callable, Dict, List, Set, Tuple

from freehold_agent.contract.volumes import Volume, VolumeList, VolumeReport
from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi, NotFound
from freehold_bootstrap import journal, volume_records
from freehold_bootstrap.identities import NAMESPACE, VOLUME_FINALIZER
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS
from freehold_controller.backoff import Backoff
from freehold_controller.mirror import Mirror
from freehold_controller.volume_provisioner import events
from freehold_controller.volume_provisioner.room import Room
from freehold_controller.volume_provisioner.volume_objects import (
    SELECTED_NODE,
    Claim,
    Persistent,
    VolumeClass,
    claim_of,
    class_of,
    persistent_of,
    persistent_volume,
)
from freehold_controller.volume_provisioner.volume_rules import Decisions, View, decide

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
NODES = "/api/v1/nodes"
GATHER = 0.01
"""Seconds to wait for more changes: a hundred claims at once are a few lists, not a hundred."""
LOOK = 20.0
"""Seconds between two looks when nothing changes: nodes that were full are tried again."""


class VolumeProvisioner:
    """One term's provisioner. `run` blocks until `stop` is set."""

    def __init__(
        self,
        api: KubernetesApi,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._now = now
        self._beat: Callable[[], None] = lambda: None
        self._changed = Event()
        self._events = events.Events(api, identity, now)
        self._room = Room(api, clock)
        changed = self._changed.set
        self._claims = Mirror(api, CLAIMS, changed)
        self._persistent = Mirror(api, VOLUMES, changed)
        self._classes = Mirror(api, CLASSES, changed)
        self._nodes = Mirror(api, NODES, changed, modifications=False)
        self._lists = Mirror(api, RECORDS, changed, labelSelector=RECORD_LABEL + "=" + volume_records.LIST)
        self._reports = Mirror(
            api, RECORDS, changed, labelSelector=RECORD_LABEL + "=" + volume_records.REPORT
        )

    @property
    def mirrors(self) -> Tuple[Mirror, ...]:
        return (self._nodes, self._classes, self._persistent, self._claims, self._lists, self._reports)

    def run(self, stop: Event, beat: Callable[[], None] = lambda: None) -> None:
        """Provision until stopped; `beat` is a sign of life."""
        self._beat = beat
        for mirror in self.mirrors:
            Thread(target=mirror.run, args=(stop,), name="mirror", daemon=True).start()
        backoff = Backoff(stop, longest=5.0)
        while not stop.is_set():
            beat()
            if not self._changed.wait(LOOK):
                self._changed.set()
            stop.wait(GATHER)
            self._changed.clear()
            if not all(mirror.synced for mirror in self.mirrors):
                stop.wait(GATHER)
                continue
            try:
                self.step()
                backoff.reset()
            except (ApiError, OSError) as error:
                # A conflict says that somebody was faster: the mirror will know in a moment.
                if not isinstance(error, Conflict):
                    journal.warning("volumes are tried again", error=str(error))
                self._changed.set()
                backoff.pause()

    def step(self) -> Decisions:
        """Look once and write what follows; return what was decided. Raises ApiError, OSError."""
        view = self._view()
        decisions = decide(view)
        for node, name in decisions.unused:
            if self._is_used(node, name):
                self._keep(decisions, view.lists[node], node, name)
        for node, volumes in decisions.lists.items():
            self._write_list(node, volumes)
        for claim in decisions.create:
            self._create(claim, view.classes[claim.class_name])
        for claim, refusal in decisions.move:
            self._room.full(claim.class_name, claim.node, refusal.free)
        self._room.publish(sorted(view.classes))
        for claim, refusal in decisions.move:
            self._move(claim, refusal.message)
        for persistent in decisions.remove:
            self._remove(persistent)
            for found in view.classes.values():
                if found.base == persistent.base:
                    self._room.freed(found.name, persistent.node)
        for claim, why in decisions.misfits:
            self._events.about_claim(claim, "ProvisioningFailed", why)
        for persistent, why in decisions.faults:
            said = "on node {}: {}".format(persistent.node, why)
            self._events.about_volume(persistent, "VolumeFailed", said)
        return decisions

    def _view(self) -> View:
        classes = {found.name: found for found in map(class_of, self._classes.items()) if found is not None}
        claims: List[Claim] = []
        for obj in self._claims.items():
            if (obj.get("spec") or {}).get("storageClassName") in classes:
                try:
                    claims.append(claim_of(obj))
                except ValueError as error:
                    journal.error("claim cannot be read", name=obj["metadata"]["name"], error=str(error))
        persistent = [found for found in map(persistent_of, self._persistent.items()) if found is not None]
        nodes: Set[str] = {obj["metadata"]["name"] for obj in self._nodes.items()}
        return View(classes, claims, persistent, nodes, self._all_lists(), self._all_reports())

    def _all_lists(self) -> Dict[str, VolumeList]:
        """Return each node's list. One that cannot be read is an error: to go on would be to forget its volumes."""
        found = {}
        for obj in self._lists.items():
            node = volume_records.node_of(volume_records.LIST, obj)
            try:
                found[node] = volume_records.list_in(obj)
            except ValueError as error:
                raise ConnectionError("list of volumes of {}: {}".format(node, error)) from error
        return found

    def _all_reports(self) -> Dict[str, VolumeReport]:
        found = {}
        for obj in self._reports.items():
            node = volume_records.node_of(volume_records.REPORT, obj)
            try:
                found[node] = volume_records.report_in(obj)
            except ValueError as error:
                journal.warning("report about volumes cannot be read", node=node, error=str(error))
        return found

    def _is_used(self, node: str, volume: str) -> bool:
        """Ask whether a volume exists on that node, whatever the mirror says: its data is about to be removed."""
        try:
            obj = self._api.get(VOLUMES + "/" + volume)
        except NotFound:
            return False
        self._persistent.put(obj)
        self._changed.set()
        found = persistent_of(obj)
        return found is None or found.node == node

    def _keep(self, decisions: Decisions, listed: VolumeList, node: str, name: str) -> None:
        """Put a volume back into a node's list as it was."""
        old = {volume.name: volume for volume in listed.volumes}
        volumes = tuple(
            old[name] if volume.name == name else volume for volume in decisions.lists.get(node, ())
        )
        if volumes == listed.volumes:
            decisions.lists.pop(node, None)
        else:
            decisions.lists[node] = volumes

    def _write_list(self, node: str, volumes: Tuple[Volume, ...]) -> None:
        """Write a node's next list. Raises Conflict when it changed meanwhile, ApiError, OSError."""
        self._beat()
        key = "{}/{}".format(NAMESPACE, volume_records.name_of(volume_records.LIST, node))
        stored = self._lists.get(key)
        previous = volume_records.generation_of(stored) if stored is not None else 0
        generation = volume_records.next_generation(previous, self._now)
        dated = tuple(volume if volume.since else replace(volume, since=generation) for volume in volumes)
        version = stored["metadata"]["resourceVersion"] if stored is not None else None
        wanted = VolumeList(generation, dated)
        self._lists.put(volume_records.write_list(self._api, node, wanted, version))

    def _create(self, claim: Claim, volume_class: VolumeClass) -> None:
        """Create a claim's PersistentVolume: from here on its data is somebody's."""
        self._beat()
        try:
            made = self._api.create(VOLUMES, persistent_volume(claim, volume_class))
        except Conflict:
            made = self._api.get(VOLUMES + "/" + claim.volume)
        self._persistent.put(made)
        self._changed.set()
        journal.info("volume created", volume=claim.volume, claim=claim.key, node=claim.node)

    def _move(self, claim: Claim, why: str) -> None:
        """Take a claim's node from it, so that its pod goes elsewhere; a claim that has changed is looked at again."""
        self._beat()
        namespace, _, name = claim.key.partition("/")
        patch = {
            "metadata": {"annotations": {SELECTED_NODE: None}, "resourceVersion": claim.resource_version}
        }
        path = "/api/v1/namespaces/{}/persistentvolumeclaims/{}".format(namespace, name)
        try:
            self._claims.put(self._api.merge(path, patch))
        except (Conflict, NotFound):
            return
        self._changed.set()
        journal.notice("claim goes elsewhere", claim=claim.key, node=claim.node, reason=why)
        said = "node {}: {}; another node is looked for".format(claim.node, why)
        # The claim has changed: when the same happens to it again, that is news.
        self._events.about_claim(claim, "ProvisioningFailed", said, claim.resource_version)

    def _remove(self, volume: Persistent) -> None:
        """Let a PersistentVolume go; its data is gone, or is to stay without it."""
        self._beat()
        path = VOLUMES + "/" + volume.name
        finalizers, version = list(volume.finalizers), volume.resource_version
        try:
            if not volume.leaving:
                left = self._api.delete(path)
                if left.get("kind") != "PersistentVolume":
                    left = self._api.get(path)
                finalizers = list(left["metadata"].get("finalizers") or ())
                version = left["metadata"]["resourceVersion"]
            if VOLUME_FINALIZER in finalizers:
                finalizers.remove(VOLUME_FINALIZER)
                patch = {"metadata": {"finalizers": finalizers or None, "resourceVersion": version}}
                self._api.merge(path, patch)
        except NotFound:
            pass
        except Conflict:
            return  # somebody holds it, too: the mirror will say who
        self._persistent.drop(volume.name)
        self._changed.set()
        journal.info("volume removed", volume=volume.name, node=volume.node)
