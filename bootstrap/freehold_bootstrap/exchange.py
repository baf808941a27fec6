"""One HTTP request and its answer, with every size and time bounded. Knows routes as little as the listener."""

import hashlib
import http.client
import http.server
import json
import ssl
import time
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

if TYPE_CHECKING:
    from freehold_bootstrap.listener import Connection, Listener

LONGEST_HEAD = 32 * 1024
"""Bytes of all headers of a request; the parser alone would take a hundred of 64 KiB each."""
LONGEST_BODY = 64 * 1024
"""Bytes; the largest honest one, a join with facts, has a few thousand."""


class Exchange:
    """What a service sees of a request, and how it answers it."""

    def __init__(self, handler: "Handler", body: bytes) -> None:
        parts = urllib.parse.urlsplit(handler.path)
        self.method: str = handler.command
        self.path = parts.path
        self.query: Dict[str, str] = dict(urllib.parse.parse_qsl(parts.query))
        self.body = body
        self.source = handler.peer.source
        """The address the connection came from."""
        self.status = 0
        self._handler = handler

    @property
    def answered(self) -> bool:
        return self.status != 0

    def header(self, name: str) -> str:
        """Return a header's value; empty when it is not there."""
        return self._handler.headers.get(name) or ""

    def certificate(self) -> Optional[Mapping[str, List[str]]]:
        """Return the subject of the client's verified certificate: attribute name -> values; None without one."""
        shown = self._handler.secure.getpeercert()
        if not shown:
            return None
        subject: Dict[str, List[str]] = {}
        parts: Any = shown.get("subject", ())
        for relative in parts:
            for name, value in relative:
                subject.setdefault(name, []).append(value)
        return subject

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the client's verified certificate; empty without one."""
        shown = self._handler.secure.getpeercert(binary_form=True)
        return hashlib.sha256(shown).hexdigest() if shown else ""

    def certificate_age(self) -> float:
        """Return the seconds since the beginning of the certificate's validity; 0 without one."""
        begins: Any = (self._handler.secure.getpeercert() or {}).get("notBefore")
        return time.time() - ssl.cert_time_to_seconds(begins) if begins else 0.0

    def begin(self, status: int, length: int, headers: Optional[Mapping[str, str]] = None) -> None:
        """Send the head of an answer whose body has `length` bytes."""
        self.status = status
        handler = self._handler
        handler.send_response_only(status)
        # A machine that joins compares its clock with ours.
        handler.send_header("Date", handler.date_time_string())
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(length))
        if handler.close_connection:
            handler.send_header("Connection", "close")
        handler.end_headers()

    def write(self, data: memoryview) -> None:
        """Send a part of the body. Raises OSError when the client takes nothing for too long."""
        self._handler.secure.sendall(data)

    def abort(self) -> None:
        """Break the connection off: an answer that was begun cannot be completed."""
        self._handler.close_connection = True

    def answer(self, status: int, body: bytes, headers: Optional[Mapping[str, str]] = None) -> None:
        """Send a whole answer."""
        self.begin(status, len(body), headers)
        if self.method != "HEAD" and body:
            self.write(memoryview(body))

    def answer_json(self, status: int, body: Mapping[str, Any]) -> None:
        """Send a JSON object."""
        self.answer(status, json.dumps(body).encode() + b"\n", {"Content-Type": "application/json"})

    def refuse(
        self, status: int, reason: str, message: str, headers: Optional[Mapping[str, str]] = None
    ) -> None:
        """Send `{"error": MESSAGE, "reason": WORD}`: the message is for a person, the word for a program."""
        body = json.dumps({"error": message, "reason": reason}).encode() + b"\n"
        self.answer(status, body, {"Content-Type": "application/json", **(headers or {})})


class _Bounded:
    """A connection's reader whose request heads have a bound as a whole, not only each line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left: Optional[int] = None
        self.peek, self.read, self.close = stream.peek, stream.read, stream.close

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)

    def next_request(self) -> None:
        """A request line follows; it has a bound of its own."""
        self._left = None

    def readline(self, limit: int = -1) -> bytes:
        """Return the next line. Raises LineTooLong, which the parser answers, when a head is too large."""
        line: bytes = self._stream.readline(limit)
        if self._left is None:
            self._left = LONGEST_HEAD
        else:
            self._left -= len(line)
            if self._left < 0:
                raise http.client.LineTooLong("header")
        return line


class Handler(http.server.BaseHTTPRequestHandler):
    """Parses requests of one connection with the standard library's parser, and bounds what that leaves open."""

    protocol_version = "HTTP/1.1"
    rbufsize = 16 * 1024

    def __init__(self, secure: ssl.SSLSocket, peer: "Connection", listener: "Listener") -> None:
        self.secure = secure
        self.peer = peer
        self.listener = listener
        super().__init__(secure, (peer.source, 0), None)  # type: ignore[arg-type]

    def setup(self) -> None:
        super().setup()
        self.reader = _Bounded(self.rfile)
        self.rfile = self.reader  # type: ignore[assignment]

    def handle(self) -> None:
        self.close_connection = True
        first = True
        while first or not self.close_connection:
            self.listener.awaiting_request(self.peer, first, known=bool(self.secure.getpeercert()))
            # The janitor, not this timeout, ends who waits: a read may take as long as the deadline says.
            self.secure.settimeout(None)
            if not self.reader.peek(1):
                return
            self.reader.next_request()
            if not first:
                self.listener.receiving(self.peer)
            first = False
            self.handle_one_request()

    def do_GET(self) -> None:
        self._exchange(b"")

    def do_HEAD(self) -> None:
        self._exchange(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not length.isdigit():
            self.send_error(HTTPStatus.LENGTH_REQUIRED, "a body needs a Content-Length")
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._exchange(body)
            else:
                self.close_connection = True

    def _exchange(self, body: bytes) -> None:
        announced = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        if self.command != "POST" and announced:
            self.send_error(HTTPStatus.BAD_REQUEST, "this request takes no body")
            return
        try:
            exchange = Exchange(self, body)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST, "this is no path")
            return
        self.listener.received(self.peer)
        self.secure.settimeout(self.listener.stall)
        self.listener.answer(exchange)

    def send_error(
        self,
        code: int,
        message: Optional[str] = None,
        explain: Optional[str] = None,  # noqa: ARG002 the base class' signature
    ) -> None:
        """Answer what the parser did not like in the same form as everything else, and close."""
        self.close_connection = True
        self.request_version = self.protocol_version  # else an unreadable request gets HTTP/0.9: no status
        self.listener.count("answered {}".format(int(code)))
        text = message or HTTPStatus(code).phrase
        plain = "".join(letter for letter in text if letter.isprintable())
        body = json.dumps({"error": plain, "reason": "bad-request"}).encode() + b"\n"
        self.send_response_only(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class' name
        """Log nothing: requests may carry secrets, and floods must not fill the journal."""
