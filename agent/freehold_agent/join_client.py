"""The conversation with the join service: requests out, and each way it can fail in words a person can act on.

TLS is verified against the one authority that came with the token's line, proxies of the environment are never
asked. A token is in the Authorization header and nowhere else. Knows nothing of the machine.
"""

import contextlib
import email.utils
import http.client
import json
import random
import socket
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from freehold_agent.contract import fitness
from freehold_agent.contract.join_document import BootstrapCredential, JoinDocument
from freehold_agent.errors import AgentError, BadRequest
from freehold_agent.machine.https import pinned_context

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 75.0
"""Seconds: an admission may wait for its turn and for the controller manager."""
PATIENCE = 90.0
"""Seconds to go on asking a control plane that does not answer, or not yet."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
LARGEST_SKEW = 240.0
"""Seconds between the clocks: certificates are backdated by five minutes."""
LARGEST_ANSWER = 16 << 20
MOST_ADDRESSES = 500
"""Of this machine's own; with more it does not say them, and looks itself."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: chain and name are verified as ever, only the dates are not."""
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)
_AGAIN = (429, 500, 502, 503, 504)

Wait = Callable[[float], None]


class Unreachable(AgentError):  # noqa: N818
    """No control plane answers, or what answers is not the one meant."""

    kind = "unreachable"


class Refused(AgentError):  # noqa: N818
    """The control plane understood and said no; `reason` is its word for it."""

    kind = "refused"

    def __init__(self, reason: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class _TryAgainError(Exception):
    """Passes by itself; `pause` in seconds, 0: as usual."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def ask(
    server: str,
    ca_pem: str,
    method: str,
    path: str,
    *,
    body: Optional[bytes] = None,
    token: str = "",
    certificate: str = "",
    timeout: float = ANSWER_TIMEOUT,
    context: Optional[ssl.SSLContext] = None,
) -> Reply:
    """Send one request over a connection of its own; `certificate` is the path of a PEM with its key.

    Raises OSError (ssl.SSLError below it), http.client.HTTPException, ValueError for a server that is no
    `https://host:port`.
    """
    host, port = _place(server)
    context = context or pinned_context(ca_pem, certificate or None)
    connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT, context=context)
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(timeout)
        _notice_death(connection.sock)
        headers = {"User-Agent": "freehold-agent"}
        if token:
            headers["Authorization"] = "Bearer " + token
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read(LARGEST_ANSWER)
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


def _notice_death(stream: socket.socket) -> None:
    """Notice a peer that died without a word long before a long poll would end."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        stream.setsockopt(socket.IPPROTO_TCP, option, value)


class JoinClient:
    """The join services of one cluster, the first that answers is asked."""

    def __init__(
        self,
        servers: Sequence[str],
        ca_pem: str,
        *,
        say: Callable[[str], None] = lambda _text: None,
        patience: float = PATIENCE,
        sleep: Wait = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`say` gets a sentence whenever there is something new to wait for. Raises BadRequest."""
        try:
            for server in servers:
                _place(server)
            pinned_context(ca_pem)
        except (ValueError, OSError) as error:
            raise BadRequest("no join service can be asked like this: {}".format(error)) from error
        self._servers = list(servers)
        self._ca_pem = ca_pem
        self._say = say
        self._patience = patience
        self._sleep = sleep
        self._now = now

    def check_clock(self) -> None:
        """Ask the time there, verified. Raises Unreachable: nobody answers, a stranger does, our clock is off."""

        def look(server: str) -> Optional[float]:
            begun = self._now()
            reply = ask(server, self._ca_pem, "GET", "/healthz", timeout=CONNECT_TIMEOUT)
            return _skew(reply, (begun + self._now()) / 2)

        skew = self._patiently(look)
        if skew is not None and abs(skew) > LARGEST_SKEW:
            raise _clock_is_off(skew)

    def join(self, token: str, request: Mapping[str, Any]) -> JoinDocument:
        """Hand the token in and return the node's document. Raises Refused, Unreachable, DocumentError."""
        return JoinDocument.loads(self._post("/v1/join", request, token=token))

    def credential(self, token: str, request: Mapping[str, Any]) -> BootstrapCredential:
        """Return a bootstrap credential for the node that was admitted. Raises Refused, Unreachable."""
        try:
            given = BootstrapCredential.from_json(
                json.loads(self._post("/v1/credential", request, token=token))
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            given = None
        if given is None:
            # What came may hold the credential: it is not quoted.
            raise Unreachable("the join service's answer is no bootstrap credential")
        return given

    def finish(self, certificate: str) -> None:
        """Close the join, as the node. Raises Refused, Unreachable."""
        self._post("/v1/finish", {}, certificate=certificate)

    def document(
        self, node: str, certificate: str, patience: Optional[float] = None
    ) -> Optional[JoinDocument]:
        """Return the document of a node that exists, None for one that was removed or is not this one's.

        `patience` in seconds, None: as ever. Raises Unreachable, DocumentError.
        """
        path = "/v1/document/{}?generation=0&wait=0".format(urllib.parse.quote(node, safe=""))

        def get(server: str) -> Reply:
            return _judged(ask(server, self._ca_pem, "GET", path, certificate=certificate))

        try:
            reply = self._patiently(get, patience)
        except Refused:
            return None
        return JoinDocument.loads(reply.body) if reply.status == 200 else None

    def _post(self, path: str, body: Mapping[str, Any], *, token: str = "", certificate: str = "") -> bytes:
        content = json.dumps(body).encode()

        def post(server: str) -> bytes:
            reply = ask(
                server, self._ca_pem, "POST", path, body=content, token=token, certificate=certificate
            )
            return _judged(reply).body

        result: bytes = self._patiently(post)
        return result

    def _patiently(self, request: Callable[[str], Any], patience: Optional[float] = None) -> Any:
        """Ask one server after the other until one answers, with growing, jittered pauses."""
        deadline = time.monotonic() + (self._patience if patience is None else patience)
        pause, told = FIRST_PAUSE, ""
        while True:
            problems: List[str] = []
            asked = 0.0
            for server in self._servers:
                try:
                    return request(server)
                except ssl.SSLCertVerificationError as error:
                    raise self._not_trusted(server, error) from error
                except _TryAgainError as error:
                    problems.append("{}: {}".format(server, error))
                    asked = max(asked, error.pause)
                except (OSError, http.client.HTTPException) as error:
                    problems.append("{}: {}".format(server, _plain(error)))
            wait = max(asked, pause) * random.uniform(0.7, 1.3)  # noqa: S311 no secret
            if time.monotonic() + wait > deadline:
                raise Unreachable(
                    "the control plane cannot be asked: " + "; ".join(problems),
                    hint="is it up, and may this machine reach it?",
                )
            if problems and problems[0] != told:
                told = problems[0]
                self._say("waiting: " + told)
            self._sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _not_trusted(self, server: str, error: ssl.SSLCertVerificationError) -> AgentError:
        if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
            skew = self._skew_without_dates(server)
            if skew is not None and abs(skew) > LARGEST_SKEW:
                return _clock_is_off(skew)
            return Unreachable(
                "the certificate of {} is {}".format(
                    server, "expired" if error.verify_code == _EXPIRED else "not valid yet"
                ),
                hint="run freehold apply on the operator's machine, and look at the clocks",
            )
        if error.verify_code in _OTHER_NAME:
            return Unreachable(
                "the certificate of {} is for other names: {}".format(server, error.verify_message),
                hint="use an address of the control plane that its certificate names",
            )
        return Unreachable(
            "{} is not of the cluster that this token is for: another authority signed its certificate".format(
                server
            ),
            hint="use the line that `freehold token create` printed; if you did, somebody is in between",
        )

    def _skew_without_dates(self, server: str) -> Optional[float]:
        """Ask for the time of a server whose chain and name are right and whose dates are not; send nothing."""
        context = pinned_context(self._ca_pem)
        context.verify_flags |= _NO_CHECK_TIME
        try:
            reply = ask(server, self._ca_pem, "GET", "/healthz", timeout=CONNECT_TIMEOUT, context=context)
        except (OSError, http.client.HTTPException):
            return None
        return _skew(reply, self._now())


def request_body(
    node: str, claim: str, addresses: Sequence[str] = (), facts: Optional[Mapping[str, Any]] = None
) -> Dict[str, Any]:
    """Return the body of `/v1/join` and `/v1/credential`; `claim` is the same whenever this machine asks again."""
    body: Dict[str, Any] = {"node": node, "claim": claim}
    if addresses:
        body["addresses"] = list(addresses)
    if facts:
        body["facts"] = {name: facts[name] for name in ("architecture", "kernel", "python") if name in facts}
        own = fitness.addresses(facts) if "interfaces" in facts else {}
        if 0 < len(own) <= MOST_ADDRESSES:
            body["facts"]["addresses"] = sorted(own)
    return body


def _judged(reply: Reply) -> Reply:
    """Return an answer that is one. Raises Refused, and _TryAgainError for what passes."""
    if reply.status in (200, 204):
        return reply
    message, reason = "it answered {}".format(reply.status), ""
    with contextlib.suppress(ValueError, AttributeError):
        told = json.loads(reply.body)
        message, reason = str(told.get("error") or message), str(told.get("reason") or "")
    if reply.status in _AGAIN and reason != "too-many-failures":
        try:
            pause = min(max(float(reply.headers.get("retry-after", "0")), 0.0), 30.0)
        except ValueError:
            pause = 0.0
        raise _TryAgainError(message, pause)
    raise Refused(reason, message, reply.status)


def _skew(reply: Reply, here: float) -> Optional[float]:
    """Return how many seconds our clock is ahead; None when the answer has no date."""
    try:
        there = email.utils.parsedate_to_datetime(reply.headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    return here - there


def _clock_is_off(skew: float) -> Unreachable:
    return Unreachable(
        "the clock of this machine is {} {}; certificates are not valid by it".format(
            _duration(abs(skew)), "ahead" if skew > 0 else "behind"
        ),
        hint="set it (timedatectl, chrony, systemd-timesyncd) and try again",
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return "{:.0f} {}".format(seconds / size, unit)
    return "{:.0f} seconds".format(seconds)


def _plain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _place(server: str) -> "tuple[str, int]":
    parts = urllib.parse.urlsplit(server)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("{!r} is not https://host:port".format(server))
    return parts.hostname, parts.port or 6444
