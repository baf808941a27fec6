"""How the node's own programs identify themselves: kubeconfigs that name a file, never hold a key.

All use the kubelet's rotating certificate today. `node_credential` is the one place to change when they get
their own (document field `credential`).
"""

import json
from typing import Any, Dict, List

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import File, Resource

COMPONENTS = ("agent", "flannel", "kube-proxy", "kubelet")


def node_credential(component: str) -> str:
    """Return the path of the kubeconfig that a program of the node uses. Raises KeyError."""
    if component not in COMPONENTS:
        raise KeyError(component)
    return paths.KUBELET_KUBECONFIG if component == "kubelet" else paths.NODE_KUBECONFIG


def credential_resources(document: JoinDocument) -> List[Resource]:
    """Return the kubeconfig of the node's programs except the kubelet's: that one writes its own first."""
    return [File(paths.NODE_KUBECONFIG, node_kubeconfig(document), mode=0o600)]


def kubelet_kubeconfig_resource(document: JoinDocument) -> File:
    """Return the kubelet's kubeconfig as it should be after the bootstrap.

    Before it must not exist: the kubelet writes it when it asks for its certificate, and the two differ.
    """
    return File(paths.KUBELET_KUBECONFIG, node_kubeconfig(document), mode=0o600)


def node_kubeconfig(document: JoinDocument) -> bytes:
    """Return the kubeconfig that names the kubelet's certificate by path: a rotated one is re-read."""
    certificate = paths.KUBELET_CLIENT_CERTIFICATE
    return _kubeconfig(document, {"client-certificate": certificate, "client-key": certificate})


def bootstrap_kubeconfig(document: JoinDocument, token: str) -> bytes:
    """Return the kubelet's bootstrap kubeconfig.

    Secret: it is written 0600, never a resource, and removed after the join.
    """
    return _kubeconfig(document, {"token": token})


def _kubeconfig(document: JoinDocument, user: Dict[str, str]) -> bytes:
    """JSON is YAML: every reader of kubeconfigs takes it, and no quoting rule of YAML can bite."""
    cluster = {"server": document.endpoints[0], "certificate-authority": paths.CLUSTER_CA}
    config: Dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": document.cluster, "cluster": cluster}],
        "users": [{"name": "node", "user": user}],
        "contexts": [{"name": document.cluster, "context": {"cluster": document.cluster, "user": "node"}}],
        "current-context": document.cluster,
    }
    return (json.dumps(config, indent=1) + "\n").encode()
