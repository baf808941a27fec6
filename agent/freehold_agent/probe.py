"""Use the network as a pod sees it: a name from the cluster's DNS, and the Service behind it.

Runs on a node as root: a child enters the network namespace of a pod and asks from there, so that the test needs
no image with tools in it.
"""

import ctypes
import json
import os
import secrets
import socket
import struct
import time
from typing import Any, Dict, Mapping, Optional

from freehold_agent.errors import StepFailed

NAMESPACES = "/run/netns"
_CLONE_NEWNET = 0x40000000
_INTERVAL = 0.05


def probe(request: Mapping[str, Any]) -> Dict[str, Any]:
    """Resolve `name` at `server` and connect to what it names on `port`, from the pod with `pod_address`.

    Tries until both work or `timeout` (seconds) is over. Returns the address and the seconds it took. Raises
    StepFailed saying what did not answer.
    """
    begun = time.monotonic()
    deadline = begun + float(request["timeout"])
    problem = "no network namespace of a pod with address {}".format(request["pod_address"])
    while time.monotonic() < deadline:
        namespace = _namespace_of(str(request["pod_address"]))
        if namespace is not None:
            answer = _inside(namespace, request)
            if "address" in answer:
                return {"address": answer["address"], "seconds": round(time.monotonic() - begun, 3)}
            problem = answer["problem"]
        time.sleep(_INTERVAL)
    raise StepFailed("", "from a pod on this machine: " + problem)


def query(name: str) -> bytes:
    """Return a DNS question for the IPv4 address of a name (RFC 1035, section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.strip(".").split("."))
    return (
        struct.pack(">HHHHHH", secrets.randbits(16), 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack(">HH", 1, 1)
    )


def answer_of(packet: bytes) -> Optional[str]:
    """Return the first IPv4 address in a DNS answer; None when there is none or it is damaged."""
    try:
        return _answer_of(packet)
    except (IndexError, struct.error):
        return None


def _answer_of(packet: bytes) -> Optional[str]:
    if len(packet) < 12 or packet[3] & 0x0F or not struct.unpack(">H", packet[6:8])[0]:
        return None
    position = _skip_name(packet, 12) + 4
    for _ in range(struct.unpack(">H", packet[6:8])[0]):
        position = _skip_name(packet, position)
        kind, _klass, _ttl, length = struct.unpack(">HHIH", packet[position : position + 10])
        position += 10
        if kind == 1 and length == 4:
            return socket.inet_ntoa(packet[position : position + 4])
        position += length
    return None


def _skip_name(packet: bytes, position: int) -> int:
    while packet[position]:
        if packet[position] & 0xC0:
            return position + 2
        position += packet[position] + 1
    return position + 1


def _namespace_of(address: str) -> Optional[str]:
    """Return the network namespace in which that address is local."""
    for name in sorted(os.listdir(NAMESPACES)) if os.path.isdir(NAMESPACES) else ():
        path = NAMESPACES + "/" + name
        if _in_child(path, lambda: {"local": _is_local(address)}).get("local"):
            return path
    return None


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe_socket:
        try:
            probe_socket.bind((address, 0))
        except OSError:
            return False
    return True


def _inside(namespace: str, request: Mapping[str, Any]) -> Dict[str, Any]:
    def ask() -> Dict[str, Any]:
        server, name, port = str(request["server"]), str(request["name"]), int(request["port"])
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
                resolver.settimeout(1.0)
                resolver.sendto(query(name), (server, 53))
                address = answer_of(resolver.recv(512))
        except OSError as error:
            return {"problem": "the cluster's DNS at {} does not answer: {}".format(server, error)}
        if address is None:
            return {"problem": "the cluster's DNS at {} does not know {}".format(server, name)}
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError as error:
            return {
                "problem": "the Service {} ({}:{}) does not answer: {}".format(name, address, port, error)
            }
        return {"address": address}

    return _in_child(namespace, ask)


def _in_child(namespace: str, work: Any) -> Dict[str, Any]:
    """Do the work in a child that has entered the namespace; return what it returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            descriptor = os.open(namespace, os.O_RDONLY)
            libc = ctypes.CDLL(None, use_errno=True)
            result = (
                work()
                if libc.setns(descriptor, _CLONE_NEWNET) == 0
                else {"problem": "cannot enter {}: {}".format(namespace, os.strerror(ctypes.get_errno()))}
            )
            os.write(writer, json.dumps(result).encode())
            status = 0
        finally:
            # Never back into the caller's stack: this is a copy of the program.
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    found: Dict[str, Any] = (
        json.loads(text) if text else {"problem": "the probe in {} died".format(namespace)}
    )
    return found
