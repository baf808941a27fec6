"""What RBAC cannot say, as ValidatingAdmissionPolicies: inside the API server, fail closed, no webhook."""

import base64
from typing import Any, Dict, List, Sequence, Tuple

from freehold_bootstrap.identities import (
    BOOTSTRAPPERS_GROUP,
    CONTROLLER_USER,
    INSTALLER_USER,
    JOIN_USER,
    MANAGED_LABEL,
    NAMESPACE,
    NODES_GROUP,
    PROVISIONED_BY,
    TOKEN_NAMESPACE,
    VOLUME_PROVISIONER,
)

Object = Dict[str, Any]
Condition = Tuple[str, str]


def admission_policies() -> List[Object]:
    """Return each policy followed by its binding."""
    objects: List[Object] = []
    for name, resource, operations, conditions, validations in _POLICIES:
        objects.append(_policy(name, resource, operations, conditions, validations))
        objects.append(_binding(name))
    return objects


_POLICIES: Tuple[
    Tuple[str, Tuple[str, str], Sequence[str], Sequence[Condition], Sequence[Condition]], ...
] = (
    (
        # A removed node keeps a valid certificate for days: without this its kubelet would just come back.
        # `Forbidden` matters: a kubelet that gets it looks for an existing Node, with `Invalid` it gives up.
        "freehold-nodes-are-admitted",
        ("", "nodes"),
        ["CREATE"],
        [("by-a-node", "'{}' in request.userInfo.groups".format(NODES_GROUP))],
        [("false", "Nodes are made by the control plane's admission, never by a kubelet.")],
    ),
    (
        "freehold-nodes-ask-for-their-own-certificates",
        ("certificates.k8s.io", "certificatesigningrequests"),
        ["CREATE"],
        [
            (
                "by-a-node",
                "'{}' in request.userInfo.groups || '{}' in request.userInfo.groups".format(
                    NODES_GROUP, BOOTSTRAPPERS_GROUP
                ),
            )
        ],
        [
            (
                "object.spec.signerName.matches('^kubernetes[.]io/(kube-apiserver-client-kubelet|kubelet-serving)$')",
                "Nodes may ask for kubelet certificates only.",
            )
        ],
    ),
    (
        # RBAC lets our programs write Secrets beside those of kube-system's components: this keeps them to
        # bootstrap tokens, and to those of our group.
        "freehold-writes-tokens-only",
        ("", "secrets"),
        ["CREATE", "UPDATE", "DELETE"],
        [
            (
                "by-our-programs",
                "request.userInfo.username in {}".format([JOIN_USER, CONTROLLER_USER, INSTALLER_USER]),
            )
        ],
        [
            (
                "(request.operation == 'DELETE' ? oldObject : object).type == "
                "(request.namespace == '{}' ? 'bootstrap.kubernetes.io/token' : "
                "request.namespace == '{}' ? 'freehold.io/join-token' : '')".format(
                    TOKEN_NAMESPACE, NAMESPACE
                ),
                "freehold's programs write join tokens and bootstrap tokens, no other Secret.",
            ),
            (
                "request.operation != 'CREATE' || request.namespace != '{}' || "
                "('auth-extra-groups' in object.data && string(object.data['auth-extra-groups']) == '{}' "
                "&& !('usage-bootstrap-signing' in object.data))".format(
                    # Secrets reach CEL as JSON does: in base64.
                    TOKEN_NAMESPACE,
                    base64.b64encode(BOOTSTRAPPERS_GROUP.encode()).decode(),
                ),
                "freehold's programs make bootstrap tokens of their own group only.",
            ),
        ],
    ),
    (
        # RBAC lets the controller write volumes: this keeps it to directories of one node, and off others' volumes.
        "freehold-writes-local-volumes-only",
        ("", "persistentvolumes"),
        ["CREATE", "UPDATE", "DELETE"],
        [("by-the-controller", "request.userInfo.username == '{}'".format(CONTROLLER_USER))],
        [
            (
                "(request.operation == 'CREATE' ? object : oldObject).metadata.?annotations['{}'].orValue('') "
                "== '{}'".format(PROVISIONED_BY, VOLUME_PROVISIONER),
                "freehold's controller writes volumes of its own only.",
            ),
            (
                "request.operation == 'DELETE' || (has(object.spec.local) && has(object.spec.nodeAffinity))",
                "freehold's controller makes local volumes only.",
            ),
            (
                "request.operation != 'UPDATE' || object.spec == oldObject.spec",
                "freehold's controller changes no volume.",
            ),
        ],
    ),
    (
        "freehold-moves-claims-only",
        ("", "persistentvolumeclaims"),
        ["UPDATE"],
        [("by-the-controller", "request.userInfo.username == '{}'".format(CONTROLLER_USER))],
        [("object.spec == oldObject.spec", "freehold's controller changes no claim.")],
    ),
)


def _policy(
    name: str,
    resource: Tuple[str, str],
    operations: Sequence[str],
    conditions: Sequence[Condition],
    validations: Sequence[Condition],
) -> Object:
    matched = {
        "apiGroups": [resource[0]],
        "apiVersions": ["v1"],
        "operations": list(operations),
        "resources": [resource[1]],
        "scope": "*",
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {MANAGED_LABEL: "trust"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": [matched]},
            "matchConditions": [{"name": name, "expression": text} for name, text in conditions],
            "validations": [
                {"expression": text, "message": message, "reason": "Forbidden"}
                for text, message in validations
            ],
        },
    }


def _binding(name: str) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {MANAGED_LABEL: "trust"}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
