"""Signs of a Kubernetes (or a container runtime in its places) that freehold did not make.

Read only, and only names: two clusters on one machine break each other, so the installer refuses such a
machine and shows this list.
"""

import os
from typing import List

from freehold_agent.contract import paths

UNITS = (
    "containerd",
    "crio",
    "docker",
    "etcd",
    "k0scontroller",
    "k0sworker",
    "k3s",
    "k3s-agent",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "flannel",
    "flanneld",
    "rke2-agent",
    "rke2-server",
    "snap.microk8s.daemon-kubelite",
    "vcluster",
)
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/system",
)
PROGRAMS = frozenset(
    (
        "containerd",
        "crio",
        "dockerd",
        "etcd",
        "flanneld",
        "k0s",
        "k3s",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-controller",  # the kernel keeps 15 characters of a name
        "kube-proxy",
        "kube-scheduler",
        "kubelet",
        "kubelite",
        "rke2",
        "vcluster",
    )
)
FILES = (
    "/etc/kubernetes/admin.conf",
    paths.KUBELET_KUBECONFIG,
    "/etc/kubernetes/manifests",
    "/etc/rancher",
    "/var/lib/rancher",
    "/var/lib/k0s",
    "/etc/k0s",
    "/etc/vcluster",
    "/var/lib/vcluster",
    paths.ETCD_STATE + "/member",
)
MARK = "Written by freehold"


def find_foreign(root: str = "") -> List[str]:
    """Return `unit NAME (path)`, `process NAME (PID)` and `file PATH` lines; `root` is for tests."""
    found = _units(root) + _processes(root)
    if not _ours(root):
        found += ["file " + path for path in FILES if _holds_something(root + path)]
    return found


def _units(root: str) -> List[str]:
    found = []
    for name in UNITS:
        for directory in UNIT_DIRECTORIES:
            path = directory + "/" + name + ".service"
            if os.path.islink(root + "/lib") and directory.startswith("/lib/"):
                continue
            if os.path.isfile(root + path) and not _is_marked(root + path):
                found.append("unit {}.service ({})".format(name, path))
            if os.path.isfile(root + path):
                break
    return found


def _processes(root: str) -> List[str]:
    found = []
    for process in os.listdir(root + "/proc") if os.path.isdir(root + "/proc") else ():
        if not process.isdigit():
            continue
        directory = root + "/proc/" + process
        try:
            with open(directory + "/comm", encoding="utf-8", errors="replace") as stream:
                name = stream.read().strip()
            if name not in PROGRAMS:
                continue
            program = os.readlink(directory + "/exe")
        except OSError:
            continue
        if not program.startswith(paths.OPT + "/") and not _in_container(directory):
            found.append("process {} ({})".format(name, process))
    return sorted(found)


def _in_container(directory: str) -> bool:
    """Say whether the process has a PID namespace of its own: a pod's etcd is no second cluster."""
    try:
        with open(directory + "/status", encoding="utf-8", errors="replace") as stream:
            pids = [line.split()[1:] for line in stream if line.startswith("NSpid:")]
    except OSError:
        return False
    return bool(pids) and len(pids[0]) > 1


def _ours(root: str) -> bool:
    """Say whether freehold keeps a record here: the well-known places are then its own."""
    records = root + paths.RECORDS
    return os.path.isdir(records) and bool(os.listdir(records))


def _is_marked(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return MARK in stream.read(400)
    except OSError:
        return False


def _holds_something(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except NotADirectoryError:
        return True
    except OSError:
        return False
