"""kube-proxy in nftables mode (iptables where the machine is too old), with its configuration as a file."""

import json
from typing import Any, Dict, List, Mapping

from freehold_agent.contract import paths, ports, selinux
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import digests_of
from freehold_agent.contract.resources import File, Resource
from freehold_agent.contract.unit_file import service
from freehold_agent.desired import api_connection
from freehold_agent.desired.credential import node_credential, node_kubeconfig
from freehold_agent.desired.packet_filter import packet_filter

UNIT = "kube-proxy"
CONFIG = paths.ETC + "/kube-proxy.json"


def kube_proxy_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return configuration and unit; nothing when the inventory wants another proxy."""
    if not document.network.kube_proxy:
        return []
    config = (json.dumps(kube_proxy_config(document, facts), indent=1) + "\n").encode()
    settings: Dict[str, Any] = {"Environment": api_connection.environment()}
    if facts.get("cap_sys_resource"):
        settings["OOMScoreAdjust"] = "-998"
    settings.update(selinux.settings(facts, {selinux.PROGRAM: ["bin/kube-proxy"]}))
    return [
        File(CONFIG, config),
        *service(
            UNIT,
            description="Kubernetes service proxy (freehold)",
            command=[paths.BIN + "/kube-proxy", "--config=" + CONFIG],
            reads=[CONFIG, paths.NODE_KUBECONFIG],
            inputs=[
                config,
                node_kubeconfig(document),
                document.ca_pem,
                digests_of(document.manifest, "bin/kube-proxy"),
            ],
            slice_name=paths.NODE_SLICE,
            unit={"After": "network.target kubelet.service"},
            service=settings,
        ),
    ]


def kube_proxy_config(document: JoinDocument, facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the KubeProxyConfiguration."""
    six = ":" in document.addresses[0]
    loopback = "[::1]" if six else "127.0.0.1"
    config: Dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": packet_filter(facts),
        "clientConnection": {"kubeconfig": node_credential("kube-proxy")},
        "hostnameOverride": document.node,
        "clusterCIDR": ",".join(document.network.pod_cidrs),
        "bindAddress": document.addresses[0],
        "healthzBindAddress": "{}:{}".format(loopback, ports.KUBE_PROXY_HEALTH),
        "metricsBindAddress": "{}:{}".format(loopback, ports.KUBE_PROXY_METRICS),
    }
    if not facts.get("cap_sys_resource"):
        config["oomScoreAdj"] = 0
    if not facts.get("conntrack_writable", True):
        # Leave the limit of the host above us as it is; kube-proxy would exit trying to set it.
        config["conntrack"] = {"maxPerCore": 0}
    return config
