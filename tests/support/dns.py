"""Questions to a DNS server, as bytes: what `nslookup` cannot ask, or cannot ask from there."""

import shlex

A = 1
REFUSED, NAME_UNKNOWN = 5, 3


def question(name: str, kind: int = A) -> bytes:
    """Return a query for one name, recursion desired."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00" + bytes([0, kind, 0, 1])


def over_tcp(server: str, port: int, name: str) -> str:
    """Return a command for busybox's shell that prints the reply to a question over TCP as hex digits."""
    query = question(name)
    escaped = "".join(f"\\{byte:03o}" for byte in len(query).to_bytes(2, "big") + query)
    # The connection stays open until the reply is there: nc would close it at the end of its input.
    ask = f"(printf {shlex.quote(escaped)}; sleep 1) | timeout 5 nc {server} {port}"
    return f"{ask} | od -An -v -t x1 | tr -d ' \\n'"


def over_udp(server: str, port: int, name: str, source: str) -> str:
    """Return a command for a machine that prints the reply to a question asked from one of its addresses."""
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); "
        f"s.bind(({source!r}, 0)); s.sendto(bytes.fromhex({question(name).hex()!r}), ({server!r}, {port})); "
        "print(s.recv(1500).hex())"
    )
    return f"python3 -c {shlex.quote(code)}"


def code_of(reply: bytes) -> int:
    """Return the response code: 0, REFUSED, NAME_UNKNOWN."""
    return reply[3] & 0x0F


def answers_in(reply: bytes) -> int:
    """Return the number of answers in a reply."""
    return int.from_bytes(reply[6:8], "big")
