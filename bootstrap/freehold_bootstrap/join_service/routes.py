"""The join service's routes: from HTTP to what is asked, from refusals to status codes.

| Request | Credential | Answer |
|---|---|---|
| GET /healthz | none | `ok` |
| POST /v1/join `{node, addresses?, claim?, facts?}` | join token | the join document |
| POST /v1/credential (same body) | join token | `{token, expires}` |
| POST /v1/finish | the node's certificate | `{}`; the bootstrap token is gone |
| GET /v1/document/NODE`?generation=N&volumes=M&wait=SECONDS` | the node's certificate | what is newer, or 204 |
| POST /v1/volumes (a report) | the node's certificate | `{}` |

The answer to a long poll is a join document or, when `volumes` is asked for, a list of volumes (`kind: volumes`).
Tokens are read from `Authorization: Bearer` only, and never logged.
"""

import json
import math
from typing import Callable, Dict

from freehold_agent.contract.volumes import VolumeReport
from freehold_agent.machine.kubernetes_api import ApiError
from freehold_bootstrap import journal
from freehold_bootstrap.errors import AdmissionTimeout, Refused
from freehold_bootstrap.exchange import Exchange
from freehold_bootstrap.identities import NODE_USER_PREFIX, NODES_GROUP
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.joining import Joining, JoinRequest
from freehold_bootstrap.join_service.turns import Turns

DOCUMENTS = "/v1/document/"
LONGEST_WAIT = 300.0
"""Seconds of a long poll."""
JOINS = 16
"""At the same time: each is a few requests to the API server."""
KNOWN_AFTER = 600.0
"""Seconds after the beginning of a certificate's validity (the signer dates it back by 300) until which the
controller may not have written it down."""
TURN = 30.0
"""Seconds to wait for a place among them."""

STATUS: Dict[str, int] = {
    "bad-token": 401,
    "wrong-token": 401,
    "no-credential": 401,
    "too-many-failures": 429,
    "bad-request": 400,
    "bad-name": 400,
    "bad-address": 400,
    "address-in-use": 409,
    "node-exists": 409,
    "node-leaving": 409,
    "not-admitted": 409,
    "node-removed": 410,
}
"""Status of a refusal by its reason; 403 for all others."""


class Routes:
    """Thread-safe."""

    def __init__(self, joining: Joining, documents: DocumentWatch) -> None:
        self._joining = joining
        self._documents = documents
        self._turns = Turns(JOINS, TURN)

    def answer(self, exchange: Exchange) -> None:
        """Answer one request; what goes wrong is one sentence and a status, never a traceback."""
        try:
            self._route(exchange)
        except Refused as refused:
            message = refused.message + ("; " + refused.hint if refused.hint else "")
            status = STATUS.get(refused.reason, 403)
            exchange.refuse(status, refused.reason, message, {"Retry-After": "1"} if status == 429 else None)
        except AdmissionTimeout as error:
            exchange.refuse(503, "not-ready", error.message, {"Retry-After": "1"})
        except (ApiError, OSError) as error:
            if exchange.answered:
                raise
            journal.warning("API server does not serve us", error=str(error), path=exchange.path)
            exchange.refuse(503, "not-ready", "the control plane cannot do this now", {"Retry-After": "1"})
        finally:
            self._joining.release()

    def _route(self, exchange: Exchange) -> None:
        routes: Dict[str, Callable[[Exchange], None]] = {
            "GET /healthz": self._health,
            "POST /v1/join": self._join,
            "POST /v1/credential": self._credential,
            "POST /v1/finish": self._finish,
            "POST /v1/volumes": self._report_volumes,
        }
        route = routes.get("{} {}".format(exchange.method, exchange.path))
        if route is not None:
            route(exchange)
        elif exchange.method == "GET" and exchange.path.startswith(DOCUMENTS):
            self._document(exchange, exchange.path[len(DOCUMENTS) :])
        else:
            exchange.refuse(404, "no-route", "there is nothing here")

    def _health(self, exchange: Exchange) -> None:
        exchange.answer(200, b"ok\n", {"Content-Type": "text/plain"})

    def _join(self, exchange: Exchange) -> None:
        token, request = _bearer(exchange), JoinRequest.from_json(exchange.body)
        document = self._turns.run(lambda: self._joining.join(token, request, exchange.source))
        exchange.answer(200, document.dumps(), {"Content-Type": "application/json"})

    def _credential(self, exchange: Exchange) -> None:
        token, request = _bearer(exchange), JoinRequest.from_json(exchange.body)
        given = self._turns.run(lambda: self._joining.credential(token, request, exchange.source))
        exchange.answer_json(200, {"token": given.token, "expires": given.expires})

    def _finish(self, exchange: Exchange) -> None:
        name = _node(exchange)
        self._require_member(exchange, name)
        self._joining.finish(name)
        exchange.answer_json(200, {})

    def _report_volumes(self, exchange: Exchange) -> None:
        name = _node(exchange)
        self._require_member(exchange, name)
        try:
            report = VolumeReport.from_json(json.loads(exchange.body))
        except (ValueError, RecursionError):
            raise Refused("bad-request", "the request is not a report about volumes") from None
        self._joining.keep_report(name, report)
        exchange.answer_json(200, {})

    def _document(self, exchange: Exchange, name: str) -> None:
        if _node(exchange) != name:
            raise Refused("other-node", "a node reads its own document only")
        self._require_member(exchange, name)
        try:
            volumes = int(exchange.query["volumes"]) if "volumes" in exchange.query else None
            # Who follows volumes only, says nothing of documents.
            asked = "generation" in exchange.query or volumes is None
            generation = int(exchange.query.get("generation", "0")) if asked else None
            wait = min(max(float(exchange.query.get("wait", "0")), 0.0), LONGEST_WAIT)
            if math.isnan(wait):
                raise ValueError("no time to wait")
        except ValueError:
            raise Refused("bad-request", "generation, volumes and wait are numbers") from None
        try:
            found = self._documents.wait_for(name, generation, volumes, wait)
        except LookupError as error:
            raise AdmissionTimeout(str(error)) from None
        if wait:
            self._require_member(exchange, name)
        if found is None:
            exchange.answer(204, b"")
        else:
            exchange.answer(200, found[1].encode(), {"Content-Type": "application/json"})

    def _require_member(self, exchange: Exchange, name: str) -> None:
        """Raise Refused for a node that was removed: its certificate is valid for days to come."""
        member = self._joining.is_member(
            name, exchange.fingerprint(), exchange.certificate_age() < KNOWN_AFTER, exchange.source
        )
        self._joining.release()  # a long poll may follow
        if not member:
            raise Refused("node-removed", "node {} was removed from the cluster".format(name))


def _bearer(exchange: Exchange) -> str:
    scheme, _, token = exchange.header("Authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused("no-credential", "a join token is needed: Authorization: Bearer fh1.ID.SECRET")
    return token.strip()


def _node(exchange: Exchange) -> str:
    """Return the name of the node whose certificate the client has shown. Raises Refused."""
    subject = exchange.certificate()
    if subject is None:
        raise Refused("no-credential", "the node's certificate is needed")
    names = subject.get("commonName", [])
    if len(names) != 1 or not names[0].startswith(NODE_USER_PREFIX):
        raise Refused("not-a-node", "the certificate is not a node's")
    if NODES_GROUP not in subject.get("organizationName", []):
        raise Refused("not-a-node", "the certificate is not a node's")
    return names[0][len(NODE_USER_PREFIX) :]
