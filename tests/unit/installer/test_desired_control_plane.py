"""The flags and files of a control plane: nothing insecure, everything that must be on is on."""

import configparser
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.a_control_plane import INVENTORY, WITHOUT_NODE, a_context

from freehold_agent.contract import paths
from freehold_agent.contract.resources import Directory, File, Resource, Unit, User
from freehold_installer.config import loads
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.desired.control_plane import AUDIT_POLICY, AUTHENTICATION, ENCRYPTION

UNITS = "/etc/systemd/system/"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
SERVICES = ("freehold-join", "freehold-artifacts", "freehold-controller")


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    return control_plane_resources(a_context())


def files(resources: list[Resource]) -> dict[str, File]:
    return {resource.path: resource for resource in resources if isinstance(resource, File)}


def unit_file(resources: list[Resource], name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(files(resources)[f"{UNITS}{name}.service"].content.decode())
    return parser


def flags(resources: list[Resource], name: str) -> dict[str, str]:
    """Return the arguments of a program's unit as `name -> value`."""
    words = shlex.split(unit_file(resources, name)["Service"]["ExecStart"])
    return dict(word[2:].partition("=")[::2] for word in words[1:] if word.startswith("--"))


def test_a_control_plane_that_is_no_node_keeps_routes_to_pods() -> None:
    """One more unit: as a user of its own with the one right it needs, and the cluster's pod networks."""
    resources = control_plane_resources(a_context(loads(WITHOUT_NODE)))
    unit = unit_file(resources, "freehold-pod-routes")["Service"]
    assert unit["User"] == "freehold-pod-routes"
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    settings = json.loads(files(resources)["/etc/freehold/pod-routes.json"].content)
    assert settings["pod_cidrs"] == ["10.244.0.0/16"]
    assert settings["certificate"] in files(resources)
    dns = json.loads(files(resources)["/etc/freehold/controller.json"].content)["dns"]
    assert [server["node"] for server in dns] == [""]


def test_dns_answers_pods_its_own_network_and_listed_nodes() -> None:
    """No other machine of the inventory stands in the Corefile: one more changes no control plane. Neighbours at
    another address of its interface are strangers."""
    more = INVENTORY.replace("}}", "}, w1: {address: 10.9.9.9, roles: [worker]}}")
    interfaces = [{"name": "eth0", "addresses": ["203.0.113.5/24", "10.73.0.11/24"]}]
    resources = control_plane_resources(a_context(loads(more), interfaces=interfaces))
    corefile = files(resources)["/etc/freehold/coredns/Corefile"].content.decode()
    allowed = "10.244.0.0/16 10.73.0.0/24 10.73.0.11/32 127.0.0.0/8"
    acl = ["acl {", f"allow net {allowed}", f"import {paths.DNS_CLIENTS}*", "block", "}"]
    assert "\n".join(acl) in "\n".join(line.strip() for line in corefile.splitlines())
    settings = json.loads(files(resources)["/etc/freehold/controller.json"].content)
    assert settings["dns_clients"] == {"path": paths.DNS_CLIENTS, "networks": allowed.split()}
    directory = Directory(paths.CONTROLLER_STATE, 0o755, "freehold-controller", "freehold-controller")
    assert directory in resources


def test_a_control_plane_that_is_a_node_keeps_no_routes(resources: list[Resource]) -> None:
    """flannel does."""
    assert not any("pod-routes" in path for path in files(resources))


def test_the_api_server_needs_no_service_address(resources: list[Resource]) -> None:
    """Webhooks and aggregated APIs are reached at their pods, so no kube-proxy is needed beside it."""
    assert flags(resources, "kube-apiserver")["enable-aggregator-routing"] == "true"


def test_nothing_is_insecure(resources: list[Resource]) -> None:
    """No program listens without TLS, trusts without looking, or lets everybody do everything."""
    for name in PROGRAMS:
        text = files(resources)[f"{UNITS}{name}.service"].content.decode()
        for word in ("insecure", "skip-tls", "AlwaysAllow", "anonymous-auth=true", "token-auth-file"):
            assert word not in text, name
    api = flags(resources, "kube-apiserver")
    assert api["authorization-mode"] == "Node,RBAC"
    assert "NodeRestriction" in api["enable-admission-plugins"].split(",")
    assert api["profiling"] == "false"
    assert flags(resources, "kube-controller-manager")["profiling"] == "false"
    assert flags(resources, "kube-scheduler")["profiling"] == "false"


def test_only_health_is_told_to_strangers(resources: list[Resource]) -> None:
    """Anonymous requests reach three paths and nothing else."""
    assert flags(resources, "kube-apiserver")["authentication-config"] == AUTHENTICATION
    config = yaml.safe_load(files(resources)[AUTHENTICATION].content)
    assert config["anonymous"]["enabled"] is True
    assert {entry["path"] for entry in config["anonymous"]["conditions"]} == {"/livez", "/readyz", "/healthz"}


def test_secrets_are_encrypted_at_rest(resources: list[Resource]) -> None:
    """The API server has an encryption configuration, which is itself a secret."""
    assert flags(resources, "kube-apiserver")["encryption-provider-config"] == ENCRYPTION
    file = files(resources)[ENCRYPTION]
    assert (file.secret, file.mode, file.owner) == (True, 0o600, "root")


def test_what_is_done_is_audited(resources: list[Resource]) -> None:
    """The audit log rotates, lies where only root reads, and never holds bodies."""
    api = flags(resources, "kube-apiserver")
    assert api["audit-policy-file"] == AUDIT_POLICY
    assert all(int(api[f"audit-log-{name}"]) > 0 for name in ("maxage", "maxbackup", "maxsize"))
    directory = str(Path(api["audit-log-path"]).parent)
    assert Directory(directory, 0o700) in resources
    policy = yaml.safe_load(files(resources)[AUDIT_POLICY].content)
    assert {rule["level"] for rule in policy["rules"]} <= {"None", "Metadata"}
    assert policy["rules"][-1]["level"] == "Metadata", "whatever no rule names is audited"
    assert "resources" not in policy["rules"][-1]


def test_kubelets_are_verified(resources: list[Resource]) -> None:
    """The API server checks serving certificates of kubelets and shows its own to them."""
    api = flags(resources, "kube-apiserver")
    assert api["kubelet-certificate-authority"] == paths.CLUSTER_CA
    assert api["kubelet-client-certificate"].endswith("apiserver-kubelet-client.crt")


def test_etcd_trusts_only_its_own_authority(resources: list[Resource]) -> None:
    """Both ports ask for certificates of etcd's own CA; only metrics are plain, on loopback."""
    etcd = flags(resources, "etcd")
    assert (etcd["client-cert-auth"], etcd["peer-client-cert-auth"]) == ("true", "true")
    assert etcd["trusted-ca-file"] == etcd["peer-trusted-ca-file"] == f"{paths.PKI}/etcd/ca.crt"
    for name in ("listen-client-urls", "listen-peer-urls", "advertise-client-urls", "initial-cluster"):
        assert "http://" not in etcd[name], name
    assert etcd["listen-metrics-urls"].startswith("http://127.0.0.1:")
    assert flags(resources, "kube-apiserver")["etcd-servers"].startswith("https://")


def test_requests_of_kubelets_are_judged_by_us_alone(resources: list[Resource]) -> None:
    """The built-in approver is off, the signer is on, and certificates live 7 days."""
    manager = flags(resources, "kube-controller-manager")
    assert "-certificatesigningrequest-approving-controller" in manager["controllers"].split(",")
    assert "*" in manager["controllers"].split(",")
    assert manager["cluster-signing-key-file"].endswith("/ca.key")
    assert manager["cluster-signing-duration"] == "168h"
    assert manager["use-service-account-credentials"] == "true"


def test_local_components_listen_on_loopback(resources: list[Resource]) -> None:
    """Controller manager and scheduler are for nobody outside the machine."""
    for name in ("kube-controller-manager", "kube-scheduler"):
        assert flags(resources, name)["bind-address"] == "127.0.0.1", name


def test_every_file_with_a_key_is_secret(resources: list[Resource]) -> None:
    """Keys, kubeconfigs and the encryption configuration have mode 0600; certificates may be read."""
    for path, file in files(resources).items():
        if path.endswith((".key", ".conf", "encryption.yaml")) and path.startswith(
            ("/etc/kubernetes", "/etc/freehold")
        ):
            assert (file.secret, file.mode) == (True, 0o600), path
        if path.endswith((".crt", ".pub")):
            assert (file.secret, file.mode) == (False, 0o644), path


def test_the_ca_key_is_roots(resources: list[Resource]) -> None:
    """The cluster's signing key is for the controller manager only; the other authorities' keys stay away."""
    found = files(resources)
    assert found[f"{paths.PKI}/ca.key"].owner == "root"
    assert f"{paths.PKI}/front-proxy-ca.key" not in found
    assert f"{paths.PKI}/etcd/ca.key" not in found


def test_each_service_runs_as_itself(resources: list[Resource]) -> None:
    """etcd, CoreDNS and our three services have users of their own, own their keys and gain no privileges."""
    users = {resource.name for resource in resources if isinstance(resource, User)}
    for name in ("etcd", "coredns", *SERVICES):
        section = unit_file(resources, name)["Service"]
        assert section["User"] == name
        assert section["NoNewPrivileges"] == "yes"
        assert name in users
    owners = {file.owner for path, file in files(resources).items() if path.startswith("/etc/freehold/join/")}
    assert owners == {"root", "freehold-join"}


def test_units_of_a_control_plane_share_its_slice(resources: list[Resource]) -> None:
    """One slice carries the limits; everything comes back after a failure, within a second, for ever."""
    for unit in (resource.name for resource in resources if isinstance(resource, Unit)):
        parsed = unit_file(resources, unit.removesuffix(".service"))
        assert parsed["Service"]["Slice"] == paths.CONTROL_SLICE, unit
        assert parsed["Unit"]["StartLimitIntervalSec"] == "0", unit
        assert parsed["Service"]["Restart"] in ("always", "on-failure"), unit
        assert parsed["Install"]["WantedBy"] == "multi-user.target", unit


def test_a_plan_before_the_first_apply_invents_no_key() -> None:
    """Without issued keys the resources are the same ones, with placeholders instead of bytes."""
    context = a_context()
    unissued = control_plane_resources(
        type(context)(context.inventory, context.host, context.manifest, context.facts, {})
    )
    assert [(r.kind, r.name) for r in unissued] == [
        (r.kind, r.name) for r in control_plane_resources(context)
    ]
    assert not any(b"PRIVATE KEY" in file.content for file in files(unissued).values())


@pytest.mark.parametrize(
    ("config", "program", "flag", "value"),
    [
        (
            {"networking": {"podCIDR": "10.1.0.0/16"}},
            "kube-controller-manager",
            "cluster-cidr",
            "10.1.0.0/16",
        ),
        (
            {"networking": {"services": {"cidr": "10.9.0.0/16"}}},
            "kube-apiserver",
            "service-cluster-ip-range",
            "10.9.0.0/16",
        ),
        ({"networking": {"nodeCIDRMaskSize": 25}}, "kube-controller-manager", "node-cidr-mask-size", "25"),
        (
            {"networking": {"advanced": {"clusterDomain": "lab.internal"}}},
            "kube-apiserver",
            "service-account-issuer",
            "https://kubernetes.default.svc.lab.internal",
        ),
        (
            {"controlPlane": {"distro": {"k8s": {"scheduler": {"extraArgs": ["--v=4"]}}}}},
            "kube-scheduler",
            "v",
            "4",
        ),
    ],
)
def test_settings_reach_the_flags(config: dict[str, Any], program: str, flag: str, value: str) -> None:
    """What an inventory says arrives on the command line of the program that must know it."""
    data = yaml.safe_load(INVENTORY)
    inventory = loads(yaml.safe_dump({**data, "config": config}))
    assert flags(control_plane_resources(a_context(inventory)), program)[flag] == value
