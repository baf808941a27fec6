"""Write all nodes' documents anew when the cluster's settings change.

The installer writes the settings as a ConfigMap; a new node's document is written by its admission. Each
document that says anything new gets the next generation, which its agent sees by long poll. Judges nothing.
"""

import json
from threading import Event
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import documents, journal
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS, NodeRecord
from freehold_controller.backoff import Backoff

SETTINGS = "cluster-settings"
SETTINGS_KEY = "settings"
"""Key of the ConfigMap whose value is ClusterSettings as JSON."""
NODES = "/api/v1/nodes"
_WATCH_SECONDS = 60.0


class NodeDocuments:
    """One term's writer of documents."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._written: Optional[str] = None
        """The settings that all documents were written from."""

    def run(self, stop: Event) -> None:
        """Follow the settings until stopped."""
        backoff = Backoff(stop, longest=5.0)
        while not stop.is_set():
            try:
                self._follow(stop)
                backoff.reset()
            except (ApiError, OSError) as error:
                if getattr(error, "status", 0) != 410:
                    journal.warning("node documents are tried again", error=str(error))
                backoff.pause()

    def write_all(self, settings_object: Mapping[str, Any]) -> int:
        """Write every node's document; return how many say something new. Raises ApiError, OSError.

        Settings that cannot be read change nothing: nodes keep the documents they have.
        """
        text = (settings_object.get("data") or {}).get(SETTINGS_KEY) or ""
        if text == self._written:
            return 0
        try:
            settings = ClusterSettings.from_json(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            journal.error("cluster settings cannot be read", error=str(error))
            return 0
        nodes = {node["metadata"]["name"]: node for node in self._api.list(NODES).get("items") or ()}
        stored = self._stored_documents()
        written = 0
        for obj in self._api.list(RECORDS, labelSelector=RECORD_LABEL + "=node").get("items") or ():
            written += self._write(settings, obj, nodes, stored)
        self._written = text
        if written:
            journal.info("node documents written", count=written)
        return written

    def _stored_documents(self) -> Dict[str, Any]:
        """Return all documents there are, by name: a thousand nodes are not asked for one by one."""
        listed = self._api.list(RECORDS, labelSelector=RECORD_LABEL + "=document").get("items") or ()
        return {obj["metadata"]["name"]: obj for obj in listed}

    def _write(
        self,
        settings: ClusterSettings,
        obj: Mapping[str, Any],
        nodes: Mapping[str, Any],
        stored: Mapping[str, Any],
    ) -> int:
        try:
            record = NodeRecord.from_object(obj)
        except ValueError as error:
            journal.error("node record cannot be read", name=obj["metadata"]["name"], error=str(error))
            return 0
        pod_cidrs = _pod_cidrs(nodes.get(record.node), record)
        if not pod_cidrs:
            return 0  # being admitted or removed: not ours to write
        known = stored.get(documents.document_name(record.node))
        document = documents.publish(self._api, documents.render(settings, record, pod_cidrs), known)
        return int(known is None or document.generation != documents.generation_of(known))

    def _follow(self, stop: Event) -> None:
        selector = "metadata.name=" + SETTINGS
        listing = self._api.list(RECORDS, fieldSelector=selector)
        for obj in listing.get("items") or ():
            self.write_all(obj)
        version = str(listing["metadata"]["resourceVersion"])
        while not stop.is_set():
            for kind, obj in self._api.watch(
                RECORDS, version, timeout=_WATCH_SECONDS, fieldSelector=selector
            ):
                version = str(obj["metadata"]["resourceVersion"])
                if stop.is_set():
                    return
                if kind in ("ADDED", "MODIFIED"):
                    self.write_all(obj)


def _pod_cidrs(node: Optional[Mapping[str, Any]], record: NodeRecord) -> Tuple[str, ...]:
    if node is None or node["metadata"].get("uid") != record.node_uid:
        return ()
    return tuple((node.get("spec") or {}).get("podCIDRs") or ())
