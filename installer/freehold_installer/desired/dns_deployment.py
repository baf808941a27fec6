"""CoreDNS as a Deployment, for those who want cluster DNS in pods: objects only.

Its image is made from the program of the bundle (`bundle.coredns_image`). It listens on a port above 1024, so that it
needs neither root nor a capability.
"""

import hashlib
from typing import Any

from freehold_agent.contract import paths, ports
from freehold_installer.config.cluster import CoreDnsDeployment
from freehold_installer.desired import dns

NAME = "coredns"
NAMESPACE = "kube-system"
LABELS = {"k8s-app": "kube-dns"}
BINDING = "freehold:coredns-pods"
ROLE = "freehold:coredns"
"""Of the embedded one: what both read is the same."""
HEALTH_PORT = 8080


def objects(
    dns_address: str, domain: str, image: str, settings: CoreDnsDeployment, *, nodes: int, forward: bool
) -> list[dict[str, Any]]:
    """Return the objects in the order to apply them.

    `nodes` are those of the inventory; `forward`: they know resolvers for other names.
    """
    config = corefile(domain, forward=forward)
    (service,) = dns.objects(dns_address)
    service["spec"]["selector"] = LABELS
    for port in service["spec"]["ports"]:
        port["targetPort"] = port["name"]
    return [
        _object("v1", "ServiceAccount", NAME),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": BINDING, "labels": LABELS},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        },
        _object("v1", "ConfigMap", NAME, data={"Corefile": config}),
        _deployment(image, config, settings, nodes),
        service,
    ]


def superseded() -> list[dict[str, Any]]:
    """Return what an embedded CoreDNS leaves no place for, as far as it takes to name them."""
    return [
        # For a Service without a selector Kubernetes would turn this old kind into slices with the pods' addresses.
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kube-dns", "namespace": NAMESPACE}},
        _object("apps/v1", "Deployment", NAME),
        _object("v1", "ConfigMap", NAME),
        _object("v1", "ServiceAccount", NAME),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": BINDING},
        },
    ]


def corefile(domain: str, *, forward: bool) -> str:
    """Return the Corefile: cluster names from the API, everything else from the resolvers of the node."""
    lines = [
        f".:{paths.DNS_PORT} {{",
        "    errors",
        f"    health :{HEALTH_PORT} {{",
        "        lameduck 5s",
        "    }",
        f"    ready :{ports.DNS_READY}",
        f"    kubernetes {domain} in-addr.arpa ip6.arpa {{",
        "        pods disabled",
        "        fallthrough in-addr.arpa ip6.arpa",
        "        ttl 30",
        "    }",
    ]
    if forward:
        lines.append("    forward . /etc/resolv.conf")
    return "\n".join([*lines, "    cache 30", "    loadbalance", "}", ""])


def _deployment(image: str, config: str, settings: CoreDnsDeployment, nodes: int) -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": paths.DNS_PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": paths.DNS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": ports.DNS_READY}, "periodSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": HEALTH_PORT},
            "initialDelaySeconds": 30,
            "failureThreshold": 5,
        },
        "resources": settings.resources.as_object(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    spread = {
        "maxSkew": 1,
        # Also while most nodes are still coming: a pod that doubles up would stay where it is for ever.
        "minDomains": max(1, min(settings.replicas, nodes)),
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": LABELS},
        "matchLabelKeys": ["pod-template-hash"],
    }
    template = {
        "metadata": {
            "labels": LABELS,
            # Another Corefile is another pod.
            "annotations": {"freehold.io/corefile": hashlib.sha256(config.encode()).hexdigest()[:16]},
        },
        "spec": {
            "serviceAccountName": NAME,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [
                {"key": "CriticalAddonsOnly", "operator": "Exists"},
                {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
            ],
            "topologySpreadConstraints": [spread],
            # Not its own Service: the resolvers of its node.
            "dnsPolicy": "Default",
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": NAME}}],
        },
    }
    return _object(
        "apps/v1",
        "Deployment",
        NAME,
        spec={
            "replicas": settings.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": LABELS},
            "template": template,
        },
    )


def _object(api_version: str, kind: str, name: str, **body: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": LABELS}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
