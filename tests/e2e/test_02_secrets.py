"""After the first apply no secret stands anywhere that is not meant to hold one."""

import json
import stat

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl
from tests.support.secrets_of_cluster import exposed, texts_of

from freehold_agent.contract import paths

AUDIT_LOG = "/var/log/kubernetes/audit.log"


@pytest.fixture(scope="module")
def spent_tokens(kubectl: Kubectl) -> list[str]:
    """The public halves of the bootstrap tokens that the nodes have used."""
    requests = kubectl.json("get", "certificatesigningrequests")["items"]
    names = {request["spec"]["username"] for request in requests}
    return sorted(name.rpartition(":")[2] for name in names if name.startswith("system:bootstrap:"))


def test_no_secret_in_the_open_on_any_machine(cluster: Cluster, spent_tokens: list[str]) -> None:
    """Journal, unit files, command lines, environments and logs hold no key, no token and no credential."""
    assert len(spent_tokens) == len(cluster.nodes)
    texts = texts_of(cluster.state)
    patterns = {
        "a private key": "-----BEGIN [A-Z ]*PRIVATE KEY",
        "a bootstrap token": "|".join(rf"\b{token}\.[a-z0-9]{{16}}\b" for token in spent_tokens),
        "a service account's token": r"eyJhbGciOi[\w-]{20,}\.[\w-]{20,}",
    }
    found = [
        f"{machine}: {line}"
        for machine in cluster.nodes
        for line in exposed(cluster.lab, machine, texts, patterns)
    ]
    assert found == []


def test_the_search_for_secrets_finds_them(cluster: Cluster) -> None:
    """What is searched for is right: the same search finds each kind in a file that does hold it."""
    texts = texts_of(cluster.state)
    script = (
        "cat /etc/kubernetes/pki/apiserver.key /etc/kubernetes/scheduler.conf /etc/kubernetes/encryption.yaml"
    )
    held = cluster.run(cluster.control_plane, script)
    known = [name for name, parts in texts.items() if any(part in held for part in parts)]
    assert sorted(known) == [
        "pki/encryption-at-rest.key",
        "pki/machines/cp1/apiserver.key",
        "pki/machines/cp1/scheduler.key",
    ]


def test_bootstrap_tokens_are_gone(cluster: Cluster, kubectl: Kubectl) -> None:
    """Neither the API nor any machine keeps what let a node in."""
    secrets = kubectl.json("get", "secrets", "--all-namespaces")["items"]
    assert [secret["metadata"]["name"] for secret in secrets if secret["type"].startswith("bootstrap")] == []
    for machine in cluster.nodes:
        assert cluster.run(machine, f"test ! -e {paths.BOOTSTRAP_KUBECONFIG} && echo gone") == "gone", machine


def test_the_audit_log_is_for_root_and_without_bodies(cluster: Cluster) -> None:
    """It says who did what, but never the content of a Secret; nobody else can read it."""
    mode, _, lines = cluster.run(
        cluster.control_plane, f"stat -c '%a %U' {AUDIT_LOG}; grep '\"secrets\"' {AUDIT_LOG} | tail -n 50"
    ).partition("\n")
    assert mode == "600 root"
    events = [json.loads(line) for line in lines.splitlines()]
    assert events, "making metrics-server's certificate is in it"
    assert not any("requestObject" in event or "responseObject" in event for event in events)


def test_the_operators_files_are_the_operators(cluster: Cluster) -> None:
    """The state directory and everything in it is for its owner only."""
    for path in [cluster.state, *cluster.state.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
