"""The join service under flood and bad manners: honest machines keep joining, and nothing of it is a fault."""

import contextlib
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.at_once import all_at_once
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import Machine, ask

from freehold_agent.contract import paths
from freehold_agent.machine.https import pinned_context
from freehold_bootstrap.listener import Limits

pytestmark = pytest.mark.bundle

SITE = "127.0.8.8"
"""The address that a whole site, thieves and honest machines, comes from."""
HUNG_UP = r"(?i)ssl|reset|eof|broken|closed|refused|timed out|protocol|alert"


def connect(plane: ControlPlane, source: str = "127.0.0.1") -> socket.socket:
    """Return a TCP connection to the join service from an address of loopback."""
    return socket.create_connection((plane.address, paths.JOIN_PORT), timeout=60, source_address=(source, 0))


def secure(plane: ControlPlane, source: str = "127.0.0.1") -> ssl.SSLSocket:
    """Return a TLS connection to it, verified as every client's."""
    plain = connect(plane, source)
    return pinned_context(plane.pki.ca_pem()).wrap_socket(plain, server_hostname=plane.address)


def said(stream: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up."""
    parts = []
    with contextlib.suppress(OSError):
        while part := stream.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(autouse=True)
def no_fault(plane: ControlPlane) -> Iterator[None]:
    """Whatever comes, the service lives, and its journal tells of no fault."""
    before = len(plane.programs["freehold-join"].said())
    yield
    service = plane.programs["freehold-join"]
    assert service.running
    journal = service.said()[before:]
    assert "Traceback" not in journal
    assert "request failed" not in journal
    assert ask(plane, "GET", "/healthz").body == b"ok\n"


def test_who_is_not_verified_is_not_told_anything(plane: ControlPlane) -> None:
    """A client that trusts another authority, or asks for another name, ends the handshake: no token is sent."""
    for ca, name in ((plane.pki.ca_pem("etcd/ca"), plane.address), (plane.pki.ca_pem(), "other.example")):
        with connect(plane) as plain, pytest.raises(ssl.SSLCertVerificationError):
            pinned_context(ca).wrap_socket(plain, server_hostname=name)


def test_plain_http_gets_no_answer(plane: ControlPlane) -> None:
    """A request without TLS is hung up on, with or without a token in it."""
    machine = Machine.invited(plane)
    with connect(plane) as plain:
        plain.sendall(f"POST /v1/join HTTP/1.1\r\nAuthorization: Bearer {machine.token}\r\n\r\n".encode())
        answer = said(plain)
    assert b"HTTP/" not in answer
    assert b"200" not in answer


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(plane: ControlPlane, version: str) -> None:
    """Below TLS 1.2 there is no handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=plane.pki.ca_pem())
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with connect(plane) as plain, pytest.raises(OSError, match=HUNG_UP):
        context.wrap_socket(plain, server_hostname=plane.address)


@pytest.mark.parametrize(
    "garbage", [b"\0" * 5000, b"\x16\x03\x01" + b"\xff" * 600, b"SSH-2.0-x\r\n", b"\n" * 3000]
)
def test_garbage_is_hung_up_on(plane: ControlPlane, garbage: bytes) -> None:
    """Bytes that are no TLS end the connection."""
    with connect(plane) as plain:
        with contextlib.suppress(OSError):
            plain.sendall(garbage)
        assert b"HTTP" not in said(plain)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\0\1\2\3\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /v1/join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 1000000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 1000000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\n" + (b"X: " + b"y" * 60000 + b"\r\n") * 17 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 150000 + b"\r\n", b"431"),
    ],
)
def test_odd_requests_are_answered_with_a_4xx_or_hung_up_on(
    plane: ControlPlane, request_: bytes, status: bytes
) -> None:
    """What is no request, or a megabyte of one, gets its status, or the door when it goes on sending."""
    with secure(plane) as stream:
        with contextlib.suppress(OSError):
            stream.sendall(request_)
        answer = said(stream)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert len(request_) > 60000 or answer, "a short one is always told"


def test_a_token_in_a_url_counts_for_nothing(plane: ControlPlane) -> None:
    """Neither query nor path nor body are looked at for tokens."""
    machine = Machine.invited(plane)
    body = {"node": machine.node, "token": machine.token}
    for path in (f"/v1/join?token={machine.token}", f"/v1/join?access_token={machine.token}"):
        assert ask(plane, "POST", path, body).status == 401
    assert ask(plane, "POST", f"/v1/join/{machine.token}", body).status == 404
    assert ask(plane, "GET", f"/v1/join?token={machine.token}").status == 404


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 60000, b'{"node": "w\\ud800"}', b"\xff\xfe\xfd", b'{"node": 1e400}']
)
def test_odd_bodies_are_400(plane: ControlPlane, body: bytes) -> None:
    """Whatever the body is, the answer is one sentence."""
    answer = ask(plane, "POST", "/v1/join", body, token=Machine.invited(plane).token)
    assert (answer.status, answer.reason) == (400, "bad-request")


def honest_join(plane: ControlPlane, source: str) -> float:
    """Join one machine all the way; return the seconds it took."""
    machine = Machine.invited(plane, source=source)
    begun = time.monotonic()
    machine.joined()
    return time.monotonic() - begun


@pytest.mark.parametrize("sources", [1, 30])
def test_while_300_connections_do_nothing_an_honest_machine_joins(plane: ControlPlane, sources: int) -> None:
    """Slow senders hold 300 connections, from one address or many: an honest machine of that address joins as ever."""
    usual = honest_join(plane, SITE)
    with contextlib.ExitStack() as flood:
        stop = threading.Event()
        streams: list[socket.socket] = []
        for number in range(300):
            source = SITE if sources == 1 else f"127.0.8.{10 + number % sources}"
            if number % 3 == 0:
                streams.append(flood.enter_context(connect(plane, source)))
                continue
            with contextlib.suppress(OSError):  # the oldest of an address make room
                streams.append(flood.enter_context(secure(plane, source)))
                streams[-1].sendall(b"POST /v1/join HTTP/1.1\r\nHost: x\r\n")

        def drip() -> None:
            while not stop.wait(0.5):
                for stream in streams:
                    with contextlib.suppress(OSError, ValueError):
                        stream.send(b"X")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            taken = honest_join(plane, SITE)
        finally:
            stop.set()
            dripping.join()
    print(
        f"honest join beside 300 slow connections from {sources} addresses: {taken:.2f} s, alone {usual:.2f} s"
    )
    assert taken < max(Limits().handshake, 5 * usual), "slow ones were waited for"


def test_while_tokens_are_guessed_an_honest_machine_joins(plane: ControlPlane) -> None:
    """Guesses by the thousand from the address of an honest machine do not keep it out."""
    stop = threading.Event()
    statuses: list[int] = []

    def guess(number: int) -> None:
        while not stop.is_set():
            token = "fh1.{:0>10}.{}".format(number, "a" * 52)
            with contextlib.suppress(OSError):
                statuses.append(
                    ask(plane, "POST", "/v1/join", {"node": "x"}, token=token, source=SITE).status
                )

    guessers = [threading.Thread(target=guess, args=(number,)) for number in range(4)]
    for guesser in guessers:
        guesser.start()
    try:
        taken = honest_join(plane, SITE)
    finally:
        stop.set()
        for guesser in guessers:
            guesser.join()
    print(f"honest join beside {len(statuses)} guesses: {taken:.2f} s")
    assert set(statuses) <= {401, 429}
    assert 429 in statuses or len(statuses) < 20


def test_two_hundred_machines_join_at_once(plane: ControlPlane) -> None:
    """200 machines of one site go all the way at the same time, and none fails."""
    machines = plane.many(lambda _: Machine.invited(plane, "crowd", source=SITE), range(200))
    worked = time.process_time()
    joined, failed = all_at_once(machines, Machine.joined, lambda machine: machine.node)
    assert failed == []
    memory = Path(f"/proc/{plane.programs['freehold-join'].pid}/status").read_text()
    resident = next(line.split()[1] for line in memory.splitlines() if line.startswith("VmRSS"))
    print(
        f"200 joins at once: first certificate {joined[0]:.2f} s, half {joined[100]:.2f} s, all {joined[-1]:.2f} s; "
        f"join service {int(resident) >> 10} MiB; tests used {time.process_time() - worked:.0f} s"
    )
    names = {node["metadata"]["name"] for node in plane.admin.list("/api/v1/nodes")["items"]}
    assert {machine.node for machine in machines} <= names
    assert len({machine.join().network.node_pod_cidrs for machine in machines[:10]}) == 10
    plane.remove_all_nodes()
