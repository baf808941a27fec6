"""How a machine becomes a node: the one code path behind the join service and the installer's SSH.

Admission makes the Node and its record *before* a kubelet exists, so the pod network is known and role labels
are in place when the kubelet starts; the credential is asked for last. Every step may be repeated. Knows no
transport and no signing key.
"""

import contextlib
import dataclasses
import time
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from freehold_agent.contract.join_document import BootstrapCredential, JoinDocument
from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap import documents, node_identity, node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import AdmissionTimeout, Refused
from freehold_bootstrap.identities import JOIN_UID_ANNOTATION
from freehold_bootstrap.node_record import NodeRecord, Object

NODES = "/api/v1/nodes"
_ATTEMPTS = 8

__all__ = ["ClusterSettings", "NodeRequest", "admit", "bootstrap_credential", "finish"]


@dataclasses.dataclass(frozen=True)
class NodeRequest:
    """A machine that is to be a node, as an inventory or a token describes it."""

    name: str
    addresses: Tuple[str, ...]
    """IPv4 or IPv6, the first is `--node-ip`."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    taints: Tuple[Mapping[str, str], ...] = ()
    """{key, value, effect}."""
    control_plane: bool = False
    join_uid: str = ""
    """From the join token; empty over SSH."""
    node_uid: str = ""
    """The `node_uid` of the document that the machine already has, read over SSH; empty: it has none."""
    replace: bool = False
    """May take over a live Node of that name (a machine set up again, an expired certificate)."""


def admit(
    api: KubernetesApi, request: NodeRequest, settings: ClusterSettings, *, timeout: float = 30.0
) -> JoinDocument:
    """Make the Node, its record and its document, or bring them up to date; return the document.

    Waits at most `timeout` seconds for the controller manager to give the node its pod network. Raises
    Refused (`bad-name`, `bad-address`, `address-in-use`, `node-exists`, `node-leaving`), AdmissionTimeout,
    ApiError, OSError.
    """
    node_identity.check_name(request.name)
    node_identity.check_addresses(request.name, request.addresses, settings, request.control_plane)
    node_identity.check_free(api, request.name, request.addresses)
    for attempt in range(_ATTEMPTS):
        try:
            node, record = _settle(api, request)
            break
        except Conflict:
            # Somebody changed Node or record between our reading and writing: look again.
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        # Another machine may have asked for the same address at the same time.
        node_identity.check_free(api, request.name, request.addresses)
    except Refused:
        node_identity.forget_addresses(api, request.name)
        raise
    pod_cidrs = _wait_for_pod_cidrs(api, node, timeout)
    return documents.publish(api, documents.render(settings, record, pod_cidrs))


def bootstrap_credential(
    api: KubernetesApi,
    name: str,
    now: Optional[datetime] = None,
    *,
    same_key: bool = False,
    join_uid: str = "",
) -> BootstrapCredential:
    """Return a new bootstrap token for the admitted node; an earlier one of the same join ends.

    `same_key`: a join that has given its certificate to a key gives no other one (a join token joins once);
    otherwise the caller vouches for the machine, which may come with another key. `join_uid`: the join that asks;
    empty: the caller vouches for that, too. Raises Refused
    (`not-admitted`, `node-exists`, `address-in-use`) when the node was not admitted, is live already and its
    join was not made to replace it, or lost its address to another.
    """
    moment = now or datetime.now(timezone.utc)
    for attempt in range(_ATTEMPTS):
        stored = node_record.read_object(api, name)
        node = _read_node(api, name)
        record = NodeRecord.from_object(stored) if stored else None
        if node is None or record is None or record.node_uid != node["metadata"]["uid"]:
            raise Refused("not-admitted", "node {} has not been admitted".format(name))
        begun = record.join_uid == join_uid and not record.has_given
        if is_live(node) and not record.replace and not begun:
            raise Refused(
                "node-exists",
                "node {} has joined already".format(name),
                hint="to join it again, use a token made with --replace",
            )
        if join_uid not in ("", record.join_uid):
            raise Refused("not-admitted", "node {} was admitted by another join since".format(name))
        node_identity.check_free(api, name, record.addresses)
        _delete_bootstrap_token(api, record.bootstrap_id)
        token, secret = tokens.mint_bootstrap(name, record.node_uid, record.join_uid, moment)
        key = record.key if same_key else ""
        try:
            # The record names the token before it exists: whatever dies in between, `finish` can find it.
            bound = dataclasses.replace(record, bootstrap_id=token.split(".")[0], key=key)
            node_record.write(api, bound, stored)
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        api.create(tokens.BOOTSTRAP_TOKENS, secret)
        break
    binding = tokens.BootstrapBinding.from_object(secret)
    expires = binding.expires.strftime("%Y-%m-%dT%H:%M:%SZ") if binding.expires else ""
    return BootstrapCredential(token, expires)


def finish(api: KubernetesApi, name: str) -> None:
    """Delete the node's bootstrap token and close its join; does nothing when that is done already."""
    for attempt in range(_ATTEMPTS):
        stored = node_record.read_object(api, name)
        if stored is None:
            return
        record = NodeRecord.from_object(stored)
        _delete_bootstrap_token(api, record.bootstrap_id)
        try:
            node_record.write(api, dataclasses.replace(record, bootstrap_id="", replace=False), stored)
            return
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise


def is_live(node: Mapping[str, Any]) -> bool:
    """Tell whether a kubelet has ever reported from this Node."""
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return bool(info.get("kubeletVersion"))


def labels_of(request: NodeRequest) -> Dict[str, str]:
    """Return the labels that the control plane keeps on the Node."""
    role = "control-plane" if request.control_plane else "worker"
    return {**request.labels, "node-role.kubernetes.io/" + role: ""}


def _settle(api: KubernetesApi, request: NodeRequest) -> Tuple[Object, NodeRecord]:
    """Bring Node and record to what the request says. Raises Refused, and Conflict when outrun."""
    node = _read_node(api, request.name)
    stored = node_record.read_object(api, request.name)
    previous = NodeRecord.from_object(stored) if stored else None
    if node is None:
        previous = None
        join_uid = request.join_uid or tokens.new_join_uid()
        node = api.create(NODES, _new_node(request, join_uid))
    else:
        join_uid = _join_of(request, node, previous)
        node = _reconcile(api, node, request, previous, join_uid)
    same_join = previous is not None and previous.join_uid == join_uid
    record = NodeRecord(
        node=request.name,
        addresses=request.addresses,
        join_uid=join_uid,
        node_uid=node["metadata"]["uid"],
        # A repeated request of a join that has ended may not open it again.
        replace=previous.replace if same_join and previous is not None else request.replace,
        control_plane=request.control_plane,
        labels=labels_of(request),
        taints=tuple(request.taints),
        bootstrap_id=previous.bootstrap_id if previous is not None else "",
        key=previous.key if same_join and previous is not None else "",
        credentials=previous.credentials if same_join and previous is not None else (),
        source=previous.source if same_join and previous is not None else "",
    )
    node_record.write(api, record, stored)
    return node, record


def _join_of(request: NodeRequest, node: Object, record: Optional[NodeRecord]) -> str:
    """Return the join an existing Node belongs to from now on. Raises Refused: it is someone else's."""
    if node["metadata"].get("deletionTimestamp"):
        raise Refused("node-leaving", "node {} is being removed; try again in a moment".format(request.name))
    uid = node["metadata"]["uid"]
    if record is not None and record.node_uid == uid:
        if request.join_uid and request.join_uid == record.join_uid:
            return record.join_uid
        known = request.node_uid == uid or not is_live(node)
        if not request.join_uid and not request.replace and known:
            return record.join_uid
    if is_live(node) and not request.replace:
        raise Refused(
            "node-exists",
            "there is a live node {} already, and this machine is not it".format(request.name),
            hint="choose another name, remove that node, or use --replace if this machine takes its place",
        )
    return request.join_uid or tokens.new_join_uid()


def _new_node(request: NodeRequest, join_uid: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": request.name,
            "labels": {"kubernetes.io/hostname": request.name, **labels_of(request)},
            "annotations": {JOIN_UID_ANNOTATION: join_uid},
        },
        "spec": {"taints": [dict(taint) for taint in request.taints]} if request.taints else {},
        # Until the kubelet reports, kube-proxy would ask once a second for the addresses of its Node.
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": address} for address in request.addresses),
                {"type": "Hostname", "address": request.name},
            ]
        },
    }


def _reconcile(
    api: KubernetesApi, node: Object, request: NodeRequest, previous: Optional[NodeRecord], join_uid: str
) -> Object:
    """Put our labels and taints on the Node and take off those that were ours; leave all others alone."""
    metadata = node["metadata"]
    present = metadata.get("labels") or {}
    wanted = labels_of(request)
    labels: Dict[str, Optional[str]] = {
        name: value for name, value in wanted.items() if present.get(name) != value
    }
    for name in previous.labels if previous else ():
        if name not in wanted and name in present:
            labels[name] = None
    patch: Object = {}
    if labels:
        patch["metadata"] = {"labels": labels}
    if (metadata.get("annotations") or {}).get(JOIN_UID_ANNOTATION) != join_uid:
        patch.setdefault("metadata", {})["annotations"] = {JOIN_UID_ANNOTATION: join_uid}
    observed = (node.get("spec") or {}).get("taints") or []
    taints = _merge_taints(observed, request.taints, previous.taints if previous else ())
    if taints != observed:
        # A list is replaced as a whole: the version keeps us from undoing what a controller just added.
        patch["spec"] = {"taints": taints}
        patch.setdefault("metadata", {})["resourceVersion"] = metadata["resourceVersion"]
    return api.merge(NODES + "/" + request.name, patch) if patch else node


def _merge_taints(
    observed: Sequence[Mapping[str, Any]],
    wanted: Sequence[Mapping[str, str]],
    previous: Sequence[Mapping[str, str]],
) -> List[Object]:
    def identity(taint: Mapping[str, Any]) -> Tuple[str, str]:
        return taint["key"], taint["effect"]

    ours = {identity(taint) for taint in [*wanted, *previous]}
    values = {(*identity(taint), taint.get("value", "")) for taint in wanted}
    kept = [
        dict(taint)
        for taint in observed
        if identity(taint) not in ours or (*identity(taint), taint.get("value", "")) in values
    ]
    there = {identity(taint) for taint in kept}
    return kept + [dict(taint) for taint in wanted if identity(taint) not in there]


def _wait_for_pod_cidrs(api: KubernetesApi, node: Object, timeout: float) -> Tuple[str, ...]:
    """Return the Node's pod networks as soon as the controller manager has given them."""
    deadline = time.monotonic() + timeout
    name = node["metadata"]["name"]
    while True:
        found = _pod_cidrs(node)
        if found:
            return found
        left = deadline - time.monotonic()
        if left <= 0:
            raise AdmissionTimeout(
                "the controller manager gave node {} no pod network within {:g} s".format(name, timeout),
                hint="is kube-controller-manager running, and is there a free range in networking.podCIDR?",
            )
        version = node["metadata"].get("resourceVersion", "")
        selector = "metadata.name=" + name
        for kind, seen in api.watch(NODES, resource_version=version, timeout=left, fieldSelector=selector):
            if kind == "DELETED":
                raise Refused("node-leaving", "node {} was removed while it joined".format(name))
            if kind in ("ADDED", "MODIFIED"):
                node = seen
                if _pod_cidrs(seen):
                    break
        else:
            again = _read_node(api, name)
            if again is None:
                raise Refused("node-leaving", "node {} was removed while it joined".format(name))
            node = again


def _pod_cidrs(node: Mapping[str, Any]) -> Tuple[str, ...]:
    spec = node.get("spec") or {}
    return tuple(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else ()))


def _read_node(api: KubernetesApi, name: str) -> Optional[Object]:
    try:
        return api.get(NODES + "/" + name)
    except NotFound:
        return None


def _delete_bootstrap_token(api: KubernetesApi, token_id: str) -> None:
    if token_id:
        with contextlib.suppress(NotFound):
            api.delete(tokens.bootstrap_token_path(token_id))
