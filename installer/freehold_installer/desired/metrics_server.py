"""metrics-server as a Deployment, with its serving certificate from the cluster CA and kubelets verified.

The upstream manifest asks for `insecureSkipTLSVerify` and people add `--kubelet-insecure-tls`; here neither is
needed, because both sides hold certificates of the cluster CA.
"""

import base64
from typing import Any

from freehold_installer.desired.control_plane_context import PLACEHOLDER

NAME = "metrics-server"
NAMESPACE = "kube-system"
LABELS = {"k8s-app": NAME}


def objects(image: str, ca: bytes, certificate: bytes, key: bytes) -> list[dict[str, Any]]:
    """Return all objects of metrics-server in the order to apply them."""
    return [
        _object("v1", "ServiceAccount", NAME, namespaced=True),
        *_rights(),
        _object(
            "v1",
            "Secret",
            f"{NAME}-tls",
            namespaced=True,
            type="kubernetes.io/tls",
            data={"tls.crt": _base64(certificate), "tls.key": _base64(key)},
        ),
        _object(
            "v1",
            "ConfigMap",
            f"{NAME}-ca",
            namespaced=True,
            data={"ca.crt": ca.decode()},
        ),
        _object(
            "v1",
            "Service",
            NAME,
            namespaced=True,
            spec={
                "selector": LABELS,
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": "https"}],
            },
        ),
        _deployment(image),
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": LABELS},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": NAME, "namespace": NAMESPACE, "port": 443},
                "caBundle": _base64(ca),
            },
        },
    ]


def _rights() -> list[dict[str, Any]]:
    subject = [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    rbac = "rbac.authorization.k8s.io"
    return [
        _object(
            f"{rbac}/v1",
            "ClusterRole",
            f"system:{NAME}",
            rules=[
                {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
            ],
        ),
        {
            **_object(
                f"{rbac}/v1",
                "ClusterRole",
                "system:aggregated-metrics-reader",
                rules=[
                    {
                        "apiGroups": ["metrics.k8s.io"],
                        "resources": ["pods", "nodes"],
                        "verbs": ["get", "list", "watch"],
                    }
                ],
            ),
            "metadata": {
                "name": "system:aggregated-metrics-reader",
                "labels": {
                    **LABELS,
                    "rbac.authorization.k8s.io/aggregate-to-admin": "true",
                    "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                    "rbac.authorization.k8s.io/aggregate-to-view": "true",
                },
            },
        },
        _binding("ClusterRoleBinding", f"system:{NAME}", "ClusterRole", f"system:{NAME}", subject),
        _binding(
            "ClusterRoleBinding",
            f"{NAME}:system:auth-delegator",
            "ClusterRole",
            "system:auth-delegator",
            subject,
        ),
        {
            **_binding(
                "RoleBinding",
                f"{NAME}-auth-reader",
                "Role",
                "extension-apiserver-authentication-reader",
                subject,
            ),
            "metadata": {"name": f"{NAME}-auth-reader", "namespace": NAMESPACE, "labels": LABELS},
        },
    ]


def _binding(
    kind: str, name: str, role_kind: str, role: str, subjects: list[dict[str, str]]
) -> dict[str, Any]:
    return _object(
        "rbac.authorization.k8s.io/v1",
        kind,
        name,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        subjects=subjects,
    )


def _deployment(image: str) -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--secure-port=10250",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-certificate-authority=/ca/ca.crt",
            "--tls-cert-file=/tls/tls.crt",
            "--tls-private-key-file=/tls/tls.key",
            "--metric-resolution=15s",
        ],
        "ports": [{"name": "https", "containerPort": 10250, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "https", "scheme": "HTTPS"},
            "periodSeconds": 5,
            "failureThreshold": 6,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "https", "scheme": "HTTPS"},
            "periodSeconds": 10,
            "failureThreshold": 3,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "tls", "mountPath": "/tls", "readOnly": True},
            {"name": "ca", "mountPath": "/ca", "readOnly": True},
        ],
    }
    return _object(
        "apps/v1",
        "Deployment",
        NAME,
        namespaced=True,
        spec={
            "replicas": 1,
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {
                    "serviceAccountName": NAME,
                    "priorityClassName": "system-cluster-critical",
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "securityContext": {"fsGroup": 1000},
                    "containers": [container],
                    "volumes": [
                        {"name": "tls", "secret": {"secretName": f"{NAME}-tls", "defaultMode": 288}},
                        {"name": "ca", "configMap": {"name": f"{NAME}-ca"}},
                    ],
                },
            },
        },
    )


def _object(
    api_version: str, kind: str, name: str, *, namespaced: bool = False, **body: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": dict(LABELS)}
    if namespaced:
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def _base64(data: bytes) -> str:
    return base64.b64encode(data or PLACEHOLDER).decode()
