"""Write down which client certificates a node's join has given: renewals and serving certificates go to them only.

A certificate cannot be revoked, and its name may join again on another machine (a removed node's name, a replaced
machine). So each certificate is bound to its join: the first by the key that the token was spent for, each
renewal by the certificate that asked for it. Judges nothing.
"""

import base64
import hashlib
import re
import ssl
from dataclasses import replace
from typing import Any, Mapping, Optional, Tuple

from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi
from freehold_bootstrap import node_record
from freehold_bootstrap.identities import NODE_USER_PREFIX
from freehold_bootstrap.node_record import NodeRecord
from freehold_controller.approver.approval_rules import BOOTSTRAP_USER, CLIENT_SIGNER
from freehold_controller.approver.request_parser import RequestError, parse

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
KEPT = 16
"""Certificates of a node that count at the same time; each lives a week and is renewed once in it."""
_TRIES = 8
_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_FINGERPRINT = re.compile(r"X509SHA256=([0-9a-f]{64})\Z")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


def shown_credential(spec: Mapping[str, Any]) -> str:
    """Return the fingerprint (SHA-256, hex) of the certificate a requester showed; empty when it showed none."""
    for text in (spec.get("extra") or {}).get(_CREDENTIAL_ID) or ():
        match = _FINGERPRINT.match(str(text))
        if match is not None:
            return match.group(1)
    return ""


def is_issued(request: Mapping[str, Any]) -> bool:
    """Tell whether a request is for a node's client certificate and has it."""
    status = request.get("status") or {}
    signer = (request.get("spec") or {}).get("signerName")
    return signer == CLIENT_SIGNER and bool(status.get("certificate"))


def learn(api: KubernetesApi, request: Mapping[str, Any]) -> None:
    """Write the certificate that a request got into the record of its node, if it is of the node's join.

    Raises ApiError, OSError; Conflict only when others keep writing the record.
    """
    facts = _issued(request)
    if facts is None:
        return
    node, key, fingerprint = facts
    spec = request["spec"]
    for attempt in range(_TRIES):
        stored = node_record.read_object(api, node)
        record = _record(stored)
        if (
            stored is None
            or record is None
            or record.credentials is None
            or fingerprint in record.credentials
        ):
            return
        first = str(spec.get("username") or "").startswith(BOOTSTRAP_USER) and key == record.key
        if not first and shown_credential(spec) not in record.credentials:
            return
        kept = (*record.credentials, fingerprint)[-KEPT:]
        try:
            node_record.write(api, replace(record, credentials=kept), stored)
            return
        except Conflict:
            if attempt == _TRIES - 1:
                raise


def learn_all(api: KubernetesApi, node: str) -> None:
    """Write down what a node was given lately: its requests are kept for an hour. Raises ApiError, OSError."""
    listed = api.list(REQUESTS, fieldSelector="spec.signerName=" + CLIENT_SIGNER).get("items") or ()
    for request in sorted(listed, key=lambda item: str(item["metadata"].get("creationTimestamp") or "")):
        facts = _issued(request)
        if facts is not None and facts[0] == node:
            learn(api, request)


def _issued(request: Mapping[str, Any]) -> Optional[Tuple[str, str, str]]:
    """Return node, digest of the key and fingerprint of an issued client certificate; None for anything else."""
    if not is_issued(request):
        return None
    try:
        content = parse(base64.b64decode(str(request["spec"].get("request") or "")))
        text = base64.b64decode(request["status"]["certificate"]).decode("ascii")
        match = _CERTIFICATE.search(text)
        node = content.common_name[len(NODE_USER_PREFIX) :]
        if match is None or not NODE_NAME.match(node):
            return None
        der = ssl.PEM_cert_to_DER_cert(match.group(0))
    except (RequestError, ValueError):
        return None
    return node, content.key_sha256, hashlib.sha256(der).hexdigest()


def _record(stored: Optional[Mapping[str, Any]]) -> Optional[NodeRecord]:
    try:
        return NodeRecord.from_object(stored) if stored is not None else None
    except (ValueError, AttributeError):
        return None
