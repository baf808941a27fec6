"""The pod network: a CNI configuration written from the document, and flannel between the machines.

The CNI configuration does not wait for flannel: the node's pod CIDR is known from admission, so the kubelet
finds a network at its first look.
"""

import json
from typing import Any, Dict, List, Mapping

from freehold_agent.contract import paths, selinux
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import digests_of
from freehold_agent.contract.resources import Directory, File, Resource
from freehold_agent.contract.unit_file import flags, service
from freehold_agent.desired import api_connection
from freehold_agent.desired.credential import node_credential, node_kubeconfig
from freehold_agent.desired.machine import interface_of
from freehold_agent.desired.packet_filter import packet_filter

UNIT = "flannel"
NET_CONF = "/etc/kube-flannel/net-conf.json"
CNI_NETWORK = "freehold"
BRIDGE = "cni0"
DEFAULT_MTU = 1500


def network_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return CNI configuration and flannel's files and Unit; without flannel only the directory."""
    directories: List[Resource] = [
        Directory("/etc/cni", keep=True),
        # containerd watches the directory: it must exist, and must never go while containerd runs.
        Directory(paths.CNI_CONFIG, keep=True),
    ]
    if not document.network.flannel:
        return directories
    net_conf = flannel_config(document, facts)
    return [
        *directories,
        Directory("/etc/kube-flannel"),
        File(paths.CNI_CONFLIST, cni_config(document, facts)),
        File(NET_CONF, net_conf),
        *_flannel(document, facts, net_conf),
    ]


def cni_config(document: JoinDocument, facts: Mapping[str, Any]) -> bytes:
    """Return the conflist: a bridge with this node's pod CIDRs, and hostPorts."""
    cidrs = document.network.node_pod_cidrs
    defaults = ["::/0" if ":" in cidr else "0.0.0.0/0" for cidr in cidrs]
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        # flannel masquerades what leaves the pod network; the bridge would do so within it too.
        "ipMasq": False,
        "mtu": pod_mtu(document, facts),
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": cidr}] for cidr in cidrs],
            "routes": [{"dst": destination} for destination in defaults],
        },
    }
    hostports = {
        "type": "portmap",
        "backend": packet_filter(facts),
        "capabilities": {"portMappings": True},
    }
    return _json({"cniVersion": "1.0.0", "name": CNI_NETWORK, "plugins": [bridge, hostports]})


def flannel_config(document: JoinDocument, facts: Mapping[str, Any]) -> bytes:
    """Return net-conf.json for the cluster's pod CIDRs."""
    config: Dict[str, Any] = {"EnableNFTables": packet_filter(facts) == "nftables"}
    four = [cidr for cidr in document.network.pod_cidrs if ":" not in cidr]
    six = [cidr for cidr in document.network.pod_cidrs if ":" in cidr]
    if four:
        config["Network"] = four[0]
    else:
        config["EnableIPv4"] = False
    if six:
        config["EnableIPv6"] = True
        config["IPv6Network"] = six[0]
    config["Backend"] = {"Type": document.network.backend}
    return _json(config)


def pod_mtu(document: JoinDocument, facts: Mapping[str, Any]) -> int:
    """Return the MTU of pods in bytes: that of the node's interface, less what vxlan puts around a packet."""
    interface = interface_of(document.addresses[0], facts)
    mtu: int = interface["mtu"] if interface is not None else DEFAULT_MTU
    if document.network.backend != "vxlan":
        return mtu
    return mtu - (70 if ":" in document.addresses[0] else 50)


def _flannel(document: JoinDocument, facts: Mapping[str, Any], net_conf: bytes) -> List[Resource]:
    options = flags(
        {
            "kubeconfig-file": node_credential("flannel"),
            "net-config-path": NET_CONF,
            "iface": document.addresses[0],
        }
    )
    settings: Dict[str, Any] = {"Environment": ["NODE_NAME=" + document.node, *api_connection.environment()]}
    if facts.get("cap_sys_resource"):
        settings["OOMScoreAdjust"] = "-998"
    settings.update(selinux.settings(facts, {selinux.PROGRAM: ["bin/flanneld"]}))
    return service(
        UNIT,
        description="flannel pod network (freehold)",
        command=[paths.BIN + "/flanneld", "--kube-subnet-mgr", "--ip-masq", *options],
        reads=[NET_CONF, paths.NODE_KUBECONFIG],
        inputs=[
            net_conf,
            node_kubeconfig(document),
            document.ca_pem,
            digests_of(document.manifest, "bin/flanneld"),
        ],
        slice_name=paths.NODE_SLICE,
        unit={"After": "network.target kubelet.service"},
        service=settings,
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
