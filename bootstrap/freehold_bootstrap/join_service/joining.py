"""Judge a join token, bind it to the first machine that uses it, and let admission do the rest.

Each refusal has its own reason and one plain sentence; none says whether an unknown token's id exists. Knows
no HTTP.
"""

import contextlib
import hashlib
import ipaddress
import json
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Optional, Tuple, TypeVar

from freehold_agent.contract.join_document import BootstrapCredential, JoinDocument
from freehold_agent.contract.volumes import VolumeReport
from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap import node_admission, node_record, tokens, volume_records
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import AdmissionTimeout, BootstrapError, Refused
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.join_service.addresses import addresses_of, canonical
from freehold_bootstrap.join_service.audit import REFUSED, Audit
from freehold_bootstrap.join_service.failure_limit import FailureLimit
from freehold_bootstrap.join_service.known_tokens import KnownTokens
from freehold_bootstrap.node_admission import NodeRequest
from freehold_bootstrap.node_record import NodeRecord
from freehold_bootstrap.tokens import JOIN_TOKENS, JoinTokenRecord

SETTINGS = "/api/v1/namespaces/" + NAMESPACE + "/configmaps/cluster-settings"
SETTINGS_KEY = "settings"
_ATTEMPTS = 8
_LOOKS, _PAUSE = 10, 0.1
"""How often, and after how many seconds, to look whether a new certificate has been written down."""
_NEW_ONE = "make a new one with `freehold token create`"

T = TypeVar("T")


@dataclass(frozen=True)
class JoinRequest:
    """What a machine says of itself; all of it is a claim."""

    node: str
    addresses: Tuple[str, ...] = ()
    """Empty: those of the token, or the one it comes from."""
    claim: str = ""
    """Something that stays the same when it tries again, and that others do not have."""
    own: Tuple[str, ...] = ()
    """Addresses of its interfaces; empty: it does not say."""

    @classmethod
    def from_json(cls, body: bytes) -> "JoinRequest":
        """Return the request in a body `{node, addresses?, claim?, facts?}`. Raises Refused (`bad-request`)."""
        try:
            data = json.loads(body)
            facts = data.get("facts") or {}
            claim = data.get("claim") or facts.get("machine_id") or ""
            own = tuple(str(ipaddress.ip_address(address)) for address in facts.get("addresses") or ())
            request = cls(data["node"], tuple(data.get("addresses") or ()), claim, own)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused("bad-request", "the request is not a join: {node, addresses, facts}") from None
        texts = (request.node, request.claim, *request.addresses)
        # Printable: what JSON can say and UTF-8 cannot is not.
        if not all(isinstance(text, str) and len(text) <= 512 and text.isprintable() for text in texts):
            raise Refused("bad-request", "node, claim and addresses are short texts")
        if len(request.addresses) > 16:
            raise Refused("bad-request", "a node has at most 16 addresses")
        return request


class Joining:
    """Thread-safe: all state that counts is in the cluster, changed by compare-and-swap."""

    def __init__(
        self,
        api: KubernetesApi,
        audit: Audit,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        failures: Optional[FailureLimit] = None,
    ) -> None:
        self._api = api
        self._audit = audit
        self._now = now
        self._failures = failures or FailureLimit()
        self._known = KnownTokens(api)

    def join(self, token: str, request: JoinRequest, source: str) -> JoinDocument:
        """Return the document of the node that the token is for; the first machine to ask owns the token.

        Raises Refused, AdmissionTimeout, ApiError, OSError.
        """
        record = self._claimed(token, request, source)
        wanted = NodeRequest(
            name=record.node,
            addresses=_addresses(record, request, source),
            labels=record.labels,
            taints=record.taints,
            control_plane=record.control_plane,
            join_uid=record.join_uid,
            replace=record.replace,
        )
        return self._admitted(
            record, source, lambda: node_admission.admit(self._api, wanted, self._settings())
        )

    def credential(self, token: str, request: JoinRequest, source: str) -> BootstrapCredential:
        """Return a bootstrap credential for the node that this token has admitted. Raises as `join`."""
        record = self._claimed(token, request, source)
        given = self._admitted(
            record,
            source,
            lambda: node_admission.bootstrap_credential(
                self._api, record.node, self._now(), same_key=True, join_uid=record.join_uid
            ),
        )
        self._audit.about_token(record, "CredentialIssued", "bootstrap credential issued", source)
        return given

    def finish(self, node: str) -> None:
        """Remove what is left of a join; asked for by the node itself, with its certificate."""
        node_admission.finish(self._api, node)

    def keep_report(self, node: str, report: VolumeReport) -> None:
        """Keep what a node says about its volumes, for the controller. Raises ApiError, OSError."""
        volume_records.store_report(self._api, node, report)

    def is_member(self, node: str, credential: str, fresh: bool, source: str) -> bool:
        """Tell whether a certificate (its fingerprint) is that of a node which exists.

        `fresh`: it was issued minutes ago. Where a member comes from (`source`) is written down. Raises
        AdmissionTimeout while the controller may still be writing it down, ApiError, OSError.
        """
        try:
            found = self._api.get(node_admission.NODES + "/" + node)
        except NotFound:
            return False
        record = node_record.read(self._api, node)
        if found["metadata"].get("deletionTimestamp") or record is None:
            return False
        if record.node_uid != found["metadata"]["uid"]:
            return False
        for _ in range(_LOOKS if fresh else 0):
            if record is None or record.knows(credential):
                break
            time.sleep(_PAUSE)
            record = node_record.read(self._api, node)
        if record is not None and record.knows(credential):
            self._note_source(record, source)
            return True
        if fresh:
            raise AdmissionTimeout("this certificate is not known yet")
        return False

    def _note_source(self, record: NodeRecord, source: str) -> None:
        """Write down where a node comes from if that is news: who may ask DNS is derived from it."""
        own = {canonical(address) for address in record.addresses}
        seen = "" if canonical(source) in own else source
        if seen == record.source:
            return
        stored = node_record.read_object(self._api, record.node)
        if stored is not None and NodeRecord.from_object(stored) == record:
            with contextlib.suppress(Conflict):  # it asks again before long
                node_record.write(self._api, replace(record, source=seen), stored)

    def release(self) -> None:
        """Close this thread's connection to the API server: a thousand long polls are not to hold one each."""
        self._api.close()

    def _claimed(self, text: str, request: JoinRequest, source: str) -> JoinTokenRecord:
        """Return the token's record, bound to this machine by now."""
        if self._failures.exceeded(source) and not self._is_known(text):
            raise Refused("too-many-failures", "too many wrong tokens from {}; wait a minute".format(source))
        claim = hashlib.sha256("\0".join([request.claim or source, request.node]).encode()).hexdigest()
        for attempt in range(_ATTEMPTS):
            stored = self._stored(text, source)
            record = JoinTokenRecord.from_object(stored)
            try:
                self._judge(record, request, claim, source)
            except Refused as refused:
                self._failures.failed(source)
                self._audit.about_token(record, REFUSED, refused.message, source)
                raise
            if record.claim:
                return record
            bound = record.claimed(claim, source)
            path = JOIN_TOKENS + "/" + tokens.join_token_name(record.id)
            try:
                self._api.replace(path, bound.to_object(stored["metadata"]["resourceVersion"]))
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._audit.about_token(bound, "TokenUsed", "join token used", source)
            return bound
        raise AssertionError("the last attempt returns or raises")

    def _is_known(self, text: str) -> bool:
        """Tell whether a text names a token there is: an honest machine may share its address with a thief."""
        try:
            return self._known.has(tokens.parse(text).id)
        except BootstrapError:
            return False

    def _stored(self, text: str, source: str) -> Mapping[str, Any]:
        """Return the Secret of a token whose secret is right."""
        try:
            token = tokens.parse(text)
            stored = self._api.get(JOIN_TOKENS + "/" + tokens.join_token_name(token.id))
            if JoinTokenRecord.from_object(stored).matches(token):
                return stored
        except NotFound:
            pass
        except BootstrapError as error:
            self._wrong(source)
            raise Refused("bad-token", error.message) from None
        self._wrong(source)
        # The same words for an id that does not exist and for a wrong secret.
        raise Refused("wrong-token", "this join token is not valid", hint=_NEW_ONE)

    def _wrong(self, source: str) -> None:
        self._failures.failed(source)
        self._audit.about_stranger("wrong token", source)

    def _judge(self, record: JoinTokenRecord, request: JoinRequest, claim: str, source: str) -> None:
        if not record.admits(source):
            raise Refused("source-not-allowed", "this join token may not be used from {}".format(source))
        if record.expired(self._now()):
            raise Refused("expired", "this join token has expired", hint=_NEW_ONE)
        if request.node != record.node:
            raise Refused(
                "other-node", "this join token is for another node than {!r}".format(request.node[:80])
            )
        # The claim is no secret (clones of a machine share its ids), so the address has to be the same, too.
        if record.claim and (record.claim, record.claimed_from) != (claim, source):
            raise Refused("used", "this join token was used by another machine", hint=_NEW_ONE)
        _addresses(record, request, source)

    def _admitted(self, record: JoinTokenRecord, source: str, admission: Callable[[], T]) -> T:
        try:
            return admission()
        except Refused as refused:
            self._audit.about_token(record, REFUSED, refused.message, source)
            raise

    def _settings(self) -> ClusterSettings:
        try:
            text = self._api.get(SETTINGS)["data"][SETTINGS_KEY]
            return ClusterSettings.from_json(json.loads(text))
        except (NotFound, KeyError, ValueError) as error:
            # The installer writes them a moment after the API server is up.
            raise AdmissionTimeout("the cluster's settings are not there yet") from error


def _addresses(record: JoinTokenRecord, request: JoinRequest, source: str) -> Tuple[str, ...]:
    return addresses_of(record.addresses, record.claimed_from or source, request.addresses, request.own)
