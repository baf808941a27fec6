"""nftables by netlink: what the packet filter holds, in a millisecond and without starting a program.

Read only. A table's base chains are those the kernel runs packets through; one without a rule does nothing.
"""

import socket
import struct
from typing import Callable, Dict, Iterator, Optional, Tuple

FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
_NETLINK_NETFILTER, _NF_TABLES = 12, 10
_GETCHAIN, _GETRULE, _GETGEN, _NEWCHAIN, _NEWRULE, _NEWGEN = 4, 7, 16, 3, 6, 15
_REQUEST, _DUMP = 0x01, 0x300
_ERROR, _DONE = 2, 3
_GEN_ID = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_USE = 1, 3, 4, 6
_RULE_TABLE, _RULE_CHAIN = 1, 2
_PATIENCE = 5.0
"""Seconds for the kernel's answer."""

Chains = Dict[Tuple[str, str], Dict[str, Optional[int]]]
"""(family, table) -> name of each chain -> the number of rules of a base chain; None: another one, ask `rules`."""


def generation() -> Optional[int]:
    """Return a number that changes with every change of the rules; None where nftables cannot be asked."""
    try:
        for kind, _family, body in _ask(_GETGEN, _REQUEST):
            if kind == _NEWGEN:
                return int(struct.unpack(">I", dict(_attributes(body))[_GEN_ID])[0])
    except (OSError, KeyError, struct.error):
        pass
    return None


def chains(wanted: Callable[[str], bool]) -> Chains:
    """Return the chains of all tables, by the names that are `wanted`: there may be thousands of others.

    Raises OSError where nftables cannot be asked.
    """
    names = {number: name for name, number in FAMILIES.items()}
    found: Chains = {}
    for kind, family, body in _ask(_GETCHAIN, _REQUEST | _DUMP):
        if kind != _NEWCHAIN or family not in names:
            continue
        values = dict(_attributes(body))
        name = _text(values[_CHAIN_NAME])
        if wanted(name):
            table = found.setdefault((names[family], _text(values[_CHAIN_TABLE])), {})
            # What the kernel counts are users: of a base chain its rules, of others the jumps to it as well.
            users = struct.unpack(">I", values[_CHAIN_USE])[0]
            table[name] = users if _CHAIN_HOOK in values else None
    return found


def rules(family: str, table: str, chain: str) -> int:
    """Return the number of rules of one chain, 0 where there is none. Raises OSError."""
    which = _attribute(_RULE_TABLE, table) + _attribute(_RULE_CHAIN, chain)
    answer = _ask(_GETRULE, _REQUEST | _DUMP, FAMILIES[family], which)
    return sum(kind == _NEWRULE for kind, _family, _body in answer)


def _ask(
    message: int, flags: int, family: int = 0, attributes: bytes = b""
) -> Iterator[Tuple[int, int, bytes]]:
    """Yield kind, family and body of each message of the answer. Raises OSError."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    ) as kernel:
        kernel.settimeout(_PATIENCE)
        kernel.bind((0, 0))
        # struct nlmsghdr, then struct nfgenmsg: family (0: all), version 0.
        length, kind = 20 + len(attributes), _NF_TABLES << 8 | message
        kernel.send(struct.pack("=IHHIIBBH", length, kind, flags, 1, 0, family, 0, 0) + attributes)
        while True:
            data = kernel.recv(1 << 18)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _flags, _sequence, _port = struct.unpack_from("=IHHII", data, offset)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", data, offset + 16)[0]
                    if number:
                        raise OSError(number, "nftables cannot be asked")
                    return
                body = data[offset + 16 : offset + length]
                yield kind & 0xFF, body[0], body[4:]
                offset += (length + 3) & ~3
            if not flags & _DUMP:
                return


def _attributes(body: bytes) -> Iterator[Tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
