"""What is true of this machine: one pass over /proc, /sys and a few short programs, no shell, under 0.3 s.

Facts are plain JSON values. They decide machine quirks (`freehold_agent.desired`) and preflight checks;
nothing here judges them, and nothing is written. What only root may read is left empty for others.
"""

import glob
import json
import os
import re
import resource
import socket
import sys
import time
from typing import Any, Dict, List, Optional

from freehold_agent.contract import paths
from freehold_agent.contract.firewall import parse_zones
from freehold_agent.foreign import find_foreign
from freehold_agent.machine.files import read_json
from freehold_agent.machine.programs import ProgramFailed, run
from freehold_agent.sockets import listening_sockets

SEARCH_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")
TOOLS = (
    "conntrack",
    "ethtool",
    "ip",
    "journalctl",
    "modprobe",
    "mount",
    "socat",
    "systemctl",
    "tar",
    "umount",
)
"""Reported by path; `nft` and `iptables` by version."""
MODULES = ("br_netfilter", "overlay", "nf_conntrack")
KUBELET_SYSCTLS = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.keys.root_maxbytes": "25000000",
}
"""What the kubelet sets by itself at its start; desired beforehand, so that removal can put it back."""
LIMITS = {"fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 524288}
"""Least values: with a distribution's 128 instances containerd soon starts without its CRI service."""
DISKS = ("/", "/opt", "/var/lib", paths.ETCD_STATE, paths.CONTAINERD_STATE, paths.KUBELET_STATE)
LINKED = (
    paths.OPT,
    paths.ETC,
    paths.STATE,
    paths.KUBERNETES,
    paths.ETCD_STATE,
    paths.CONTAINERD_STATE,
    paths.KUBELET_STATE,
)
"""Directories of ours in whose place an operator may have put a symbolic link."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
CAP_SYS_RESOURCE = 24


def gather() -> Dict[str, Any]:
    """Return the facts as JSON values: sizes in bytes, times in seconds since the epoch."""
    routes = _routes()
    machine = os.uname()
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "python_executable": sys.executable or "/usr/bin/python3",
        "os_release": _os_release(),
        "kernel": machine.release,
        "architecture": ARCHITECTURES.get(machine.machine, machine.machine),
        "cgroup_version": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        "cap_sys_resource": _has_capability(CAP_SYS_RESOURCE),
        "nofile": _nofile_limit(),
        "swap": len(_read("/proc/swaps").splitlines()) > 1,
        "conntrack_writable": _writable("net.netfilter.nf_conntrack_max", missing=True),
        "sysctls_writable": sorted(name for name in (*KUBELET_SYSCTLS, *LIMITS) if _writable(name)),
        "limits": {name: _number(name) for name in LIMITS},
        "modules": {name: _module_state(name) for name in MODULES},
        "default_route": any(route["destination"] == "0.0.0.0/0" for route in routes),
        "default_route_v6": any(route["destination"] == "::/0" for route in routes),
        "interfaces": _interfaces(),
        "routes": routes,
        "listening": listening_sockets(),
        "disk": {path: _disk(path) for path in DISKS},
        "linked": linked(),
        "tools": _tools(),
        "foreign": find_foreign(),
        "hostname": socket.gethostname(),
        "machine_id": _read("/etc/machine-id").strip(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id").strip(),
        "memory": _memory(),
        "cpus": os.cpu_count() or 1,
        "resolv_conf": resolv_conf(),
        "nameservers": nameservers(resolv_conf()),
        "time": time.time(),
        "selinux": _selinux(),
        "container_selinux": knows_containers(),
        "firewalld": _firewalld(),
        "release": os.path.basename(_link(paths.CURRENT)),
        "proxy": _proxy(),
    }


def resolv_conf(root: str = "") -> str:
    """Return the file that names real resolvers, for the kubelet.

    systemd-resolved's stub (127.0.0.53) is unreachable from a pod; its upstream list lies beside it. `root`
    is put before every path, for tests.
    """
    upstream = "/run/systemd/resolve/resolv.conf"
    servers = nameservers(root + "/etc/resolv.conf")
    if servers and all(server == "127.0.0.53" for server in servers) and os.path.exists(root + upstream):
        return upstream
    return "/etc/resolv.conf"


def nameservers(path: str) -> List[str]:
    """Return the resolvers that a resolv.conf names."""
    return re.findall(r"^\s*nameserver\s+(\S+)", _read(path), re.MULTILINE)


def parse_os_release(text: str) -> Dict[str, str]:
    """Return the fields of os-release that matter: `id`, `id_like`, `version_id`, `pretty_name`."""
    pairs = (line.partition("=") for line in text.splitlines())
    found = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {name: found.get(name.upper(), "") for name in ("id", "id_like", "version_id", "pretty_name")}


def parse_addresses(text: str) -> List[Dict[str, Any]]:
    """Return the interfaces in the output of `ip -json address`; link-local addresses are left out."""
    return [
        {
            "name": link["ifname"],
            "mtu": link.get("mtu", 1500),
            "addresses": [
                "{}/{}".format(address["local"], address["prefixlen"])
                for address in link.get("addr_info", ())
                if "local" in address and address.get("scope") != "link"
            ],
        }
        for link in json.loads(text or "[]")
        if link.get("ifname")
    ]


def parse_routes(text: str, default: str) -> List[Dict[str, Any]]:
    """Return the routes in the output of `ip -N -json route`; `default` names the CIDR of a default route."""
    found = []
    for route in json.loads(text or "[]"):
        destination = route.get("dst", "")
        if destination == "default":
            destination = default
        elif destination and "/" not in destination:
            destination += "/128" if ":" in destination else "/32"
        if route.get("type", "unicast") not in ("unicast", "1") or not route.get("dev"):
            continue
        protocol = str(route.get("protocol", "0"))
        found.append(
            {
                "destination": destination,
                "device": route["dev"],
                "protocol": int(protocol) if protocol.isdigit() else 0,
                "via": route.get("gateway"),
            }
        )
    return found


def _interfaces() -> List[Dict[str, Any]]:
    return parse_addresses(_output(["ip", "-json", "address"]))


def _routes() -> List[Dict[str, Any]]:
    routes = parse_routes(_output(["ip", "-N", "-json", "-4", "route"]), "0.0.0.0/0")
    if os.path.exists("/proc/net/ipv6_route"):
        routes += parse_routes(_output(["ip", "-N", "-json", "-6", "route"]), "::/0")
    return routes


def _tools() -> Dict[str, Optional[str]]:
    found: Dict[str, Optional[str]] = {name: which(name) for name in TOOLS}
    for name in ("nft", "iptables"):
        found[name] = parse_version(_output([name, "--version"]))
    return found


def parse_version(text: str) -> Optional[str]:
    """Return the version in what `nft --version` or `iptables --version` says; None when there is none."""
    version = re.search(r"v?(\d+\.\d+(?:\.\d+)*)", text)
    return version.group(1) if version else None


def which(name: str) -> Optional[str]:
    """Return the path of a program, also in the sbin directories that an SSH session's PATH may lack."""
    for directory in SEARCH_PATH:
        path = directory + "/" + name
        if os.access(path, os.X_OK):
            return path
    return None


def _output(command: List[str]) -> str:
    program = which(command[0])
    if program is None:
        return ""
    try:
        return run([program, *command[1:]], timeout=5)
    except ProgramFailed:
        return ""


def _os_release() -> Dict[str, str]:
    return parse_os_release(_read("/etc/os-release") or _read("/usr/lib/os-release"))


def _has_capability(number: int) -> bool:
    """Say what services will have: PID 1's own set within its bounding set, not that of this SSH session.

    The bounding set decides what a program keeps over execve; it may be smaller than PID 1's own.
    """
    sets = re.findall(r"^Cap(?:Eff|Bnd):\s*([0-9a-f]+)", _read("/proc/1/status"), re.MULTILINE)
    return len(sets) == 2 and all(int(text, 16) >> number & 1 for text in sets)


def _nofile_limit() -> int:
    """Return the hard limit on open files that services inherit."""
    match = re.search(r"^Max open files\s+\S+\s+(\d+)", _read("/proc/1/limits"), re.MULTILINE)
    return int(match.group(1)) if match else resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _writable(sysctl: str, missing: bool = False) -> bool:
    path = "/proc/sys/" + sysctl.replace(".", "/")
    return os.access(path, os.W_OK) if os.path.exists(path) else missing


def _number(sysctl: str) -> int:
    text = _read("/proc/sys/" + sysctl.replace(".", "/")).strip()
    return int(text) if text.isdigit() else 0


def _module_state(name: str) -> str:
    """Return `loaded`, `loadable`, `builtin` or `absent`."""
    if os.path.isdir("/sys/module/" + name):
        return "loaded"
    directory = "/lib/modules/" + os.uname().release
    if "/" + name + ".ko" in _read(directory + "/modules.dep"):
        return "loadable"
    signs = {"br_netfilter": "/proc/sys/net/bridge", "nf_conntrack": "/proc/sys/net/netfilter"}
    builtin = "/" + name + ".ko" in _read(directory + "/modules.builtin")
    if builtin or os.path.isdir(signs.get(name, "/nonexistent")):
        return "builtin"
    return "builtin" if "\t" + name + "\n" in _read("/proc/filesystems") else "absent"


def _disk(path: str) -> Dict[str, int]:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return {"free": status.f_bavail * status.f_frsize, "total": status.f_blocks * status.f_frsize}


def linked(root: str = "") -> Dict[str, str]:
    """Return where links in the place of our directories lead: path -> target."""
    return {path: os.path.realpath(root + path) for path in LINKED if os.path.islink(root + path)}


def _memory() -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def _proxy() -> Dict[str, str]:
    """Return `http`, `https` and `no` as they were in the environment of the join; empty without a proxy."""
    try:
        found = read_json(paths.PROXY)
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _selinux() -> str:
    enforce = _read("/sys/fs/selinux/enforce").strip()
    return {"1": "enforcing", "0": "permissive"}.get(enforce, "disabled")


def _firewalld() -> Dict[str, Any]:
    """Return firewalld's zones, empty where it does not run; not looked at any more once a release is here.

    Half a second of a processor each time is too much for an agent that looks every minute.
    """
    if os.path.islink(paths.CURRENT):
        return {}
    return parse_zones(_output(["firewall-cmd", "--list-all-zones"]))


def knows_containers(root: str = "") -> bool:
    """Say whether SELinux's policy knows containers: the distribution's package container-selinux is there."""
    modules = root + "/var/lib/selinux/*/active/modules/*/container"
    return os.path.exists(root + "/usr/share/selinux/packages/container.pp.bz2") or bool(glob.glob(modules))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
