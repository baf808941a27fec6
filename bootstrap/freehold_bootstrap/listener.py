"""A TLS listener that stays usable under flood: bounded connections, a deadline for whoever keeps us waiting.

A connection that waits (for a handshake or a request, without a verified certificate) is *idle*. When there
are too many connections the longest idle one makes room, so whoever completes handshake and request in
milliseconds gets through while others hold sockets open. Knows nothing of tokens or files.
"""

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from freehold_bootstrap import journal
from freehold_bootstrap.exchange import Exchange, Handler

_JANITOR_SECONDS = 0.5
_STACK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """How much of us anybody may take."""

    connections: int = 512
    per_source: int = 256
    """Connections of one address, without those of nodes; whole sites may stand behind one."""
    handshake: float = 5.0
    """Seconds for the TLS handshake."""
    request: float = 10.0
    """Seconds for one request to arrive, head and body."""
    idle: float = 75.0
    """Seconds that a connection which has made a request may wait before its next."""
    stall: float = 20.0
    """Seconds that one write may take to make progress."""


class Connection:
    """One accepted socket, and until when it may be what it is now."""

    def __init__(self, stream: socket.socket, source: str, deadline: float) -> None:
        self.stream = stream
        self.source = source
        self.deadline: Optional[float] = deadline
        self.idle = True
        self.counted = True
        """Is one of its address' share."""

    def end(self) -> None:
        """Wake whoever blocks on it; its own thread then closes it."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: that would turn it into a plain socket under its thread's feet.
            socket.socket.shutdown(self.stream, socket.SHUT_RDWR)


class Listener:
    """Accepts, shakes hands, parses requests and passes them to `answer`, each connection in a thread."""

    def __init__(
        self,
        address: str,
        port: int,
        context: ssl.SSLContext,
        answer: Callable[[Exchange], None],
        limits: Optional[Limits] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind at once, so that a port in use is an error of the start. Raises OSError."""
        self.counters: Counter[str] = Counter()
        self._answer = answer
        self._limits = limits or Limits()
        self._clock = clock
        self._context = context
        self._connections: Dict[int, Connection] = {}
        self._sources: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((address, port))
            self._socket.listen(1024)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        """Accept until `stop`."""
        threading.stack_size(_STACK_BYTES)
        threading.Thread(target=self._watch_deadlines, name="janitor", daemon=True).start()
        while not self._stopped.is_set():
            try:
                stream, address = self._socket.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                # Out of descriptors or memory: what we hold has deadlines, so this passes.
                self.count("accept failed")
                journal.warning("connection not accepted", error=str(error))
                self._stopped.wait(0.05)
                continue
            self._admit(stream, _plain(address[0]))

    def stop(self) -> None:
        """Stop accepting and end all connections."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._connections.values():
                connection.end()

    def count(self, what: str) -> None:
        with self._lock:
            self.counters[what] += 1

    def _admit(self, stream: socket.socket, source: str) -> None:
        connection = Connection(stream, source, self._clock() + self._limits.handshake)
        with self._lock:
            self.counters["accepted"] += 1
            full = False
            if self._sources[source] >= self._limits.per_source:
                # Its own oldest makes room: an honest machine may share the address with who holds them.
                full = not self._evict("source", self._sources[source], self._limits.per_source, source)
            elif len(self._connections) >= self._limits.connections:
                full = not self._evict("full", len(self._connections), self._limits.connections)
            if not full:
                self._connections[id(connection)] = connection
                self._sources[source] += 1
        if full:
            stream.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except RuntimeError:
            self._forget(connection)
            stream.close()
            self.count("refused: threads")

    def _evict(self, why: str, held: int, limit: int, source: str = "") -> bool:
        """End the longest idle connection (of that address); tell whether a new one may come in its place."""
        connections = self._connections.values()
        victim = next((each for each in connections if each.idle and source in ("", each.source)), None)
        # Who is evicted needs a moment to leave; what is leaving must not pile up without bound.
        if victim is None or held >= 2 * limit:
            self.counters["refused: " + why] += 1
            return False
        self.counters["evicted"] += 1
        victim.idle = False
        victim.end()
        return True

    def _serve(self, connection: Connection) -> None:
        stream: socket.socket = connection.stream
        phase = "handshake failed"
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.settimeout(self._limits.handshake)
            secure = self._context.wrap_socket(stream, server_side=True, do_handshake_on_connect=False)
            connection.stream = stream = secure
            secure.do_handshake()
            phase = "broken off"
            Handler(secure, connection, self)
        except (OSError, ValueError):
            # ValueError: ended between two steps.
            self.count(phase)
        except Exception as error:  # noqa: BLE001 one connection's fault is never the service's
            self.count("faults")
            journal.error("request failed", error=repr(error), source=connection.source)
        finally:
            self._forget(connection)
            stream.close()

    def answer(self, exchange: Exchange) -> None:
        """Let the service answer; a fault of it is a plain 500 and a line in the journal."""
        try:
            self._answer(exchange)
        except Exception as error:
            if exchange.answered and isinstance(error, OSError):
                raise  # the client went away
            self.count("faults")
            journal.error("request failed", error=repr(error), method=exchange.method, path=exchange.path)
            if exchange.answered:
                exchange.abort()
            else:
                exchange.refuse(500, "internal", "the service failed; its journal says why")
        self.count("answered {}".format(exchange.status))

    @property
    def stall(self) -> float:
        """Seconds that one write may take to make progress."""
        return self._limits.stall

    def awaiting_request(self, connection: Connection, first: bool, known: bool) -> None:
        """The connection may now send a request; `known` clients are not the ones to make room."""
        connection.idle = not known
        if known and connection.counted:
            # A site's nodes each hold a long poll: they are not to use up the share of those who want to join.
            with self._lock:
                self._uncount(connection)
        connection.deadline = self._clock() + (self._limits.request if first else self._limits.idle)

    def receiving(self, connection: Connection) -> None:
        """The first bytes of a request are there: the rest must follow."""
        connection.deadline = self._clock() + self._limits.request

    def received(self, connection: Connection) -> None:
        """A whole request has arrived; from here on writes have their own timeout."""
        connection.idle = False
        connection.deadline = None

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.pop(id(connection), None)
            self._uncount(connection)

    def _uncount(self, connection: Connection) -> None:
        """Take a connection out of its address' share; the lock is held."""
        if connection.counted:
            connection.counted = False
            self._sources[connection.source] -= 1
            if self._sources[connection.source] <= 0:
                del self._sources[connection.source]

    def _watch_deadlines(self) -> None:
        while not self._stopped.wait(_JANITOR_SECONDS):
            now = self._clock()
            with self._lock:
                late = [held for held in self._connections.values() if held.deadline and held.deadline < now]
                self.counters["too slow"] += len(late)
                for connection in late:
                    connection.deadline = None
                    connection.end()


def server_context(certificate: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    """Return a server's TLS context; with `client_ca` (path) a client may show a certificate of that authority.

    A certificate that is shown must verify, for the usage `client auth`. Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def room_for(connections: int) -> int:
    """Raise our limit of open files for so many connections; return how many there is room for."""
    spare = 64
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + spare
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    return granted - spare


def listen_address(config: Mapping[str, Any], default_port: int) -> Tuple[str, int]:
    """Return address and port of a service's configuration. Raises ValueError."""
    address, port = config.get("listen"), config.get("port", default_port)
    if not isinstance(address, str) or not address or not isinstance(port, int):
        raise ValueError("`listen` must be an address and `port` a number")
    return address, port


def _plain(address: str) -> str:
    """Return an IPv4 address that came through an IPv6 socket as itself, and no zone."""
    address = address.partition("%")[0]
    return address[len("::ffff:") :] if address.startswith("::ffff:") and "." in address else address
