"""The Kubernetes objects that trust needs: who may do what, and what nobody may do whatever RBAC says.

Pure data in the order to apply it. Nothing here is `system:masters`: whoever reads these objects knows every
right that freehold's own programs have. What cannot be said in RBAC ("only Secrets of that type") is a
ValidatingAdmissionPolicy in `admission_policies`.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from freehold_bootstrap.admission_policies import admission_policies
from freehold_bootstrap.identities import (
    ADMINS_GROUP,
    BOOTSTRAPPERS_GROUP,
    CONTROLLER_USER,
    COREDNS_USER,
    INSTALLER_USER,
    JOIN_USER,
    KUBELET_CLIENT_USER,
    MANAGED_LABEL,
    NAMESPACE,
    NODES_GROUP,
    POD_ROUTES_USER,
    TOKEN_NAMESPACE,
)

Object = Dict[str, Any]
Rule = Dict[str, List[str]]
RBAC = "rbac.authorization.k8s.io"
_READ = ("get", "list", "watch")


def rule(group: str, resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()) -> Rule:
    """Return one RBAC rule."""
    result: Rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    if names:
        result["resourceNames"] = list(names)
    return result


NODE_RULES = [
    # kube-proxy and flannel, with the kubelet's certificate; NodeRestriction keeps a status patch to the own
    # Node. All else a kubelet needs comes from the Node authorizer.
    rule("", ["nodes"], ["list", "watch"]),
    rule("", ["nodes/status"], ["patch"]),
    rule("", ["services"], ["list", "watch"]),
    rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
    rule("networking.k8s.io", ["servicecidrs"], ["list", "watch"]),
]
JOIN_CLUSTER_RULES = [rule("", ["nodes"], ["get", "list", "watch", "create", "patch"])]
JOIN_RULES = [
    rule("", ["configmaps"], ["get", "list", "watch", "create", "update"]),
    rule("", ["secrets"], ["get", "list", "update"]),
    rule("", ["events"], ["create"]),
]
# It cannot read there: not even the token it has just made.
JOIN_TOKEN_RULES = [rule("", ["secrets"], ["create", "delete"])]
CONTROLLER_CLUSTER_RULES = [
    rule("", ["nodes"], _READ),
    rule("", ["events"], ["create"]),
    rule("certificates.k8s.io", ["certificatesigningrequests"], _READ),
    rule("certificates.k8s.io", ["certificatesigningrequests/approval"], ["update"]),
    rule(
        "certificates.k8s.io",
        ["signers"],
        ["approve"],
        ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"],
    ),
    # Local volumes. A policy in `admission_policies` keeps it to volumes of its own, and off what claims ask for.
    rule("", ["persistentvolumeclaims"], [*_READ, "patch"]),
    rule("", ["persistentvolumes"], [*_READ, "create", "patch", "delete"]),
    rule("storage.k8s.io", ["storageclasses"], _READ),
]
CONTROLLER_RULES = [
    rule("", ["configmaps"], [*_READ, "create", "update"]),
    rule("coordination.k8s.io", ["leases"], ["get", "create", "update"]),
    rule("storage.k8s.io", ["csistoragecapacities"], ["list", "create", "delete"]),
]
# Bootstrap tokens must lie where the API server looks for them; a token is spent by replacing it.
CONTROLLER_SYSTEM_RULES = [
    rule("", ["secrets"], ["get", "update"]),
    rule("discovery.k8s.io", ["endpointslices"], ["get", "create", "patch"]),
]
# On control planes that are no nodes.
POD_ROUTES_RULES = [rule("", ["nodes"], ["list", "watch"])]
COREDNS_RULES = [
    rule("", ["services", "namespaces"], ["list", "watch"]),
    rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
]
# What admission and tokens need. Objects of the cluster itself and an inventory's manifests are the
# administrator's to write; what this file describes, the authority's (`installer-bootstrap`).
INSTALLER_CLUSTER_RULES = [rule("", ["nodes"], [*_READ, "create", "patch"])]
INSTALLER_RULES = [
    rule("", ["configmaps"], [*_READ, "create", "update"]),
    rule("", ["secrets"], ["get", "list", "create", "delete"]),
    rule("", ["events"], ["create"]),
]
INSTALLER_SYSTEM_RULES = [
    rule("", ["secrets"], ["create", "delete"]),
]


def trust_objects() -> List[Object]:
    """Return namespace, roles, bindings and admission policies, in the order to apply them."""
    namespace: Object = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {MANAGED_LABEL: "trust"}},
    }
    objects = [namespace]
    for name, rules, subject in _CLUSTER_ROLES:
        objects.append(_role("ClusterRole", name, rules))
        objects.append(_binding("ClusterRoleBinding", name, name, subject))
    for name, place, rules, subject in _ROLES:
        objects.append(_role("Role", name, rules, place))
        objects.append(_binding("RoleBinding", name, name, subject, place))
    for name, role, subject in _STANDARD_ROLES:
        objects.append(_binding("ClusterRoleBinding", name, role, subject))
    return objects + admission_policies()


def path_of(obj: Mapping[str, Any]) -> str:
    """Return the API path of one of these objects. Raises KeyError for a kind that is not among them."""
    metadata = obj["metadata"]
    base = "/api/v1" if obj["apiVersion"] == "v1" else "/apis/" + obj["apiVersion"]
    place = "/namespaces/" + metadata["namespace"] if "namespace" in metadata else ""
    return "{}{}/{}/{}".format(base, place, _PLURALS[obj["kind"]], metadata["name"])


def rights_of(group: str) -> List[Rule]:
    """Return every cluster-wide rule that these objects give to a group."""
    objects = trust_objects()
    roles = {obj["metadata"]["name"]: obj["rules"] for obj in objects if obj["kind"] == "ClusterRole"}
    rules: List[Rule] = []
    for obj in objects:
        subjects = [subject["name"] for subject in obj.get("subjects", ()) if subject["kind"] == "Group"]
        if group in subjects:
            rules.extend(roles[obj["roleRef"]["name"]])
    return rules


_PLURALS = {
    "Namespace": "namespaces",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}


def _user(name: str) -> Object:
    return {"apiGroup": RBAC, "kind": "User", "name": name}


def _group(name: str) -> Object:
    return {"apiGroup": RBAC, "kind": "Group", "name": name}


_CLUSTER_ROLES: Tuple[Tuple[str, Sequence[Rule], Object], ...] = (
    # First: the installer goes on with these as soon as the list is applied, and rights take a moment to be known.
    ("freehold:installer", INSTALLER_CLUSTER_RULES, _user(INSTALLER_USER)),
    ("freehold:node", NODE_RULES, _group(NODES_GROUP)),
    ("freehold:join", JOIN_CLUSTER_RULES, _user(JOIN_USER)),
    ("freehold:controller", CONTROLLER_CLUSTER_RULES, _user(CONTROLLER_USER)),
    ("freehold:coredns", COREDNS_RULES, _user(COREDNS_USER)),
    ("freehold:pod-routes", POD_ROUTES_RULES, _user(POD_ROUTES_USER)),
)
_ROLES: Tuple[Tuple[str, str, Sequence[Rule], Object], ...] = (
    ("freehold:installer", NAMESPACE, INSTALLER_RULES, _user(INSTALLER_USER)),
    ("freehold:installer", TOKEN_NAMESPACE, INSTALLER_SYSTEM_RULES, _user(INSTALLER_USER)),
    ("freehold:join", NAMESPACE, JOIN_RULES, _user(JOIN_USER)),
    ("freehold:join", TOKEN_NAMESPACE, JOIN_TOKEN_RULES, _user(JOIN_USER)),
    ("freehold:controller", NAMESPACE, CONTROLLER_RULES, _user(CONTROLLER_USER)),
    ("freehold:controller", TOKEN_NAMESPACE, CONTROLLER_SYSTEM_RULES, _user(CONTROLLER_USER)),
)
_STANDARD_ROLES = (
    # Create requests for certificates and read their own; who is approved is the approver's business.
    ("freehold:bootstrappers", "system:node-bootstrapper", _group(BOOTSTRAPPERS_GROUP)),
    # What `kubectl logs` and `exec` need of the API server itself; kubeadm gives it cluster-admin instead.
    ("freehold:kubelet-api", "system:kubelet-api-admin", _user(KUBELET_CLIENT_USER)),
    ("freehold:admins", "cluster-admin", _group(ADMINS_GROUP)),
)


def _role(kind: str, name: str, rules: Sequence[Rule], namespace: str = "") -> Object:
    return {
        "apiVersion": RBAC + "/v1",
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "rules": list(rules),
    }


def _binding(kind: str, name: str, role: str, subject: Object, namespace: str = "") -> Object:
    return {
        "apiVersion": RBAC + "/v1",
        "kind": kind,
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": kind[: -len("Binding")], "name": role},
        "subjects": [subject],
    }


def _metadata(name: str, namespace: str) -> Object:
    metadata: Object = {"name": name, "labels": {MANAGED_LABEL: "trust"}}
    if namespace:
        metadata["namespace"] = namespace
    return metadata
