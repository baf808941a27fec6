"""Which ports are taken on this machine, and by which process: read from /proc/net and /proc/PID/fd."""

import os
import socket
import struct
from typing import Any, Dict, List, Tuple

_TABLES = (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07"))
"""Table and the state that means 'waits for others': LISTEN, and unconnected for UDP."""


def listening_sockets() -> List[Dict[str, Any]]:
    """Return `{port, protocol, address, process}` of every listening socket; process is '' where unknown."""
    found: Dict[Tuple[int, str, str], str] = {}
    for table, state in _TABLES:
        try:
            with open("/proc/net/" + table, encoding="ascii", errors="replace") as stream:
                lines = stream.readlines()[1:]
        except OSError:
            continue
        for address, port, inode in parse_table(lines, state):
            found[(port, table[:3], address)] = inode
    owners = _owners(set(found.values())) if found else {}
    return [
        {"port": port, "protocol": protocol, "address": address, "process": owners.get(inode, "")}
        for (port, protocol, address), inode in sorted(found.items())
    ]


def parse_table(lines: List[str], state: str) -> List[Tuple[str, int, str]]:
    """Return address, port and inode of the rows of /proc/net/{tcp,udp}[6] that are in `state`."""
    rows = []
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:
            address, _, port = fields[1].partition(":")
            rows.append((_address(address), int(port, 16), fields[9]))
    return rows


def _address(text: str) -> str:
    """Turn the kernel's native-endian words into an address as people write it."""
    data = b"".join(struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def _owners(inodes: "set[str]") -> Dict[str, str]:
    """Return the program's name by socket inode; other users' processes stay unknown without root."""
    owners: Dict[str, str] = {}
    wanted = {"socket:[" + inode + "]": inode for inode in inodes}
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        directory = "/proc/" + process + "/fd"
        try:
            descriptors = os.listdir(directory)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inode = wanted.get(os.readlink(directory + "/" + descriptor))
            except OSError:
                continue
            if inode is not None:
                owners.setdefault(inode, _name(process))
        if len(owners) == len(inodes):
            break
    return owners


def _name(process: str) -> str:
    try:
        with open("/proc/" + process + "/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
