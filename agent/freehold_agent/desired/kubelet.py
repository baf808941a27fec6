"""The kubelet: its configuration, what is reserved beside pods, and its unit."""

import json
from typing import Any, Dict, List, Mapping

from freehold_agent.contract import paths, selinux
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import digests_of
from freehold_agent.contract.resources import Directory, File, Resource
from freehold_agent.contract.unit_file import flags, service
from freehold_agent.desired import api_connection, containerd, proxy
from freehold_agent.desired.credential import node_kubeconfig

UNIT = "kubelet"
CONFIG = paths.ETC + "/kubelet.json"
MEBIBYTE = 1 << 20

SYSTEM_RESERVED = {"cpu": 100, "memory": 200}
"""Millicores and MiB for the distribution's own services."""
KUBE_RESERVED = {"cpu": 100, "memory": 250}
"""kubelet, containerd, shims, flannel, kube-proxy and the agent (measured: 210 MiB idle)."""
CONTROL_RESERVED = {"cpu": 300, "memory": 900}
"""What a control plane on the same machine adds (measured: 700 MiB idle)."""
RESERVED_SHARE = 0.4
"""Of memory and of processors at most: a small machine still runs pods."""
DISK_RESERVED = 1024
"""MiB, at most a twentieth of the disk."""


def kubelet_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return configuration and unit of the kubelet."""
    config = (json.dumps(kubelet_config(document, facts), indent=1) + "\n").encode()
    command = [
        paths.BIN + "/kubelet",
        *flags(
            {
                "config": CONFIG,
                "kubeconfig": paths.KUBELET_KUBECONFIG,
                "bootstrap-kubeconfig": paths.BOOTSTRAP_KUBECONFIG,
                "hostname-override": document.node,
                "node-ip": document.addresses[0],
            }
        ),
    ]
    settings: Dict[str, Any] = {
        "Environment": ["PATH=" + containerd.PATH, *api_connection.environment()],
        "CPUAccounting": "yes",
        "MemoryAccounting": "yes",
        "LimitNOFILE": str(containerd.nofile(facts)),
        **proxy.settings(facts),
        **_labels(document, facts),
    }
    if facts.get("cap_sys_resource"):
        settings["OOMScoreAdjust"] = "-999"
    runtime = containerd.UNIT + ".service"
    return [
        Directory(paths.KUBELET_STATE, mode=0o700),
        File(CONFIG, config),
        *service(
            UNIT,
            description="kubelet, the Kubernetes node agent (freehold)",
            command=command,
            reads=[CONFIG, *proxy.reads(facts)],
            inputs=[
                config,
                node_kubeconfig(document),
                document.ca_pem,
                digests_of(document.manifest, "bin/kubelet"),
            ],
            slice_name=paths.NODE_SLICE,
            unit={
                "After": runtime + " " + containerd.IMAGES_UNIT + ".service network-online.target",
                "Wants": runtime,
            },
            service=settings,
        ),
    ]


def kubelet_config(document: JoinDocument, facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the KubeletConfiguration; the inventory's own fields are merged last."""
    system, kube = reserved(document, facts)
    config: Dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": paths.CLUSTER_CA},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd" if facts.get("cgroup_version") == 2 else "cgroupfs",
        "clusterDNS": list(document.network.dns_addresses),
        "clusterDomain": document.network.domain,
        "containerRuntimeEndpoint": "unix://" + paths.CONTAINERD_SOCKET,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "10%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "15%",
            "imagefs.inodesFree": "5%",
        },
        "kubeReserved": kube,
        # Otherwise the kubelet makes KUBE-* chains wherever it finds an iptables binary.
        "makeIPTablesUtilChains": False,
        "resolvConf": facts.get("resolv_conf", "/etc/resolv.conf"),
        "rotateCertificates": True,
        "seccompDefault": True,
        "serverTLSBootstrap": True,
        "systemReserved": system,
        "tlsMinVersion": "VersionTLS12",
        # The default lies under /usr, where nothing of ours belongs.
        "volumePluginDir": paths.KUBELET_STATE + "/volume-plugins",
    }
    if ":" in document.addresses[0]:
        config["address"] = "::"
        config["healthzBindAddress"] = "::1"
    if facts.get("cgroup_version") == 1:
        config["failCgroupV1"] = False
    if facts.get("swap"):
        config["failSwapOn"] = False
    if not facts.get("cap_sys_resource"):
        config["oomScoreAdj"] = 0
    return merged(config, document.kubelet)


def _labels(document: JoinDocument, facts: Mapping[str, Any]) -> Dict[str, List[str]]:
    """Label what containerd runs for a pod, too: it starts before these have arrived, the kubelet after them."""
    plugins = [entry.name for entry in document.manifest.for_roles("node") if entry.name.startswith("cni/")]
    programs = {
        selinux.PROGRAM: ["bin/kubelet", *plugins],
        selinux.RUNTIME: ["bin/containerd-shim-runc-v2", "bin/runc"],
    }
    return selinux.settings(facts, programs, [paths.KUBELET_STATE])


def reserved(document: JoinDocument, facts: Mapping[str, Any]) -> "tuple[Dict[str, str], Dict[str, str]]":
    """Return systemReserved and kubeReserved: what pods can never take from the machine's own work."""
    parts = [dict(SYSTEM_RESERVED), dict(KUBE_RESERVED)]
    if document.control_plane:
        parts[1] = {name: value + CONTROL_RESERVED[name] for name, value in parts[1].items()}
    limits = {
        "cpu": RESERVED_SHARE * 1000 * facts.get("cpus", 2),
        "memory": RESERVED_SHARE * facts.get("memory", 4096 * MEBIBYTE) / MEBIBYTE,
    }
    for name, limit in limits.items():
        total = sum(part[name] for part in parts)
        for part in parts:
            part[name] = int(part[name] * min(1.0, limit / total))
    disk = facts.get("disk", {}).get(paths.KUBELET_STATE, {}).get("total", DISK_RESERVED * MEBIBYTE * 20)
    system, kube = ({"cpu": f"{part['cpu']}m", "memory": f"{part['memory']}Mi"} for part in parts)
    system["ephemeral-storage"] = "{}Mi".format(min(DISK_RESERVED, disk // MEBIBYTE // 20))
    return system, kube


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> Dict[str, Any]:
    """Return `base` with the fields of `extra` put over it; objects are merged, all else is replaced."""
    result = dict(base)
    for name, value in extra.items():
        present = result.get(name)
        both = isinstance(present, Mapping) and isinstance(value, Mapping)
        result[name] = merged(present, value) if both and present is not None else value
    return result
