"""What a machine holds, seen from outside, without what changes on any machine that merely runs or was rebooted.

Compared before the first apply and after a reset: nothing may be left and nothing be gone. Built on `outside`, which
is exact to the nanosecond; here times, inodes, process numbers and what a boot gives anew do not count.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.support.lab import Lab
from tests.support.outside import Snapshot

Inventory = dict[str, dict[str, Any]]
"""Section (`files`, `routes`, `sysctls`, ...) -> name -> value; JSON."""

SYSTEMS_OWN = re.compile(
    r"^(/dev|/run/systemd|/run/log|/run/user|/run/lock|/run/sshd|/run/dbus"
    r"|/var/log/journal|/var/lib/systemd|/var/lib/private|/var/cache/private|/var/log/private"
    r"|/(var/)?tmp/systemd-private-[^/]*|/run/sshd\.pid|/tmp/\.[A-Z0-9-]+-unix"
    # copies of account files that useradd keeps
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-)(/|$)"
)
"""Files of systemd, journald, sshd and useradd."""
TRANSIENT = re.compile(
    r"^((file|unit) )?(session-|user@|user-|run-|systemd-(tmpfiles|hostnamed|logind|timedated|localed)|modprobe@"
    # active once anything has asked to wait for the network
    r"|network-online\.target|time-sync|[^ ]*\.(device|mount|scope|swap)$)"
)
"""Units that come and go by themselves."""
SESSION = re.compile(
    r"^(sshd: |\(sd-pam\)|\S*systemd --user|\S*/systemd-[a-z]+$|\(|sudo |bash -|sh -|python3 -)"
)
"""Processes of logins, and systemd's own."""
COUNTERS = re.compile(
    r"nf_conntrack_(count|buckets)|\.(flush|stable_secret|next_id)$|tcp_fastopen_key|nf_log|\.veth"
)
LINK_LOCAL = re.compile(r"\bfe80::|\bff00::|\banycast ")

MORE = r"""
import glob, hashlib, json, os, re, subprocess

def lines(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {re.sub(r"\[\d+:\d+\]", "", line): True for line in done.stdout.splitlines() if line[:1] not in ("", "#")}

def unless_gone(look, path):
    # A process that ends just now, or a file that is removed. Of a process the kernel says so in more than one way.
    try:
        return look(path)
    except OSError:
        return None

def digest(path):
    if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 1 << 20:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()

digests = {}
for root in ("/etc", "/root", "/home", "/opt", "/srv", "/var/lib/dpkg"):
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found = unless_gone(digest, path)
            if found is not None:
                digests[path] = found
listening = {}
for line in subprocess.run(["ss", "-Hlntuwx"], stdout=subprocess.PIPE, text=True).stdout.splitlines():
    words = line.split()
    listening[words[0] + " " + words[4]] = True
spaces = {unless_gone(os.readlink, path) for path in glob.glob("/proc/[0-9]*/ns/net")} - {None}
print(json.dumps({
    "contents": digests, "listening": listening,
    "iptables of IPv6": lines("ip6tables-legacy-save"), "network namespaces": {"in use": len(spaces)},
    "failed units": lines("systemctl", "list-units", "--failed", "--plain", "--no-legend"),
}))
"""


def inventory_of(lab: Lab, machine: str) -> Inventory:
    """Look at a machine now. Raises AssertionError when it cannot be looked at."""
    seen = Snapshot.take(lab, machine)
    more: Inventory = json.loads(lab.exec(machine, "python3", "-I", "-B", "-", input=MORE).stdout)
    found: Inventory = {section: dict(values) for section, values in seen.other.items()}
    found |= more
    found["files"] = {
        path: {
            name: value for name, value in file.items() if name in ("type", "mode", "owner", "target", "size")
        }
        for path, file in seen.files.items()
    }
    found["processes"] = dict.fromkeys(seen.processes.values(), "running")
    found["links"] = {
        name: {key: value for key, value in link.items() if key in ("mtu", "master", "flags")}
        for name, link in seen.other["links"].items()
    }
    return {section: dict(_lasting(section, values)) for section, values in found.items()}


def differences(before: Inventory, after: Inventory, *, expected: Iterable[str] = ()) -> list[str]:
    """Return one line for each thing that is left, gone or changed; `expected` are paths that may differ."""
    ignored = tuple(expected)
    return [
        line
        for section in before
        for name in sorted({*before[section], *after[section]})
        if not (section in ("files", "contents") and name.startswith(ignored))
        for line in _difference(section, name, before[section].get(name), after[section].get(name))
    ]


def _difference(section: str, name: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    what = "left" if before is None else "gone" if after is None else "changed"
    yield f"{section}: {what}: {name}: {before} -> {after}"


def _lasting(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = name.partition("/sys/fs/cgroup/")[2]
        if section in ("files", "contents", "mounts") and SYSTEMS_OWN.match(name):
            continue
        if section == "units" and TRANSIENT.match(name):
            continue
        if section == "cgroups" and re.search(
            r"\.(service|scope|mount|socket|swap|device)(/|$)|/user\.slice", path
        ):
            continue
        if section == "processes" and SESSION.match(name):
            continue
        if section == "sysctls" and COUNTERS.search(name):
            continue
        if section in ("addresses", "routes") and LINK_LOCAL.search(name):
            continue
        if section == "listening" and re.match(r"u_\w+ (@|\*|/run/(systemd|user))", name):
            continue
        yield name, value
