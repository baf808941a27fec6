"""Which extra arguments and kubelet fields an operator may not set, each with the reason.

freehold promises verified TLS, Node + RBAC authorisation and bounded credentials; a setting that would undo a
promise without saying so is refused here, as is one that freehold derives from another key. Pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_ARGUMENT = re.compile(r"--([a-z0-9][a-z0-9-]*)(?:=(.*))?")

Rule = str | Callable[[str], str]
"""The reason why a flag is refused, or a function from its value to the reason ('' when it is fine)."""

_PKI = "freehold issues and renews this certificate or key itself"
_AUTHENTICATES = "it decides who is believed; freehold sets it"
_ELECTION = "use controlPlane.statefulSet.highAvailability"
_OPEN_PORT = "it opens a port without authentication"
_ENCRYPTION = "freehold encrypts Secrets with a key of its own"
_DATA_STORE = "use controlPlane.backingStore"
_SERVICE_CIDR = "use networking.serviceCIDR"


def _only(*allowed: str) -> Callable[[str], str]:
    def judge(value: str) -> str:
        return "" if value.lower() in allowed else f"only {' or '.join(allowed)} keeps the cluster safe"

    return judge


def _authorization_mode(value: str) -> str:
    modes = value.split(",")
    if "AlwaysAllow" in modes:
        return "AlwaysAllow lets everybody do everything"
    missing = [mode for mode in ("Node", "RBAC") if mode not in modes]
    return f"{' and '.join(missing)} must be among the modes" if missing else ""


def _admission_on(value: str) -> str:
    return "" if "NodeRestriction" in value.split(",") else "NodeRestriction must be in the list"


def _admission_off(value: str) -> str:
    needed = {"NodeRestriction", "ValidatingAdmissionPolicy", "ServiceAccount", "NamespaceLifecycle"}
    found = sorted(needed & set(value.split(",")))
    return f"{', '.join(found)} must stay on" if found else ""


def _gates(value: str) -> str:
    """Refuse switching off what guards node identities."""
    guarded = ("AuthorizeNodeWithSelectors", "ServiceAccountTokenNodeBinding")
    off = [gate for gate in guarded if f"{gate.lower()}=false" in value.lower().replace(" ", "")]
    return f"{', '.join(off)} must stay on" if off else ""


_COMMON: dict[str, Rule] = {
    "kubeconfig": _PKI,
    "authentication-kubeconfig": _PKI,
    "authorization-kubeconfig": _PKI,
    "authentication-skip-lookup": _AUTHENTICATES,
    "authentication-tolerate-lookup-failure": _AUTHENTICATES,
    "authorization-always-allow-paths": "paths without authorisation are chosen by freehold",
    "client-ca-file": _AUTHENTICATES,
    "tls-cert-file": _PKI,
    "tls-private-key-file": _PKI,
    "tls-sni-cert-key": _PKI,
    "cert-dir": _PKI,
    "tls-min-version": _only("versiontls12", "versiontls13"),
    "insecure-port": _OPEN_PORT,
    "insecure-bind-address": _OPEN_PORT,
    "port": _OPEN_PORT,
    "address": _OPEN_PORT,
    "secure-port": "the ports are fixed, other machines know them",
    "feature-gates": _gates,
    "master": "freehold sets the API server's address",
}

_PREFIXES = {"requestheader-": _AUTHENTICATES, "leader-elect": _ELECTION, "cluster-signing-": _PKI}

_OWN: dict[str, dict[str, Rule]] = {
    "kube-apiserver": {
        "anonymous-auth": _only("false"),
        "authorization-mode": _authorization_mode,
        "authorization-config": "it replaces Node and RBAC",
        "authentication-config": "it can let anonymous requests in; use the --oidc- flags",
        "token-auth-file": "tokens in it never expire",
        "basic-auth-file": "passwords in a file",
        "enable-bootstrap-token-auth": _only("true"),
        "kubelet-certificate-authority": "kubelets are verified with the cluster's CA, always",
        "kubelet-client-certificate": _PKI,
        "kubelet-client-key": _PKI,
        "kubelet-preferred-address-types": "serving certificates name recorded addresses only",
        "proxy-client-cert-file": _PKI,
        "proxy-client-key-file": _PKI,
        "service-account-key-file": _PKI,
        "service-account-signing-key-file": _PKI,
        "service-account-signing-endpoint": _PKI,
        "service-account-issuer": "freehold sets the issuer; tokens of another would not be believed",
        "service-account-lookup": _only("true"),
        "enable-admission-plugins": _admission_on,
        "disable-admission-plugins": _admission_off,
        "admission-control": "use enable-admission-plugins",
        "encryption-provider-config": _ENCRYPTION,
        "encryption-provider-config-automatic-reload": _ENCRYPTION,
        "etcd-servers": _DATA_STORE,
        "etcd-servers-overrides": _DATA_STORE,
        "etcd-cafile": _DATA_STORE,
        "etcd-certfile": _DATA_STORE,
        "etcd-keyfile": _DATA_STORE,
        "etcd-prefix": _DATA_STORE,
        "storage-backend": _DATA_STORE,
        "service-cluster-ip-range": _SERVICE_CIDR,
        "advertise-address": "use controlPlane.standalone.advertiseAddress",
        "audit-policy-file": "freehold brings its own audit policy",
        "audit-log-path": "freehold rotates and keeps this file",
        "enable-aggregator-routing": "freehold sets it as the machines need it",
    },
    "kube-controller-manager": {
        "controllers": "freehold's approver takes the place of one of them",
        "use-service-account-credentials": _only("true"),
        "service-account-private-key-file": _PKI,
        "root-ca-file": _PKI,
        "cluster-cidr": "use networking.podCIDR",
        "allocate-node-cidrs": "every node gets its part of networking.podCIDR",
        "node-cidr-mask-size": "use networking.nodeCIDRMaskSize",
        "node-cidr-mask-size-ipv4": "use networking.nodeCIDRMaskSize",
        "node-cidr-mask-size-ipv6": "use networking.nodeCIDRMaskSize",
        "service-cluster-ip-range": _SERVICE_CIDR,
        "cluster-name": "use the inventory's name",
    },
    "kube-scheduler": {
        "config": "not yet: a scheduler configuration file would hide leader election and credentials"
    },
}

KUBELET_FIELDS = {
    "apiVersion": "the version is the release's",
    "kind": "it is always KubeletConfiguration",
    "authentication": "only the API server may talk to a kubelet",
    "authorization": "only the API server may talk to a kubelet",
    "enableServer": "logs, exec and metrics need the kubelet's server",
    "port": "the ports are fixed, other machines know them",
    "readOnlyPort": _OPEN_PORT,
    "rotateCertificates": "a node's certificate lives for days and renews itself",
    "serverTLSBootstrap": "serving certificates come from the cluster's CA",
    "tlsCertFile": _PKI,
    "tlsPrivateKeyFile": _PKI,
    "clusterDNS": "it follows from networking.serviceCIDR",
    "clusterDomain": "use networking.advanced.clusterDomain",
    "containerRuntimeEndpoint": "freehold brings containerd",
    "podCIDR": "each node's part comes from the controller manager",
    "providerID": "it would be the same on every machine",
    "staticPodURL": "pods of unknown origin would run with all rights",
    "staticPodURLHeader": "pods of unknown origin would run with all rights",
    "registerNode": "the control plane makes the Node",
    "registerWithTaints": "use taints of the host",
}


def split_argument(argument: str) -> tuple[str, str]:
    """Return flag name and value of `--name=value`; a bare `--name` is `true`. Raises ValueError."""
    match = _ARGUMENT.fullmatch(argument)
    if match is None or not argument.isprintable():
        raise ValueError(f"expected one argument such as --v=2, found {argument!r}")
    return match.group(1), "true" if match.group(2) is None else match.group(2)


def check_arguments(program: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments as they are. Raises ValueError that names every bad one with the reason."""
    bad: list[str] = []
    seen: set[str] = set()
    for argument in arguments:
        try:
            name, value = split_argument(argument)
        except ValueError as error:
            bad.append(str(error))
            continue
        if name in seen:
            bad.append(f"--{name} is given twice")
        seen.add(name)
        reason = _reason(program, name, value)
        if reason:
            bad.append(f"--{name} is refused: {reason}")
    if bad:
        raise ValueError("; ".join(bad))
    return arguments


def check_kubelet(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as they are. Raises ValueError that names every bad one with the reason."""
    bad = [f"{name} is refused: {KUBELET_FIELDS[name]}" for name in config if name in KUBELET_FIELDS]
    if bad:
        raise ValueError("; ".join(bad))
    gates = config.get("featureGates")
    if isinstance(gates, Mapping) and gates.get("RotateKubeletServerCertificate") is False:
        raise ValueError("featureGates.RotateKubeletServerCertificate must stay on")
    return dict(config)


def _reason(program: str, name: str, value: str) -> str:
    rule = _OWN[program].get(name) or _COMMON.get(name)
    if rule is None:
        rule = next((reason for prefix, reason in _PREFIXES.items() if name.startswith(prefix)), "")
    return rule if isinstance(rule, str) else rule(value)


def described() -> Iterator[tuple[str, str, str]]:
    """Yield program, flag (or `prefix*`) and reason of each refused argument, for the documentation."""
    tables = {"any": {**_COMMON, **{f"{prefix}*": reason for prefix, reason in _PREFIXES.items()}}, **_OWN}
    for program, rules in tables.items():
        for flag, rule in rules.items():
            yield program, flag, rule if isinstance(rule, str) else "only values that keep the cluster safe"
