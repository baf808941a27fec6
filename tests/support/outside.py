"""What a machine is, taken from outside through the container engine: nothing it is made of passes through freehold.

`Snapshot.take(lab, "w1")` reads everything that a run could leave on a machine: each file with mode, owner, size, times
and inode, processes, packet filter, routes, rules, links, users, units, mounts, sysctls of its own namespaces.
`differences(before, after)` names whatever is not the same. It knows nothing of what freehold makes.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.support.lab import Lab

ALIVE = (
    "/proc",
    "/sys",
    # journald's own, whoever logs something
    "/var/log/journal",
    "/run/log/journal",
    "/run/systemd/journal",
    # who logged in and when: written by sshd, PAM and sudo for every SSH session, ours or not
    "/var/log/wtmp",
    "/var/log/lastlog",
    "/var/log/btmp",
    "/run/utmp",
    "/run/sudo",
    "/run/motd.dynamic",
    # terminals
    "/dev/pts",
)
"""The only paths that are not looked at: they change by themselves on a machine that is only logged in to."""
TIMELESS = ("/run",)
"""Directories whose times change by themselves, because one of the files above is replaced in them."""


@dataclass(frozen=True)
class Snapshot:
    """One machine at one moment; each section maps a name to what is true of it."""

    machine: str
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Path -> type, mode, owner (numeric `uid:gid`), size, mtime, ctime (ns), inode, target of a link.

    A directory's size is left out: it says nothing that its entries do not."""
    processes: Mapping[str, str] = field(repr=False)
    """`PID@start` -> command line; without the one that looks."""
    other: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Section (`units`, `nft`, `routes`, ...) -> name -> value."""

    @classmethod
    def take(cls, lab: Lab, machine: str) -> "Snapshot":
        """Look at a machine now. Raises AssertionError when it cannot be looked at."""
        done = lab.exec(
            machine,
            "python3",
            "-I",
            "-B",
            "-",
            input=f"ALIVE, TIMELESS = {ALIVE!r}, {TIMELESS!r}\n{LOOK}",
        )
        data = json.loads(gzip.decompress(base64.b64decode(done.stdout)))
        return cls(machine, data.pop("files"), data.pop("processes"), data)

    @classmethod
    def of_all(cls, lab: Lab, machines: Iterable[str] = ()) -> "dict[str, Snapshot]":
        """Look at all machines (or these), at once."""
        names = list(machines or lab.machines)
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(lambda name: cls.take(lab, name), names), strict=True))

    def below(self, *places: str) -> "dict[str, Mapping[str, Any]]":
        """Return the files at or below these paths."""
        return {path: seen for path, seen in self.files.items() if _is_below(path, places)}


def differences(
    before: Snapshot,
    after: Snapshot,
    *,
    ignore: Iterable[str] = (),
    sections: Iterable[str] | None = None,
) -> list[str]:
    """Return one line for each thing that is not the same; empty when the machine is as it was.

    `ignore`: paths that do not count, with all below them. `sections`: only these (`files`, `processes`, `units`, ...).
    """
    ignored = tuple(ignore)
    both: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "files": (before.files, after.files),
        "processes": (before.processes, after.processes),
        **{name: (before.other[name], after.other[name]) for name in before.other},
    }
    found = []
    for section, (old, new) in both.items():
        if sections is not None and section not in sections:
            continue
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name) or (section == "files" and _is_below(name, ignored)):
                continue
            found.append(f"{before.machine}: {section}: {name}: {_change(old.get(name), new.get(name))}")
    return found


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def _change(old: Any, new: Any) -> str:
    if old is None:
        return f"new: {new}"
    if new is None:
        return f"gone (was {old})"
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in names)
    return f"{old} -> {new}"


LOOK = r"""
import base64, gzip, json, os, stat, subprocess

def said(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout

def read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read().decode(errors="replace")
    except OSError:
        return None

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFSOCK: "socket",
         stat.S_IFIFO: "fifo", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}

def one(path):
    state = os.lstat(path)
    kind = KINDS.get(stat.S_IFMT(state.st_mode), "?")
    seen = {"type": kind, "mode": "%04o" % stat.S_IMODE(state.st_mode), "owner": "%d:%d" % (state.st_uid, state.st_gid),
            "mtime": state.st_mtime_ns, "ctime": state.st_ctime_ns, "inode": state.st_ino}
    if path in TIMELESS:
        del seen["mtime"], seen["ctime"]
    if kind != "directory":
        seen["size"] = state.st_size
    if kind == "link":
        seen["target"] = os.readlink(path)
    return seen

def files():
    found, waiting = {}, ["/"]
    while waiting:
        directory = waiting.pop()
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for name in entries:
            path = os.path.join(directory, name)
            if path in ALIVE:
                continue
            try:
                found[path] = one(path)
            except OSError:
                continue
            if found[path]["type"] == "directory":
                waiting.append(path)
    return found

def processes():
    mine, pid = set(), os.getpid()
    while pid > 1:
        mine.add(pid)
        pid = int(read("/proc/%d/stat" % pid).rpartition(")")[2].split()[1])
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in mine:
            command, status = read("/proc/%s/cmdline" % name), read("/proc/%s/stat" % name)
            # A zombie has ended; that its parent has not taken notice yet says nothing.
            if command is not None and status is not None and status.rpartition(")")[2].split()[0] != "Z":
                text = command.replace("\0", " ").strip() or status.split("(", 1)[1].rpartition(")")[0]
                found["%s@%s" % (name, status.rpartition(")")[2].split()[19])] = text
    return found

def lines(*command):
    return {line: "present" for line in said(*command).splitlines() if line.strip()}

def links():
    return {link["ifname"]: {name: link.get(name) for name in ("mtu", "address", "master", "operstate", "flags")}
            for link in json.loads(said("ip", "-json", "link") or "[]")}

def addresses():
    return {"%s %s/%s" % (link["ifname"], a["local"], a["prefixlen"]): a["scope"]
            for link in json.loads(said("ip", "-json", "address") or "[]") for a in link["addr_info"]}

def units():
    found = {}
    for line in said("systemctl", "list-unit-files", "--plain", "--no-legend").splitlines():
        fields = line.split()
        found["file " + fields[0]] = fields[1]
    for line in said("systemctl", "list-units", "--all", "--plain", "--no-legend").splitlines():
        fields = line.split()
        # Sessions of logins come and go; so do the units of mounts inside other machines' namespaces.
        if not fields[0].startswith(("session-", "user@", "user-")):
            found["unit " + fields[0]] = " ".join(fields[1:4])
    return found

def mounts():
    found = {}
    for line in (read("/proc/self/mountinfo") or "").splitlines():
        fields = line.split()
        found[fields[4]] = line.partition(" - ")[2].split()[0]
    return found

VOLATILE = ("nf_conntrack_count", "stable_secret", "random", "flush", "next_id", "ns_last_pid")

def sysctls():
    found = {}
    for root in ("/proc/sys/net", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/fs/mqueue"):
        for directory, _, names in (os.walk(root) if os.path.isdir(root) else [("", [], [root])]):
            for name in names:
                if not name.endswith(VOLATILE):
                    value = read(os.path.join(directory, name))
                    if value is not None:
                        found[os.path.join(directory, name)[10:].replace("/", ".")] = value.strip()
    return found

def cgroups():
    found = {}
    for root in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"):
        for directory, _, _ in os.walk(root):
            if not os.path.basename(directory).startswith(("session-", "user@", "user-")):
                found[directory] = "present"
    return found

looked = {
    "files": files(), "processes": processes(), "units": units(), "nft": lines("nft", "list", "ruleset"),
    "iptables": {**lines("iptables-legacy-save"), **lines("ip6tables-legacy-save")}, "links": links(),
    "addresses": addresses(), "routes": {**lines("ip", "-4", "route", "show", "table", "all"),
    **lines("ip", "-6", "route", "show", "table", "all")},
    "rules": {**lines("ip", "-4", "rule"), **lines("ip", "-6", "rule")},
    "mounts": mounts(), "namespaces": lines("ip", "netns", "list"), "sysctls": sysctls(), "cgroups": cgroups(),
    "accounts": {**lines("cat", "/etc/passwd"), **lines("cat", "/etc/group")},
}
print(base64.b64encode(gzip.compress(json.dumps(looked).encode(), 1)).decode())
"""
