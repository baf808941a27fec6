"""The listener stays usable: slow, silent, rude and too many clients do not keep an honest one out."""

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, Callable, List

import pytest
from tests.support.served import Client, Served

from freehold_agent.machine.https import pinned_context
from freehold_bootstrap.exchange import LONGEST_BODY, Exchange
from freehold_bootstrap.listener import Limits

QUICK = Limits(connections=8, per_source=100, handshake=0.3, request=0.5, idle=0.6, stall=2.0)


def hello(exchange: Exchange) -> None:
    exchange.answer(200, b"hello " + exchange.body)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something another thread does; at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.01)


def raw(served: Served, cluster_pki: Any) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    return pinned_context(cluster_pki.ca_pem()).wrap_socket(plain, server_hostname="localhost")


def said(stream: ssl.SSLSocket) -> bytes:
    parts: List[bytes] = []
    with contextlib.suppress(OSError):
        while True:
            part = stream.recv(4096)
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


def test_a_connection_serves_many_requests(
    serve: Callable[..., Served], client: Callable[..., Client]
) -> None:
    """Keep-alive works, with bodies in between."""
    with client(serve(hello)) as connection:
        assert [connection.ask("POST", "/", b"a%d" % i).body for i in range(3)] == [
            b"hello a0",
            b"hello a1",
            b"hello a2",
        ]


def test_names_of_the_certificate_are_verified(serve: Callable[..., Served], cluster_pki: Any) -> None:
    """A client that asks for another name than the certificate's does not talk to us."""
    served = serve(hello)
    for authority, name in (("ca", "other"), ("etcd/ca", "localhost")):
        context = pinned_context(cluster_pki.ca_pem(authority))
        plain = socket.create_connection(("127.0.0.1", served.port), timeout=10)
        with plain, pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(plain, server_hostname=name)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (LONGEST_BODY + 1), b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", b"400"),
        (b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"\x00\xff\xfe\r\n\r\n", b"400"),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_bad_requests_get_a_status_and_the_door(
    serve: Callable[..., Served], cluster_pki: Any, request_: bytes, status: bytes
) -> None:
    """What is no request of ours is answered by a number and one sentence, and closed."""
    served = serve(hello)
    with raw(served, cluster_pki) as stream:
        stream.sendall(request_)
        answer = said(stream)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b'"error"' in answer
    assert b"Traceback" not in answer
    assert served.listener.counters["faults"] == 0


def test_a_fault_of_the_service_is_a_plain_500(
    serve: Callable[..., Served], client: Callable[..., Client], capfd: pytest.CaptureFixture[str]
) -> None:
    """The stranger learns nothing, the journal gets a line, the next request works."""

    def fails(exchange: Exchange) -> None:
        raise KeyError("inner")

    with client(serve(fails)) as connection:
        for _ in range(2):
            answer = connection.ask("GET", "/")
            assert (answer.status, answer.reason) == (500, "internal")
            assert b"inner" not in answer.body
    assert "inner" in capfd.readouterr().err


@pytest.mark.parametrize(
    "beginning", [None, b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"]
)
def test_who_keeps_us_waiting_is_ended(
    serve: Callable[..., Served], cluster_pki: Any, beginning: Any
) -> None:
    """No handshake, no request, half a head or half a body: each has a deadline for the whole of it."""
    served = serve(hello, limits=QUICK)
    if beginning is None:
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as plain:
            assert plain.recv(1) == b""
        return
    with raw(served, cluster_pki) as stream:
        stream.sendall(beginning)
        assert said(stream) == b""
    until(lambda: not served.listener._connections)
    assert served.listener.counters["too slow"] >= 1


def test_an_idle_connection_ends(serve: Callable[..., Served], client: Callable[..., Client]) -> None:
    """After its last request a connection may stay a while, not for ever."""
    served = serve(hello, limits=QUICK)
    with client(served) as connection:
        assert connection.ask("GET", "/").status == 200
        until(lambda: not served.listener._connections)


def test_under_flood_an_honest_machine_gets_through(
    serve: Callable[..., Served], client: Callable[..., Client]
) -> None:
    """With far more silent connections than places, each honest request is answered, at the latest at its third try.

    On a busy host a handshake can last so long that the connection is taken for one of the silent ones.
    """
    served = serve(hello, limits=Limits(connections=8, per_source=1000))
    with contextlib.ExitStack() as flood:
        for number in range(60):
            flood.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))
            if number % 10 == 0:
                assert "hello " in [_heard(client, served) for _ in range(3)]
        assert served.listener.counters["evicted"] > 0
        until(lambda: len(served.listener._connections) <= 8)


def _heard(client: Callable[..., Client], served: Served) -> str:
    """Return what one request heard, or that its connection was cut."""
    try:
        with client(served) as connection:
            return connection.ask("GET", "/").body.decode()
    except ConnectionError as error:
        return f"cut: {error}"


def test_flood_that_speaks_http_does_not_keep_places_either(
    serve: Callable[..., Served], client: Callable[..., Client]
) -> None:
    """Connections that have made a request and now wait are the first to make room."""
    served = serve(hello, limits=Limits(connections=4, per_source=1000))
    with contextlib.ExitStack() as flood:
        for _ in range(12):
            connection = flood.enter_context(client(served))
            assert connection.ask("GET", "/").status == 200
        assert served.listener.counters["refused: full"] == 0


def test_a_machine_with_a_certificate_keeps_its_place(
    serve: Callable[..., Served], client: Callable[..., Client], node_certificate: Any
) -> None:
    """Long polls of nodes are not what makes room for strangers."""
    served = serve(hello, limits=Limits(connections=4, per_source=1000))
    with client(served, node_certificate("system:node:w1")) as node, contextlib.ExitStack() as flood:
        assert node.ask("GET", "/").status == 200
        for _ in range(20):
            flood.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))
        until(lambda: served.listener.counters["accepted"] == 21)
        assert node.ask("GET", "/").status == 200


def test_one_source_has_its_share(serve: Callable[..., Served], client: Callable[..., Client]) -> None:
    """Beyond its share an address' longest idle connection makes room, and no other address'."""
    served = serve(hello, limits=Limits(per_source=2))
    with client(served) as first, client(served) as second, client(served) as third:
        for each in (first, second, third):
            assert each.ask("GET", "/").status == 200
        assert served.listener.counters["evicted"] == 1
        until(lambda: len(served.listener._connections) == 2)
        assert second.ask("GET", "/").status == 200
        with pytest.raises(OSError, match=r"(?i)reset|eof|broken|closed|without response"):
            first.ask("GET", "/")


def test_nodes_do_not_use_up_the_share_of_their_site(
    serve: Callable[..., Served], client: Callable[..., Client], node_certificate: Any
) -> None:
    """Long polls of a hundred nodes behind one address leave room for those who want to join from there."""
    served = serve(hello, limits=Limits(per_source=2))
    certificate = node_certificate("system:node:w1")
    with contextlib.ExitStack() as site:
        for _ in range(6):
            node = site.enter_context(client(served, certificate))
            assert node.ask("GET", "/").status == 200
        with client(served) as stranger:
            assert stranger.ask("GET", "/").status == 200
        assert node.ask("GET", "/").status == 200
        assert served.listener.counters["evicted"] == 0
    until(lambda: not served.listener._connections)
    assert not served.listener._sources


def test_a_head_is_bounded_as_a_whole(serve: Callable[..., Served], cluster_pki: Any) -> None:
    """Many long headers are refused long before they fill our memory, and the next request starts anew."""
    served = serve(hello)
    with raw(served, cluster_pki) as stream:
        for _ in range(3):
            stream.sendall(b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 9000 + b"\r\n") * 3 + b"\r\n")
            answer = b""
            while not answer.endswith(b"hello "):
                answer += stream.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
        stream.sendall(b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 9000 + b"\r\n") * 4)
        assert said(stream).startswith(b"HTTP/1.1 431")


def test_a_port_in_use_is_an_error_of_the_start(serve: Callable[..., Served]) -> None:
    """The unit fails at once instead of listening nowhere."""
    from freehold_bootstrap.listener import Listener

    served = serve(hello)
    with pytest.raises(OSError, match="in use"):
        Listener("127.0.0.1", served.port, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), hello)
