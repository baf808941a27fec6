"""Two kinds of tokens and the Secrets that hold them.

A *join token* is ours: 256 bits, one node, minutes; the cluster keeps only its hash, and the API server knows
nothing of it. A *bootstrap token* is Kubernetes' own: it may ask for exactly one certificate, and lives three
minutes. Neither secret ever appears in an exception, a repr or a log.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Mapping, Optional, Tuple

from freehold_bootstrap.errors import BootstrapError
from freehold_bootstrap.identities import (
    BOOTSTRAPPERS_GROUP,
    JOIN_UID_ANNOTATION,
    MANAGED_LABEL,
    NAMESPACE,
    NODE_ANNOTATION,
    NODE_UID_ANNOTATION,
    SPENT_ANNOTATION,
    TOKEN_NAMESPACE,
)

DEFAULT_LIFETIME = timedelta(minutes=10)
LONGEST_LIFETIME = timedelta(hours=24)
BOOTSTRAP_LIFETIME = timedelta(minutes=3)
JOIN_TOKENS = "/api/v1/namespaces/" + NAMESPACE + "/secrets"
BOOTSTRAP_TOKENS = "/api/v1/namespaces/" + TOKEN_NAMESPACE + "/secrets"
JOIN_TOKEN_TYPE = "freehold.io/join-token"  # noqa: S105 a type, not a secret
BOOTSTRAP_TOKEN_TYPE = "bootstrap.kubernetes.io/token"  # noqa: S105

_VERSION = "fh1"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 10
_SECRET_LENGTH = 52
"""256 bits in base32 without padding."""

Object = Dict[str, Any]


@dataclass(frozen=True)
class JoinToken:
    """What a person types: `fh1.ID.SECRET`."""

    id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        """Return the id only: the whole text is asked for by name, `reveal`."""
        return "{}.{}".format(_VERSION, self.id)

    def reveal(self) -> str:
        return "{}.{}.{}".format(_VERSION, self.id, self.secret)

    @property
    def hash(self) -> str:
        """SHA-256 of the secret, hex. The secret has 256 random bits: nothing slower is needed."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


@dataclass(frozen=True)
class JoinTokenRecord:
    """What the cluster keeps of a join token: everything but the secret."""

    id: str
    hash: str = field(repr=False)
    join_uid: str
    node: str
    expires: datetime
    """Aware."""
    control_plane: bool = False
    cidr: str = ""
    """Only machines from this network may use it; empty: from anywhere."""
    addresses: Tuple[str, ...] = ()
    """Given by the operator; empty: the observed source address."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Tuple[Mapping[str, str], ...] = ()
    replace: bool = False
    """May take over a live Node of that name."""
    claim: str = ""
    """SHA-256 of what the first machine to use it said of itself; empty: not used yet."""
    claimed_from: str = ""
    """The address that machine came from."""

    def matches(self, token: JoinToken) -> bool:
        """Tell whether this is the token's record, in the same time for every wrong secret."""
        return hmac.compare_digest(self.hash, token.hash)

    def expired(self, now: datetime) -> bool:
        return now >= self.expires

    def admits(self, source: str) -> bool:
        """Tell whether a machine with this address may use the token."""
        return not self.cidr or ipaddress.ip_address(source) in ipaddress.ip_network(self.cidr)

    def claimed(self, claim: str, source: str) -> "JoinTokenRecord":
        return replace(self, claim=claim, claimed_from=source)

    def to_object(self, resource_version: str = "") -> Object:
        """Return the Secret `join-token-ID`."""
        data = dict(asdict(self), expires=_rfc3339(self.expires))
        metadata: Object = {
            "name": join_token_name(self.id),
            "namespace": NAMESPACE,
            "labels": {MANAGED_LABEL: "join-token"},
            "annotations": {NODE_ANNOTATION: self.node},
        }
        if resource_version:
            metadata["resourceVersion"] = resource_version
        record = base64.b64encode(json.dumps(data, sort_keys=True).encode()).decode()
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": JOIN_TOKEN_TYPE,
            "data": {"record": record},
        }

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> "JoinTokenRecord":
        """Return the record in a Secret. Raises ValueError when it holds none."""
        try:
            data = json.loads(base64.b64decode(obj["data"]["record"]))
            known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
            known["expires"] = _parse_time(data["expires"])
            known["addresses"] = tuple(data.get("addresses", ()))
            known["taints"] = tuple(data.get("taints", ()))
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a join token's record") from error


def mint(
    node: str,
    now: datetime,
    *,
    lifetime: timedelta = DEFAULT_LIFETIME,
    cidr: str = "",
    addresses: Tuple[str, ...] = (),
    labels: Optional[Mapping[str, str]] = None,
    taints: Tuple[Mapping[str, str], ...] = (),
    control_plane: bool = False,
    replace: bool = False,
) -> Tuple[JoinToken, JoinTokenRecord]:
    """Return a new token for one node, and the record to store. Raises BootstrapError."""
    if not timedelta(0) < lifetime <= LONGEST_LIFETIME:
        raise BootstrapError("a join token lives between a second and 24 hours, not {}".format(lifetime))
    if cidr:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise BootstrapError("{!r} is no network: {}".format(cidr, error)) from error
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    token = JoinToken(_random_text(_ID_LENGTH), secret)
    record = JoinTokenRecord(
        id=token.id,
        hash=token.hash,
        join_uid=new_join_uid(),
        node=node,
        expires=(now + lifetime).replace(microsecond=0),
        control_plane=control_plane,
        cidr=cidr,
        addresses=tuple(addresses),
        labels=dict(labels or {}),
        taints=tuple(taints),
        replace=replace,
    )
    return token, record


def parse(text: str) -> JoinToken:
    """Return the token a person typed. Raises BootstrapError, which never repeats the text."""
    parts = text.strip().split(".")
    if len(parts) != 3 or parts[0] != _VERSION:
        raise BootstrapError("not a join token: it looks like fh1.ID.SECRET")
    if len(parts[1]) != _ID_LENGTH or len(parts[2]) != _SECRET_LENGTH:
        raise BootstrapError("the join token is incomplete: was a part of it lost when it was copied?")
    if set(parts[1] + parts[2]) - set(_ALPHABET):
        raise BootstrapError("the join token holds a character that no token has")
    return JoinToken(parts[1], parts[2])


def join_token_name(token_id: str) -> str:
    return "join-token-" + token_id


def new_join_uid() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True)
class BootstrapBinding:
    """A bootstrap token Secret without its secret: which node it may join, and whether it has."""

    id: str
    node: str
    """Empty: not one of ours."""
    join_uid: str
    node_uid: str
    expires: Optional[datetime]
    spent_by: str
    """SHA-256 (hex) of the public key it was spent for; empty: not spent."""
    resource_version: str

    def expired(self, now: datetime) -> bool:
        return self.expires is None or now >= self.expires

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> "BootstrapBinding":
        """Return what a bootstrap token Secret says; one without our annotations binds no node."""
        metadata, data = obj["metadata"], obj.get("data") or {}
        notes = metadata.get("annotations") or {}
        expires = None
        if obj.get("type") == BOOTSTRAP_TOKEN_TYPE and "expiration" in data:
            try:
                expires = _parse_time(base64.b64decode(data["expiration"]).decode())
            except ValueError:
                expires = None
        return cls(
            id=metadata["name"][len("bootstrap-token-") :],
            node=notes.get(NODE_ANNOTATION, ""),
            join_uid=notes.get(JOIN_UID_ANNOTATION, ""),
            node_uid=notes.get(NODE_UID_ANNOTATION, ""),
            expires=expires,
            spent_by=notes.get(SPENT_ANNOTATION, ""),
            resource_version=metadata.get("resourceVersion", ""),
        )


def mint_bootstrap(node: str, node_uid: str, join_uid: str, now: datetime) -> Tuple[str, Object]:
    """Return (token `ID.SECRET`, Secret to create): to authenticate only, three minutes, for that join."""
    token_id, secret = _random_text(6), _random_text(16)
    data = {
        "token-id": token_id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": BOOTSTRAPPERS_GROUP,
        "expiration": _rfc3339(now + BOOTSTRAP_LIFETIME),
        "description": "first certificate of node " + node,
    }
    secret_object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": bootstrap_token_name(token_id),
            "namespace": TOKEN_NAMESPACE,
            "labels": {MANAGED_LABEL: "bootstrap-token"},
            "annotations": {
                NODE_ANNOTATION: node,
                NODE_UID_ANNOTATION: node_uid,
                JOIN_UID_ANNOTATION: join_uid,
            },
        },
        "type": BOOTSTRAP_TOKEN_TYPE,
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    }
    return "{}.{}".format(token_id, secret), secret_object


def bootstrap_token_name(token_id: str) -> str:
    return "bootstrap-token-" + token_id


def bootstrap_token_path(token_id: str) -> str:
    return BOOTSTRAP_TOKENS + "/" + bootstrap_token_name(token_id)


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
