"""Fetch what the rules look at for one request, and spend tokens by compare-and-swap.

Knows where admission keeps its objects; judges nothing. Names from a request reach a URL only after they were
checked to be names.
"""

import base64
import binascii
import calendar
import re
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Mapping, Optional, Union

from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap import node_record
from freehold_bootstrap.identities import SPENT_ANNOTATION
from freehold_bootstrap.node_admission import is_live
from freehold_bootstrap.node_record import NodeRecord, record_path
from freehold_bootstrap.tokens import BootstrapBinding, bootstrap_token_path
from freehold_controller.approver.approval_rules import (
    SIGNERS,
    CertificateRequestView,
    ClusterView,
    NodeView,
    Spend,
)
from freehold_controller.approver.issued_certificates import NODE_NAME, learn_all, shown_credential
from freehold_controller.approver.request_parser import Parsed, RequestError, parse

NODES = "/api/v1/nodes/{}"


_TOKEN_ID = re.compile(r"[a-z0-9]{6}\Z")


def view(request: Mapping[str, Any], now: float) -> CertificateRequestView:
    """Return what the rules see of a CertificateSigningRequest object; `now` is Unix time in seconds."""
    spec = request.get("spec") or {}
    status = request.get("status") or {}
    signer = str(spec.get("signerName") or "")
    decided = bool(status.get("certificate")) or any(
        condition.get("type") in ("Approved", "Denied", "Failed")
        for condition in status.get("conditions") or ()
    )
    created = unix_time(str(request["metadata"].get("creationTimestamp") or ""))
    content: Union[Parsed, RequestError] = RequestError("not read")
    if signer in SIGNERS and not decided:
        content = _content(spec.get("request"))
    return CertificateRequestView(
        name=request["metadata"]["name"],
        signer=signer,
        username=str(spec.get("username") or ""),
        groups=tuple(spec.get("groups") or ()),
        usages=tuple(spec.get("usages") or ()),
        content=content,
        credential=shown_credential(spec),
        decided=decided,
        age=max(0.0, now - created) if created is not None else 0.0,
    )


class ClusterReader:
    """The objects in the cluster that a verdict depends on."""

    def __init__(self, api: KubernetesApi, now: Callable[[], float] = time.time) -> None:
        self._api = api
        self._now = now

    def snapshot(self, request: CertificateRequestView) -> ClusterView:
        """Return what the cluster knows about this requester. Raises ApiError, OSError."""
        tokens: Dict[str, BootstrapBinding] = {}
        now = datetime.fromtimestamp(self._now(), timezone.utc)
        token_id = request.token_id
        name = request.node_name or ""
        if token_id is not None and _TOKEN_ID.match(token_id):
            secret = self._get(bootstrap_token_path(token_id))
            if secret is not None and not secret["metadata"].get("deletionTimestamp"):
                tokens[token_id] = BootstrapBinding.from_object(secret)
                name = tokens[token_id].node
        if not NODE_NAME.match(name):
            return ClusterView(now, tokens)
        node = self._get(NODES.format(name))
        records = self._records(name)
        if request.node_name and name in records and not records[name].knows(request.credential):
            # It may have been issued a moment ago.
            learn_all(self._api, name)
            records = self._records(name)
        return ClusterView(now, tokens, {} if node is None else {name: _node(node)}, records)

    def spend(self, spend: Spend) -> None:
        """Mark a token, and the join it belongs to, as spent for a key.

        Raises Conflict when one of them changed since it was judged, NotFound, ApiError, OSError.
        """
        if spend.resource_version:
            path = bootstrap_token_path(spend.token_id)
            secret = self._api.get(path)
            secret["metadata"]["resourceVersion"] = spend.resource_version
            secret["metadata"].setdefault("annotations", {})[SPENT_ANNOTATION] = spend.key_sha256
            self._api.replace(path, secret)
        stored = self._api.get(record_path(spend.node))
        record = NodeRecord.from_object(stored)
        if record.join_uid != spend.join_uid or record.key not in ("", spend.key_sha256):
            raise Conflict(409, "Conflict", "the join was spent for another key")
        if not record.key:
            # The certificates of an earlier key are not this machine's.
            node_record.write(self._api, replace(record, key=spend.key_sha256, credentials=()), stored)

    def _records(self, name: str) -> Dict[str, NodeRecord]:
        record = self._get(record_path(name))
        return {} if record is None else _record(record)

    def _get(self, path: str) -> Optional[Dict[str, Any]]:
        try:
            return self._api.get(path)
        except NotFound:
            return None


def _content(encoded: Any) -> Union[Parsed, RequestError]:
    try:
        return parse(base64.b64decode(str(encoded or ""), validate=True))
    except RequestError as error:
        return error
    except binascii.Error:
        return RequestError("spec.request is not base64")


def _node(node: Mapping[str, Any]) -> NodeView:
    metadata = node["metadata"]
    return NodeView(
        uid=str(metadata.get("uid") or ""),
        live=is_live(node),
        leaving=bool(metadata.get("deletionTimestamp")),
    )


def _record(config_map: Mapping[str, Any]) -> Dict[str, NodeRecord]:
    """Return a node's record by its name; one that cannot be read is none, and allows nothing."""
    try:
        record = NodeRecord.from_object(config_map)
    except (ValueError, AttributeError):
        return {}
    return {record.node: record}


def unix_time(text: str) -> Optional[float]:
    """Return an RFC 3339 UTC time in Unix seconds; None when it is not one."""
    try:
        return float(calendar.timegm(time.strptime(text[:19] + text[-1:], "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
