import json

import pytest

from freehold_installer.config import InventoryError, loads


def attempt(component=None, arguments=(), kubelet=None):
    """Return what is said about extra arguments or kubelet fields; '' when they pass."""
    config = {}
    if component:
        config["controlPlane"] = {"distro": {"k8s": {component: {"extraArgs": list(arguments)}}}}
    if kubelet:
        config["privateNodes"] = {"kubelet": {"config": kubelet}}
    text = {
        "name": "x",
        "hosts": {"cp1": {"address": "10.0.0.1", "roles": ["control-plane"]}},
        "config": config,
    }
    try:
        loads(json.dumps(text))
    except InventoryError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("component", "argument"),
    [
        ("apiServer", "--anonymous-auth=true"),
        ("apiServer", "--anonymous-auth"),
        ("apiServer", "--authorization-mode=AlwaysAllow,Node,RBAC"),
        ("apiServer", "--authorization-mode=RBAC"),
        ("apiServer", "--authorization-config=/x"),
        ("apiServer", "--kubelet-certificate-authority="),
        ("apiServer", "--client-ca-file=/x"),
        ("apiServer", "--token-auth-file=/x"),
        ("apiServer", "--insecure-port=8080"),
        ("apiServer", "--insecure-bind-address=0.0.0.0"),
        ("apiServer", "--requestheader-allowed-names="),
        ("apiServer", "--disable-admission-plugins=NodeRestriction"),
        ("apiServer", "--enable-admission-plugins=AlwaysAdmit"),
        ("apiServer", "--encryption-provider-config=/x"),
        ("apiServer", "--tls-min-version=VersionTLS10"),
        ("apiServer", "--service-account-lookup=false"),
        ("apiServer", "--etcd-servers=http://x"),
        ("controllerManager", "--controllers=*"),
        ("controllerManager", "--cluster-signing-cert-file=/x"),
        ("controllerManager", "--use-service-account-credentials=false"),
        ("controllerManager", "--leader-elect=false"),
        ("controllerManager", "--cluster-cidr=10.0.0.0/8"),
        ("scheduler", "--authorization-always-allow-paths=/*"),
        ("scheduler", "--kubeconfig=/x"),
        ("scheduler", "--config=/x"),
    ],
)
def test_arguments_that_break_trust_are_refused(component, argument):
    """An argument that would undo a promise is refused by name, with the reason."""
    name = argument.partition("=")[0]
    assert f"{name} is refused: " in attempt(component, ["--v=2", argument])


@pytest.mark.parametrize(
    ("component", "argument"),
    [
        ("apiServer", "--anonymous-auth=false"),
        ("apiServer", "--authorization-mode=Node,RBAC,Webhook"),
        ("apiServer", "--enable-admission-plugins=NodeRestriction,AlwaysPullImages"),
        ("apiServer", "--oidc-issuer-url=https://id.example.org"),
        ("apiServer", "--tls-min-version=VersionTLS13"),
        ("apiServer", "--max-requests-inflight=800"),
        ("controllerManager", "--node-monitor-grace-period=20s"),
        ("scheduler", "--profiling=false"),
    ],
)
def test_other_arguments_pass(component, argument):
    """Arguments that harm nobody, or make things stricter, pass."""
    assert attempt(component, [argument]) == ""


@pytest.mark.parametrize(
    "argument", ["v=2", "-v=2", "--v 2", "--v=2\nExecStartPre=/bin/x", "", "--", "--V=1"]
)
def test_malformed_arguments_are_refused(argument):
    """An argument is one --name=value on one line, so that it cannot become a second one or a unit's line."""
    assert "expected one argument such as --v=2" in attempt("apiServer", [argument])


def test_an_argument_given_twice_is_refused():
    """Which of the two would win is never guessed."""
    assert "--v is given twice" in attempt("apiServer", ["--v=2", "--v=3"])


def test_arguments_are_available_as_a_mapping():
    """The renderer gets flag -> value, with `true` for a bare flag."""
    text = """\
name: x
hosts: {cp1: {address: 10.0.0.1, roles: [control-plane]}}
config: {controlPlane: {distro: {k8s: {apiServer: {extraArgs: [--v=2, --profiling, '--oidc-ca-file=']}}}}}
"""
    api_server = loads(text).config.control_plane.distro.k8s.api_server
    assert api_server.extra_args == ("--v=2", "--profiling", "--oidc-ca-file=")
    assert api_server.arguments == {"v": "2", "profiling": "true", "oidc-ca-file": ""}


@pytest.mark.parametrize(
    "field",
    [
        {"authentication": {"anonymous": {"enabled": True}}},
        {"authorization": {"mode": "AlwaysAllow"}},
        {"readOnlyPort": 10255},
        {"serverTLSBootstrap": False},
        {"rotateCertificates": False},
        {"clusterDNS": ["10.0.0.1"]},
        {"featureGates": {"RotateKubeletServerCertificate": False}},
    ],
)
def test_kubelet_fields_that_break_trust_are_refused(field):
    """A kubelet field that would undo a promise is refused by name."""
    assert next(iter(field)) in attempt(kubelet=field)


def test_other_kubelet_fields_pass():
    """Limits, eviction and the like are the operator's."""
    assert attempt(kubelet={"maxPods": 60, "evictionHard": {"memory.available": "200Mi"}}) == ""
