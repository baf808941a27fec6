"""The rules by which nodes get certificates, as one pure function.

`judge` sees one request and a snapshot of what the cluster knows about its requester, and says what to do.
It reads no clock, makes no call and keeps nothing: the same facts give the same verdict in every leader. What
is not plainly allowed is denied with a reason; requests to any other signer are not ours and left alone.
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import datetime
from typing import FrozenSet, Mapping, Optional, Tuple, Union

from freehold_bootstrap.identities import NODE_USER_PREFIX, NODES_GROUP
from freehold_bootstrap.node_record import NodeRecord
from freehold_bootstrap.tokens import BootstrapBinding
from freehold_controller.approver.request_parser import Parsed, RequestError

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
SIGNERS = (CLIENT_SIGNER, SERVING_SIGNER)

BOOTSTRAP_USER = "system:bootstrap:"
BOOTSTRAP_GROUP = "system:bootstrappers"

_CLIENT_USAGES = (
    frozenset({"client auth", "digital signature"}),
    frozenset({"client auth", "digital signature", "key encipherment"}),
)
_SERVING_USAGES = (
    frozenset({"server auth", "digital signature"}),
    frozenset({"server auth", "digital signature", "key encipherment"}),
)

WAIT_SECONDS = 60.0
"""How long a request may wait for a node record that is still being written; then it is denied."""

APPROVE = "approve"
DENY = "deny"
IGNORE = "ignore"
WAIT = "wait"


@dataclass(frozen=True)
class CertificateRequestView:
    """One CertificateSigningRequest, as far as the rules look at it."""

    name: str
    signer: str
    username: str
    groups: Tuple[str, ...]
    usages: Tuple[str, ...]
    content: Union[Parsed, RequestError]
    credential: str = ""
    """SHA-256 (hex) of the certificate that the requester showed; empty: it showed none."""
    decided: bool = False
    """It has an Approved, Denied or Failed condition, or a certificate already."""
    age: float = 0.0
    """Seconds since it was made."""

    @property
    def token_id(self) -> Optional[str]:
        """Id of the bootstrap token that asks, if one does."""
        return self.username[len(BOOTSTRAP_USER) :] if self.username.startswith(BOOTSTRAP_USER) else None

    @property
    def node_name(self) -> Optional[str]:
        """Name of the node that asks, if one does."""
        return self.username[len(NODE_USER_PREFIX) :] if self.username.startswith(NODE_USER_PREFIX) else None


@dataclass(frozen=True)
class NodeView:
    """A Node object."""

    uid: str
    live: bool
    """A kubelet has reported its version there."""
    leaving: bool = False
    """It is being deleted."""


@dataclass(frozen=True)
class ClusterView:
    """What the cluster knows about the requester; an absent key means that it does not exist."""

    now: datetime
    """Aware."""
    tokens: Mapping[str, BootstrapBinding] = field(default_factory=dict)
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    records: Mapping[str, NodeRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class Spend:
    """Spend this token and this node's join for this key, each by compare-and-swap, before approving."""

    token_id: str
    key_sha256: str
    resource_version: str
    """Version of the token that was judged; empty: it is spent for this key already."""
    node: str
    join_uid: str


@dataclass(frozen=True)
class Decision:
    """What to do with a request, and what to tell people about it."""

    verb: str
    """`approve`, `deny`, `ignore` or `wait`."""
    reason: str = ""
    """One CamelCase word, for conditions, events and counters."""
    message: str = ""
    node: str = ""
    spend: Optional[Spend] = None


class _DeniedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class _WaitingError(Exception):
    pass


def judge(request: CertificateRequestView, cluster: ClusterView) -> Decision:
    """Return the verdict on one request. Never raises."""
    if request.signer not in SIGNERS or request.decided:
        return Decision(IGNORE)
    try:
        if isinstance(request.content, RequestError):
            raise _DeniedError("RequestMalformed", "{}".format(request.content))
        if request.signer == SERVING_SIGNER:
            return _serving(request, request.content, cluster)
        if request.token_id is not None:
            return _first_client(request, request.token_id, request.content, cluster)
        return _renewal(request, request.content, cluster)
    except _DeniedError as denied:
        return Decision(DENY, denied.reason, denied.message, _asked_node(request))
    except _WaitingError as waiting:
        if request.age >= WAIT_SECONDS:
            return Decision(DENY, "NodeNotRecorded", "{}".format(waiting), _asked_node(request))
        return Decision(WAIT, "NodeNotRecorded", "{}".format(waiting), _asked_node(request))


def _first_client(
    request: CertificateRequestView, token_id: str, content: Parsed, cluster: ClusterView
) -> Decision:
    """A new machine's kubelet asks with the bootstrap token that admission bound to its node."""
    extra = [
        group
        for group in request.groups
        if group not in (BOOTSTRAP_GROUP, "system:authenticated")
        and not group.startswith(BOOTSTRAP_GROUP + ":")
    ]
    if BOOTSTRAP_GROUP not in request.groups or extra:
        raise _DeniedError("RequesterUnknown", "the requester is not just a bootstrap token")
    token = cluster.tokens.get(token_id)
    if token is None or not token.node or not token.join_uid:
        raise _DeniedError("TokenUnknown", "the bootstrap token is not one that admits a node")
    name = token.node
    _check_subject(content, name, "TokenForOtherNode")
    _check_client_content(request, content)
    if token.expired(cluster.now):
        raise _DeniedError("TokenExpired", "the bootstrap token has expired")
    if token.spent_by and token.spent_by != content.key_sha256:
        raise _DeniedError("TokenSpent", "the bootstrap token was spent for another key")
    node, record = _member(name, cluster)
    if (token.join_uid, token.node_uid) != (record.join_uid, record.node_uid):
        raise _DeniedError("TokenSuperseded", "the bootstrap token belongs to an earlier join of this node")
    if record.key and record.key != content.key_sha256:
        raise _DeniedError(
            "TokenSpent", "the join of node {} has given its certificate to another key".format(name)
        )
    if node.live and record.has_given and not record.replace:
        raise _DeniedError("NodeLive", "node {} is live and the join was not made to replace it".format(name))
    spend = None
    if not token.spent_by or not record.key:
        version = "" if token.spent_by else token.resource_version
        spend = Spend(token_id, content.key_sha256, version, name, record.join_uid)
    return Decision(APPROVE, "NodeJoins", "first client certificate of node {}".format(name), name, spend)


def _renewal(request: CertificateRequestView, content: Parsed, cluster: ClusterView) -> Decision:
    """A node renews the client certificate that it asks with."""
    name = _requesting_node(request)
    _check_subject(content, name, "NameOfOtherNode")
    _check_client_content(request, content)
    _, record = _member(name, cluster)
    _check_credential(request, record)
    return Decision(APPROVE, "NodeRenews", "client certificate of node {} renewed".format(name), name)


def _serving(request: CertificateRequestView, content: Parsed, cluster: ClusterView) -> Decision:
    """A node asks for the certificate that its kubelet serves with."""
    name = _requesting_node(request)
    _check_subject(content, name, "NameOfOtherNode")
    _check_usages(request.usages, _SERVING_USAGES)
    _check_extensions(content)
    if content.other_names:
        raise _DeniedError("NamesNotAllowed", "only DNS names and addresses are signed for")
    if not content.dns_names and not content.addresses:
        raise _DeniedError("NamesMissing", "the request names no DNS name and no address")
    _, record = _member(name, cluster)
    foreign = sorted(_names(content.dns_names + content.addresses) - _names((name, *record.addresses)))
    if foreign:
        raise _DeniedError(
            "NamesNotAllowed", "not recorded for node {}: {}".format(name, _short(", ".join(foreign)))
        )
    _check_credential(request, record)
    return Decision(APPROVE, "NodeServes", "serving certificate of node {}".format(name), name)


def _requesting_node(request: CertificateRequestView) -> str:
    name = request.node_name
    if not name or NODES_GROUP not in request.groups:
        raise _DeniedError("RequesterUnknown", "the requester is neither a node nor a bootstrap token of one")
    return name


def _check_credential(request: CertificateRequestView, record: NodeRecord) -> None:
    """The certificate is one of this join: a name that joined again was somebody else's before."""
    if not record.knows(request.credential):
        raise _DeniedError(
            "CertificateSuperseded",
            "the certificate was not given to the machine that joined last as node {}".format(record.node),
        )


def _check_subject(content: Parsed, name: str, reason: str) -> None:
    if content.common_name != NODE_USER_PREFIX + name:
        raise _DeniedError(
            reason, "the request is for {}, not for node {}".format(_short(content.common_name), name)
        )
    if content.organizations != (NODES_GROUP,):
        raise _DeniedError("SubjectNotAllowed", "the organization is not exactly {}".format(NODES_GROUP))


def _check_client_content(request: CertificateRequestView, content: Parsed) -> None:
    _check_usages(request.usages, _CLIENT_USAGES)
    _check_extensions(content)
    if content.dns_names or content.addresses or content.other_names:
        raise _DeniedError("NamesNotAllowed", "a client certificate has no alternative names")


def _check_usages(usages: Tuple[str, ...], allowed: Tuple[FrozenSet[str], ...]) -> None:
    if frozenset(usages) not in allowed:
        raise _DeniedError(
            "UsagesNotAllowed", "usages are {}".format(_short(", ".join(sorted(usages)) or "none"))
        )


def _check_extensions(content: Parsed) -> None:
    if content.other_extensions:
        raise _DeniedError(
            "ExtensionsNotAllowed", "extensions {}".format(_short(", ".join(content.other_extensions)))
        )


def _member(name: str, cluster: ClusterView) -> Tuple[NodeView, NodeRecord]:
    """Return the Node and its record: it was admitted, and has not been removed since."""
    node = cluster.nodes.get(name)
    if node is None or node.leaving:
        raise _DeniedError("NodeRemoved", "node {} does not exist".format(name))
    record = cluster.records.get(name)
    if record is None:
        raise _WaitingError("node {} has no record".format(name))
    if record.node_uid != node.uid:
        raise _DeniedError("NodeRemoved", "node {} was removed, and its namesake never admitted".format(name))
    return node, record


def _names(names: Tuple[str, ...]) -> FrozenSet[str]:
    """Return names that compare equal when they mean the same: addresses in canonical text."""
    result = set()
    for name in names:
        try:
            result.add(str(ipaddress.ip_address(name)))
        except ValueError:
            result.add(name)
    return frozenset(result)


def _asked_node(request: CertificateRequestView) -> str:
    """Return the name of the node the request says it is for, to find it in the audit trail."""
    if request.node_name is not None:
        return request.node_name
    if isinstance(request.content, Parsed) and request.content.common_name.startswith(NODE_USER_PREFIX):
        return request.content.common_name[len(NODE_USER_PREFIX) :]
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
