"""API server, controller manager and scheduler as units, in kubeadm's file layout.

Flags follow the Kubernetes command-line reference; where we differ from kubeadm a comment says why.
"""

import json
from typing import Any

import yaml

from freehold_agent.contract import paths
from freehold_agent.contract.resources import File, Resource
from freehold_agent.contract.unit_file import flags, service, together
from freehold_installer.desired import api_gate
from freehold_installer.desired.control_plane_context import ControlPlaneContext, directory

PKI = paths.PKI
AUTHENTICATION = paths.KUBERNETES + "/authentication.yaml"
ENCRYPTION = paths.KUBERNETES + "/encryption.yaml"
AUDIT_POLICY = paths.KUBERNETES + "/audit-policy.yaml"
AUDIT_LOGS = "/var/log/kubernetes"

SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc."


def prerequisites(context: ControlPlaneContext) -> list[Resource]:
    """Return directories, certificates and configuration of the three components."""
    certificates = [
        ("ca.crt", "ca.crt"),
        ("ca.key", "ca.key"),
        ("front-proxy-ca.crt", "front-proxy-ca.crt"),
        *((f"{name}.{kind}",) * 2 for name in _PAIRS for kind in ("crt", "key")),
        ("sa.key", "sa.key"),
        ("sa.pub", "sa.pub"),
    ]
    return [
        directory(paths.KUBERNETES),
        directory(PKI),
        directory(AUDIT_LOGS, 0o700),
        *(context.pki_file(name, f"{PKI}/{file}") for name, file in certificates),
        context.pki_file("controller-manager.conf", f"{paths.KUBERNETES}/controller-manager.conf"),
        context.pki_file("scheduler.conf", f"{paths.KUBERNETES}/scheduler.conf"),
        context.pki_file("encryption.yaml", ENCRYPTION),
        File(AUTHENTICATION, _yaml(_authentication())),
        File(AUDIT_POLICY, _yaml(_audit_policy())),
        *([api_gate.rules()] if _alone(context) else []),
    ]


_PAIRS = ("apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client")


def api_server(context: ControlPlaneContext) -> list[Resource]:
    """Return kube-apiserver's unit."""
    config = context.inventory.config
    networking = config.networking
    arguments = {
        "advertise-address": config.control_plane.standalone.advertise_address or context.address,
        "secure-port": str(paths.API_PORT),
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "authentication-config": AUTHENTICATION,
        "client-ca-file": f"{PKI}/ca.crt",
        "enable-admission-plugins": "NodeRestriction",
        "enable-bootstrap-token-auth": "true",
        # The API server reaches aggregated APIs and webhooks on pod addresses, so that a control plane
        # without kube-proxy works in the same way.
        "enable-aggregator-routing": "true",
        "encryption-provider-config": ENCRYPTION,
        "etcd-servers": "https://127.0.0.1:2379",
        "etcd-cafile": f"{PKI}/etcd/ca.crt",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{PKI}/apiserver-etcd-client.key",
        # kubeadm leaves serving certificates of kubelets unverified; ours come from the cluster CA.
        "kubelet-certificate-authority": f"{PKI}/ca.crt",
        "kubelet-client-certificate": f"{PKI}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{PKI}/apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
        "profiling": "false",
        "proxy-client-cert-file": f"{PKI}/front-proxy-client.crt",
        "proxy-client-key-file": f"{PKI}/front-proxy-client.key",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "service-account-issuer": SERVICE_ACCOUNT_ISSUER + networking.cluster_domain,
        "service-account-key-file": f"{PKI}/sa.pub",
        "service-account-signing-key-file": f"{PKI}/sa.key",
        "service-cluster-ip-range": str(networking.service_cidr),
        # Open watches end at a stop; without it each of them is waited for, for a minute.
        "shutdown-watch-termination-grace-period": "5s",
        "tls-cert-file": f"{PKI}/apiserver.crt",
        "tls-private-key-file": f"{PKI}/apiserver.key",
        "audit-policy-file": AUDIT_POLICY,
        "audit-log-path": f"{AUDIT_LOGS}/audit.log",
        "audit-log-maxage": "7",
        "audit-log-maxbackup": "4",
        "audit-log-maxsize": "50",
    }
    arguments.update(config.control_plane.distro.k8s.api_server.arguments)
    return service(
        "kube-apiserver",
        description="Kubernetes API server (freehold)",
        command=[f"{paths.BIN}/kube-apiserver", *flags(arguments)],
        inputs=[
            context.manifest.entry("bin/kube-apiserver").sha256,
            *(context.pki(f"{name}.crt") for name in _PAIRS),
            *(context.pki(name) for name in ("ca.crt", "front-proxy-ca.crt", "sa.pub", "encryption.yaml")),
            _yaml(_authentication()),
            _yaml(_audit_policy()),
        ],
        reads=[
            *(f"{PKI}/{name}.{kind}" for name in _PAIRS for kind in ("crt", "key")),
            *(
                f"{PKI}/{name}"
                for name in ("ca.crt", "front-proxy-ca.crt", "sa.key", "sa.pub", "etcd/ca.crt")
            ),
            AUTHENTICATION,
            ENCRYPTION,
            AUDIT_POLICY,
        ],
        slice_name=paths.CONTROL_SLICE,
        unit={
            "After": "network-online.target etcd.service",
            # Also when an operator stops and starts it alone: freehold-api-ready lets connections in.
            "Wants": "network-online.target etcd.service freehold-api-ready.service",
        },
        service={
            "Type": "notify",
            "LimitNOFILE": "20000",
            "NoNewPrivileges": "yes",
            # It has closed its port by then. Answers to a node that died without a word may keep it for 60 s more;
            # what it acknowledged is in etcd.
            "TimeoutStopSec": "15",
            **together(context.labels("bin/kube-apiserver"), api_gate.closing() if _alone(context) else {}),
        },
    )


def api_ready(context: ControlPlaneContext) -> list[Resource]:
    """Return the unit that is active once the API server is ready to serve.

    It notifies systemd when it serves TLS, about 1.5 s before its RBAC rules exist; what is started in between
    exits or backs off for seconds. This unit becomes active at /readyz.
    """
    return service(
        "freehold-api-ready",
        description="the Kubernetes API is ready (freehold)",
        command=[
            "/usr/bin/python3",
            paths.SERVICES_ZIPAPP,
            "wait-ready",
            # Not the machine's own address: connections there wait until this unit lets them in.
            f"--server=https://127.0.0.1:{paths.API_PORT}",
            f"--ca={PKI}/ca.crt",
        ],
        inputs=[],
        slice_name=paths.CONTROL_SLICE,
        # PartOf: a restarted API server is waited for again, also when its controllers restart in the same call.
        unit={
            "After": "kube-apiserver.service",
            "Wants": "kube-apiserver.service",
            "PartOf": "kube-apiserver.service",
        },
        service={
            "Type": "oneshot",
            "RemainAfterExit": "yes",
            "Restart": "on-failure",
            "TimeoutStartSec": "300",
            **(api_gate.opening() if _alone(context) else {}),
        },
    )


_AFTER_API = {"After": "freehold-api-ready.service", "Wants": "freehold-api-ready.service"}


def controller_manager(context: ControlPlaneContext) -> list[Resource]:
    """Return kube-controller-manager's unit; it starts when the API is ready."""
    networking = context.inventory.config.networking
    kubeconfig = f"{paths.KUBERNETES}/controller-manager.conf"
    arguments = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": "127.0.0.1",
        "allocate-node-cidrs": "true",
        "client-ca-file": f"{PKI}/ca.crt",
        "cluster-cidr": str(networking.pod_cidr),
        "cluster-name": context.inventory.name,
        "cluster-signing-cert-file": f"{PKI}/ca.crt",
        "cluster-signing-key-file": f"{PKI}/ca.key",
        # 7 days: a removed node's certificate cannot be revoked, so it must not live long.
        "cluster-signing-duration": "168h",
        # Requests of kubelets are judged by freehold-controller alone; absent bindings would not be enough,
        # because an administrator's own request would pass the built-in approver.
        "controllers": "*,-certificatesigningrequest-approving-controller,token-cleaner-controller",
        # Its default lies under /usr, where nothing of ours belongs.
        "flex-volume-plugin-dir": f"{paths.STATE}/volume-plugins",
        # The default client limit costs 5 s at every first start.
        "kube-api-qps": "300",
        "kube-api-burst": "500",
        "node-cidr-mask-size": str(networking.node_cidr_mask_size),
        "profiling": "false",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "root-ca-file": f"{PKI}/ca.crt",
        "service-account-private-key-file": f"{PKI}/sa.key",
        "service-cluster-ip-range": str(networking.service_cidr),
        "use-service-account-credentials": "true",
        **_leader_election(context),
        **context.inventory.config.control_plane.distro.k8s.controller_manager.arguments,
    }
    return service(
        "kube-controller-manager",
        description="Kubernetes controller manager (freehold)",
        command=[f"{paths.BIN}/kube-controller-manager", *flags(arguments)],
        inputs=[
            context.manifest.entry("bin/kube-controller-manager").sha256,
            *(context.pki(name) for name in ("ca.crt", "front-proxy-ca.crt", "sa.pub")),
            context.pki("controller-manager.conf"),
        ],
        reads=[
            kubeconfig,
            *(f"{PKI}/{name}" for name in ("ca.crt", "ca.key", "front-proxy-ca.crt", "sa.key")),
        ],
        slice_name=paths.CONTROL_SLICE,
        unit=_AFTER_API,
        service={"NoNewPrivileges": "yes", **context.labels("bin/kube-controller-manager")},
    )


def scheduler(context: ControlPlaneContext) -> list[Resource]:
    """Return kube-scheduler's unit; it starts when the API is ready."""
    kubeconfig = f"{paths.KUBERNETES}/scheduler.conf"
    arguments = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": "127.0.0.1",
        "profiling": "false",
        **_leader_election(context),
        **context.inventory.config.control_plane.distro.k8s.scheduler.arguments,
    }
    return service(
        "kube-scheduler",
        description="Kubernetes scheduler (freehold)",
        command=[f"{paths.BIN}/kube-scheduler", *flags(arguments)],
        inputs=[context.manifest.entry("bin/kube-scheduler").sha256, context.pki("scheduler.conf")],
        reads=[kubeconfig],
        slice_name=paths.CONTROL_SLICE,
        unit=_AFTER_API,
        service={"NoNewPrivileges": "yes", **context.labels("bin/kube-scheduler")},
    )


def _leader_election(context: ControlPlaneContext) -> dict[str, str]:
    """Return leader-election flags.

    With one control plane systemd already guarantees a single instance, and a lease left by a killed one would
    leave the cluster without controllers for up to 15 s (docs/adr/0005).
    """
    if _alone(context):
        return {"leader-elect": "false"}
    timings = context.inventory.config.control_plane.stateful_set.high_availability.timings
    return {
        "leader-elect": "true",
        "leader-elect-lease-duration": f"{timings.lease_duration}s",
        "leader-elect-renew-deadline": f"{timings.renew_deadline}s",
        "leader-elect-retry-period": f"{timings.retry_period}s",
    }


def _alone(context: ControlPlaneContext) -> bool:
    """Say whether there is no other control plane that could take over."""
    return len(context.inventory.control_planes) == 1


def _authentication() -> dict[str, Any]:
    """Only health checks are answered without a credential."""
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {
            "enabled": True,
            "conditions": [{"path": path} for path in ("/livez", "/readyz", "/healthz")],
        },
    }


def _audit_policy() -> dict[str, Any]:
    """Who changed what, without bodies; certificates and Secrets also when read; no noise of watches."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "None",
                "resources": [
                    {"group": "", "resources": ["events"]},
                    {"group": "events.k8s.io", "resources": ["events"]},
                    {"group": "coordination.k8s.io", "resources": ["leases"]},
                ],
            },
            {
                "level": "None",
                "nonResourceURLs": ["/livez*", "/readyz*", "/healthz*", "/version", "/openapi/*"],
            },
            {
                "level": "Metadata",
                "resources": [
                    {"group": "", "resources": ["secrets"]},
                    {"group": "certificates.k8s.io"},
                ],
            },
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "None", "resources": [{"group": "", "resources": ["nodes/status", "pods/status"]}]},
            {"level": "Metadata"},
        ],
    }


def _yaml(data: dict[str, Any]) -> bytes:
    return yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False).encode()
