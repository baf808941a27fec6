"""Local volumes as objects: per node a list that the controller writes and a report that the join service writes.

Both lie where nodes cannot write. A report changes only when it says something new.
"""

import json
import time
from typing import Any, Callable, Dict, Mapping, Optional

from freehold_agent.contract.volumes import VolumeList, VolumeReport
from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS, Object

LIST, REPORT = "volumes", "volume-report"
"""Values of RECORD_LABEL, beginnings of names and keys of the data."""
_ATTEMPTS = 5


def name_of(kind: str, node: str) -> str:
    """Return the name of a node's list or report."""
    return "{}-{}".format(kind, node)


def node_of(kind: str, obj: Mapping[str, Any]) -> str:
    """Return the node that a list or report is about."""
    name: str = obj["metadata"]["name"]
    return name[len(kind) + 1 :]


def generation_of(obj: Mapping[str, Any]) -> int:
    """Return the generation that stands beside a list; 0: none."""
    try:
        return int(obj["data"]["generation"])
    except (KeyError, ValueError, TypeError):
        return 0


def text_of(obj: Mapping[str, Any]) -> str:
    """Return the JSON text of a list; empty when it holds none."""
    text: str = (obj.get("data") or {}).get(LIST, "")
    return text


def list_in(obj: Mapping[str, Any]) -> VolumeList:
    """Return the list in a ConfigMap. Raises ValueError."""
    return VolumeList.from_json(json.loads(text_of(obj) or "null"))


def report_in(obj: Mapping[str, Any]) -> VolumeReport:
    """Return the report in a ConfigMap. Raises ValueError."""
    return VolumeReport.from_json(json.loads((obj.get("data") or {}).get(REPORT) or "null"))


def next_generation(previous: int, now: Callable[[], float] = time.time) -> int:
    """Return a greater generation, from the clock: also after the data store was put back to an earlier day."""
    return max(previous + 1, int(now() * 1000))


def write_list(api: KubernetesApi, node: str, wanted: VolumeList, version: Optional[str]) -> Object:
    """Create a node's list, or replace the one of that resourceVersion. Raises Conflict, ApiError, OSError."""
    data = {LIST: json.dumps(wanted.to_json(), sort_keys=True), "generation": str(wanted.generation)}
    body = _object(LIST, node, data, version)
    if version is None:
        return api.create(RECORDS, body)
    return api.replace(RECORDS + "/" + name_of(LIST, node), body)


def store_report(api: KubernetesApi, node: str, report: VolumeReport) -> bool:
    """Keep what a node says, unless it is said already or about an older list; True when it was new.

    Raises ApiError, OSError; Conflict only when others keep writing the same report.
    """
    path = RECORDS + "/" + name_of(REPORT, node)
    data = {REPORT: json.dumps(report.to_json(), sort_keys=True)}
    for attempt in range(_ATTEMPTS):
        try:
            stored = api.get(path)
        except NotFound:
            stored = None
        if stored is not None and (stored.get("data") == data or _generation(stored) > report.generation):
            return False
        try:
            if stored is None:
                api.create(RECORDS, _object(REPORT, node, data, None))
            else:
                version = stored["metadata"]["resourceVersion"]
                api.replace(path, _object(REPORT, node, data, version))
            return True
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
    return False


def _generation(obj: Mapping[str, Any]) -> int:
    try:
        return report_in(obj).generation
    except ValueError:
        return 0


def _object(kind: str, node: str, data: Dict[str, str], version: Optional[str]) -> Object:
    metadata: Object = {
        "name": name_of(kind, node),
        "namespace": NAMESPACE,
        "labels": {RECORD_LABEL: kind},
    }
    if version is not None:
        metadata["resourceVersion"] = version
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
