"""Verbs for single nodes, whichever way they joined: list, show, set, drain, remove, rejoin.

All go through the API of the control plane; no node is connected to. What the inventory says of a machine is changed
there, not here.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from freehold_agent.contract import paths
from freehold_agent.contract.conditions import DRIFT
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap import documents, node_admission, node_record
from freehold_bootstrap.node_admission import NODES, NodeRequest
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS, NodeRecord
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError, StepError
from freehold_installer.phases import leave, report, tokens
from freehold_installer.phases.membership import admin_api, installer_api, settings_of, taint_text

PODS = "/api/v1/pods"
ROLE_PREFIX = "node-role.kubernetes.io/"
TOO_MANY_REQUESTS = 429
ENDED = ("Succeeded", "Failed")
PODS_LEAVE = 20.0
"""Seconds for whoever holds a deleted pod to let it go."""
_PAUSE = 0.5

Taint = Mapping[str, str]


def listing(run: Run) -> list[dict[str, Any]]:
    """Return every node, with how it joined. Raises FreeholdError."""
    with admin_api(run) as api:
        records = {record.node: record for record in _records(api)}
        return [_row(run, node, records) for node in api.list(NODES)["items"]]


def show(run: Run, name: str) -> dict[str, Any]:
    """Return what the cluster knows of a node: Node, record, document, tokens. Raises FreeholdError."""
    with admin_api(run) as api:
        node, record = _known(api, name)
        found = _row(run, node, {name: record} if record else {})
        info = node["status"].get("nodeInfo", {})
        found["drift"] = _drift(node)
        found["unschedulable"] = bool(node["spec"].get("unschedulable"))
        found["taintsNow"] = [taint_text(taint) for taint in node["spec"].get("taints") or ()]
        found["system"] = {
            name: info.get(name, "") for name in ("osImage", "kernelVersion", "containerRuntimeVersion")
        }
        if record is not None:
            found["admittedAddresses"] = list(record.addresses)
            found["labels"] = dict(record.labels)
            found["taints"] = [taint_text(taint) for taint in record.taints]
        with contextlib.suppress(NotFound):
            found["documentGeneration"] = documents.generation_of(api.get(documents.document_path(name)))
        found["tokens"] = [row for row in tokens.rows(api) if row["node"] == name]
        return found


def _drift(node: Mapping[str, Any]) -> str:
    """Return what the node's agent says differs there and was not put back; `unknown` where it has not said a word."""
    conditions = node["status"].get("conditions", [])
    found = next((one for one in conditions if one["type"] == DRIFT), None)
    if found is None:
        return "unknown"
    return str(found.get("message", "")) if found["status"] == "True" else "none"


def change(
    run: Run,
    name: str,
    *,
    labels: Mapping[str, str],
    without_labels: Sequence[str],
    taints: Sequence[Taint],
    without_taints: Sequence[str],
) -> dict[str, Any]:
    """Change labels and taints that the control plane keeps on a node. Raises FreeholdError."""
    if name in run.inventory.hosts:
        raise InputError(
            f"labels and taints of {name} stand in the inventory",
            hint=f"change hosts.{name} in {run.inventory.path} and run freehold apply",
        )
    run.begin_changes()
    with installer_api(run) as api:
        _, record = _known(api, name)
        if record is None:
            raise InputError(f"node {name} was not admitted by freehold", hint="kubectl label, kubectl taint")
        wanted = {k: v for k, v in record.labels.items() if not k.startswith(ROLE_PREFIX)}
        _require(without_labels, wanted, name, "label")
        wanted = {k: v for k, v in {**wanted, **labels}.items() if k not in without_labels}
        kept = {(taint["key"], taint["effect"]): dict(taint) for taint in record.taints}
        kept |= {(taint["key"], taint["effect"]): dict(taint) for taint in taints}
        _require(without_taints, [key for key, _ in kept], name, "taint")
        document = node_admission.admit(
            api,
            NodeRequest(
                name=name,
                addresses=record.addresses,
                labels=wanted,
                taints=tuple(taint for taint in kept.values() if taint["key"] not in without_taints),
                control_plane=record.control_plane,
                join_uid=record.join_uid,
            ),
            settings_of(api),
        )
    return {
        "node": name,
        "labels": dict(document.labels),
        "taints": [taint_text(taint) for taint in document.taints],
        "generation": document.generation,
    }


def drain(run: Run, name: str, timeout: float) -> list[str]:
    """Keep new pods off a node and evict those that can go elsewhere; return their names. Raises FreeholdError.

    Disruption budgets are honoured, for at most `timeout` seconds.
    """
    with admin_api(run) as api:
        _known(api, name)
        return _drain(run, api, name, timeout)


def uncordon(run: Run, name: str) -> None:
    """Let pods onto a node again. Raises FreeholdError."""
    with admin_api(run) as api:
        _known(api, name)
        api.merge(f"{NODES}/{name}", {"spec": {"unschedulable": None}})


def remove(run: Run, name: str, *, drain_for: float) -> dict[str, Any]:
    """Take a node out of the cluster: from then on its credential is worth nothing. Raises FreeholdError.

    Pods are evicted first for at most `drain_for` seconds; 0: not at all. Nothing is changed on the machine.
    """
    if name in {host.name for host in run.inventory.control_planes}:
        raise InputError(f"{name} holds the control plane", hint="freehold reset removes the whole cluster")
    run.begin_changes()
    with admin_api(run) as api:
        node = _node(api, name)
        record = node_record.read(api, name)
        spent = tokens.delete_of_node(api, name)
        if node is None and record is None and not spent and not _pods(api, name):
            raise InputError(f"there is no node {name}", hint="freehold node list")
        if node is not None and drain_for > 0:
            _drain(run, api, name, drain_for)
        leave.expel(api, name)
        pods = _forget_pods(api, name)
    addresses = record.addresses if record is not None else _addresses(node)
    for machine in run.machines.values():
        _cut_connections(run, machine, addresses)
    return {"node": name, "podsDeleted": pods, "tokensDeleted": spent}


def rejoin(run: Run, name: str, request: tokens.TokenRequest) -> dict[str, Any]:
    """Make a token with which the machine of a node joins again, as what it was. Raises FreeholdError."""
    with installer_api(run) as api:
        _, record = _known(api, name)
        if record is None:
            raise InputError(f"node {name} was not admitted by freehold")
        if record.control_plane:
            raise InputError(f"{name} is a control plane; it joins by freehold apply")
        wanted = tokens.TokenRequest(
            node=name,
            lifetime=request.lifetime,
            cidr=request.cidr,
            addresses=request.addresses or record.addresses,
            labels={k: v for k, v in record.labels.items() if not k.startswith(ROLE_PREFIX)},
            taints=record.taints,
            replace=True,
        )
        return tokens.create_with(run, api, wanted)


def _row(run: Run, node: Mapping[str, Any], records: Mapping[str, NodeRecord]) -> dict[str, Any]:
    name = node["metadata"]["name"]
    known = name in run.inventory.hosts
    way = "inventory" if known else "token" if name in records else "not by freehold"
    row = report.node_row(node)
    row["joined"] = way
    return row


def _records(api: KubernetesApi) -> Iterator[NodeRecord]:
    for obj in api.list(RECORDS, labelSelector=f"{RECORD_LABEL}=node")["items"]:
        with contextlib.suppress(ValueError):
            yield NodeRecord.from_object(obj)


def _node(api: KubernetesApi, name: str) -> dict[str, Any] | None:
    try:
        return api.get(f"{NODES}/{name}")
    except NotFound:
        return None


def _known(api: KubernetesApi, name: str) -> tuple[dict[str, Any], NodeRecord | None]:
    node = _node(api, name)
    if node is None:
        raise InputError(f"there is no node {name}", hint="freehold node list")
    return node, node_record.read(api, name)


def _require(names: Sequence[str], present: Any, node: str, what: str) -> None:
    for name in names:
        if name not in present:
            raise InputError(f"freehold keeps no {what} {name} on {node}", hint=f"freehold node show {node}")


def _drain(
    run: Run,
    api: KubernetesApi,
    name: str,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    api.merge(f"{NODES}/{name}", {"spec": {"unschedulable": True}})
    deadline = clock() + timeout
    evicted: dict[str, None] = {}
    told = ""
    while True:
        left, refusals = [], []
        for pod in _pods(api, name):
            if not _evictable(pod):
                continue
            title = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            left.append(title)
            if pod["metadata"].get("deletionTimestamp"):
                continue
            refused = _evict(api, pod)
            if refused:
                refusals.append(f"{title}: {refused}")
            else:
                evicted[title] = None
        if not left:
            return list(evicted)
        if clock() > deadline:
            raise StepError(
                name,
                "drain",
                f"{', '.join(left)} did not leave within {timeout:g} s",
                hint="\n".join(refusals) or "they take longer to end; wait, or give a longer --timeout",
            )
        if refusals and refusals[0] != told:
            told = refusals[0]
            run.note(f"waiting: {told}")
        time.sleep(_PAUSE)


def _pods(api: KubernetesApi, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.list(PODS, fieldSelector=f"spec.nodeName={name}")["items"]
    return found


def _evictable(pod: Mapping[str, Any]) -> bool:
    """Say whether a pod can go elsewhere: not one of a DaemonSet or of the kubelet itself, not one that has ended."""
    metadata = pod["metadata"]
    if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
        return False
    if any(owner.get("kind") == "DaemonSet" for owner in metadata.get("ownerReferences") or ()):
        return False
    return pod.get("status", {}).get("phase") not in ENDED


def _evict(api: KubernetesApi, pod: Mapping[str, Any]) -> str:
    """Ask for an eviction; return why not, empty when it was granted."""
    place, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": place},
    }
    try:
        api.create(f"/api/v1/namespaces/{place}/pods/{name}/eviction", body)
    except NotFound:
        return ""
    except ApiError as error:
        if error.status == TOO_MANY_REQUESTS:
            return error.message
        raise
    return ""


def _forget_pods(api: KubernetesApi, name: str, clock: Callable[[], float] = time.monotonic) -> int:
    """Delete the pods of a node that is gone and return how many there were. Raises StepError when some stay.

    The authorizer lets a node read what its pods name for as long as they are listed, whether or not it exists.
    """
    told: set[str] = set()
    deadline = clock() + PODS_LEAVE
    while pods := _pods(api, name):
        for pod in pods:
            if pod["metadata"]["uid"] in told:
                continue
            with contextlib.suppress(NotFound):
                if pod.get("status", {}).get("phase") not in ENDED:
                    # A Job counts its pods by how they end, and holds each until then.
                    ended = {"status": {"phase": "Failed", "reason": "NodeRemoved"}}
                    api.merge(_path(pod), ended, subresource="status")
                api.delete(_path(pod), gracePeriodSeconds=0)
            told.add(pod["metadata"]["uid"])
        if clock() > deadline:
            raise StepError(
                name,
                "delete its pods",
                f"{name} is out of the cluster, but {', '.join(map(_held, pods))}; while a pod is listed, "
                "the machine's certificate reads the Secrets that the pod names",
                hint="put an end to that and run the same command again",
            )
        time.sleep(_PAUSE)
    return len(told)


def _addresses(node: Mapping[str, Any] | None) -> list[str]:
    entries = (node or {}).get("status", {}).get("addresses") or ()
    return [entry["address"] for entry in entries if entry["type"] == "InternalIP"]


def _cut_connections(run: Run, machine: Any, addresses: Sequence[str]) -> None:
    """End a node's connections to the API server of a control plane: rights are judged when a watch begins, once.

    Whoever else comes from there connects again. Where the kernel cannot do it, old watches end by themselves.
    """
    for address in addresses:
        place = f"[{address}]" if ":" in address else address
        said = machine.run(["ss", "--kill", "--tcp", "dst", place, "and", "sport", "=", f":{paths.API_PORT}"])
        if said.exit:
            run.note(
                f"connections from {address} were not cut: {said.stderr.decode(errors='replace').strip()}",
                "warning",
            )


def _path(pod: Mapping[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _held(pod: Mapping[str, Any]) -> str:
    metadata = pod["metadata"]
    title = f"{metadata['namespace']}/{metadata['name']}"
    if metadata.get("finalizers"):
        return f"{', '.join(metadata['finalizers'])} holds {title}"
    owners = [f"{owner.get('kind')} {owner.get('name')}" for owner in metadata.get("ownerReferences") or ()]
    return f"{', '.join(owners) or 'somebody'} makes {title} anew, for this node by name"
