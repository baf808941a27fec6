"""Join documents as objects: rendered from settings and record; published, with a growing generation."""

import dataclasses
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS, NodeRecord

_ATTEMPTS = 5


def render(settings: ClusterSettings, record: NodeRecord, pod_cidrs: Tuple[str, ...]) -> JoinDocument:
    """Return the document of a node; pure. Its generation is for `publish` to set."""
    return JoinDocument(
        cluster=settings.cluster,
        node=record.node,
        node_uid=record.node_uid,
        addresses=record.addresses,
        endpoints=settings.endpoints,
        artifact_endpoints=settings.artifact_endpoints,
        join_endpoints=settings.join_endpoints,
        ca_pem=settings.ca_pem,
        network=dataclasses.replace(settings.network, node_pod_cidrs=pod_cidrs),
        manifest=settings.manifest,
        control_plane=record.control_plane,
        kubelet=settings.kubelet,
        registries=settings.registries,
        labels=record.labels,
        taints=record.taints,
    )


def publish(
    api: KubernetesApi, document: JoinDocument, stored: Optional[Mapping[str, Any]] = None
) -> JoinDocument:
    """Store the document if it says anything new, with the next generation; return the stored one.

    `stored` is what was read of it a moment ago, which saves reading it again. Raises ApiError,
    OSError; Conflict only when others keep writing the same document.
    """
    path = document_path(document.node)
    for attempt in range(_ATTEMPTS):
        if stored is None or attempt:
            try:
                stored = api.get(path)
            except NotFound:
                stored = None
        if stored is not None:
            generation = generation_of(stored)
            document = dataclasses.replace(document, generation=generation)
            if stored["data"].get("document") == document.dumps().decode():
                return document
            document = dataclasses.replace(document, generation=generation + 1)
        try:
            if stored is None:
                api.create(RECORDS, to_object(document))
            else:
                api.replace(path, to_object(document, stored["metadata"]["resourceVersion"]))
            return document
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
    return document


def to_object(document: JoinDocument, resource_version: str = "") -> Dict[str, Any]:
    """Return the ConfigMap that carries the document."""
    metadata: Dict[str, Any] = {
        "name": document_name(document.node),
        "namespace": NAMESPACE,
        "labels": {RECORD_LABEL: "document"},
    }
    if resource_version:
        metadata["resourceVersion"] = resource_version
    text = document.dumps().decode()
    data = {"document": text, "generation": str(document.generation)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def generation_of(obj: Mapping[str, Any]) -> int:
    """Return the generation that stands beside the document, whatever that one's version; 0: none."""
    try:
        return int(obj["data"]["generation"])
    except (KeyError, ValueError):
        return 0


def text_of(obj: Mapping[str, Any]) -> str:
    """Return the JSON text of the document in a ConfigMap; empty when it holds none."""
    text: str = (obj.get("data") or {}).get("document", "")
    return text


def document_name(node: str) -> str:
    return "document-" + node


def document_path(node: str) -> str:
    return RECORDS + "/" + document_name(node)
