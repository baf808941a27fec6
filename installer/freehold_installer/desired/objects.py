"""Kubernetes objects that a cluster of ours holds, and whether the live ones already say the same.

An object is right when everything we ask for is in it; what the API server defaulted or others added is theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_PLURALS = {
    "APIService": "apiservices",
    "CSIDriver": "csidrivers",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "EndpointSlice": "endpointslices",
    "Endpoints": "endpoints",
    "Namespace": "namespaces",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StorageClass": "storageclasses",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}


def path_of(body: Mapping[str, Any]) -> str:
    """Return the API path of an object of ours. Raises KeyError for a kind that we do not make."""
    version, kind, metadata = body["apiVersion"], body["kind"], body["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{namespace}/{_PLURALS[kind]}/{metadata['name']}"


def key_of_object(body: Mapping[str, Any]) -> str:
    """Return how a plan names an object: `object:Service kube-system/kube-dns`."""
    metadata = body["metadata"]
    namespace = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"object:{body['kind']} {namespace}{metadata['name']}"


def differing_paths(wanted: Any, live: Any, path: str = "") -> list[str]:
    """Return where the live value lacks something of the wanted one; lists must agree item by item.

    Paths read like `spec.ports[0].port`; values are left out, because they may be secret.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return [path] if wanted else []
        return [
            found
            for name, value in wanted.items()
            for found in differing_paths(value, live.get(name), f"{path}.{name}".lstrip("."))
        ]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not wanted and live is None:
            return []
        if not isinstance(live, Sequence) or len(wanted) != len(live):
            return [path]
        pairs = enumerate(zip(wanted, live, strict=True))
        return [found for i, (a, b) in pairs for found in differing_paths(a, b, f"{path}[{i}]")]
    # The API server leaves empty values out.
    same = wanted == live or (not wanted and not live and wanted is not live)
    return [] if same else [path]
