"""Secrets: encrypted where they lie, in no log, behind a store that answers only its own clients."""

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl

ETCD_STATE = "/var/lib/etcd"
AUDIT = "/var/log/kubernetes"
ENCRYPTED = b"k8s:enc:"


@pytest.fixture
def password(here: Kubectl) -> str:
    """A password in a Secret called `known`, and in plain sight in a ConfigMap called `plain` its reverse."""
    word = "swordfish-" + secrets.token_hex(12)
    here("create", "secret", "generic", "known", f"--from-literal=password={word}")
    here("create", "configmap", "plain", f"--from-literal=word={word[::-1]}")
    return word


def test_a_secret_is_encrypted_at_rest(cluster: Cluster, here: Kubectl, password: str) -> None:
    """The raw bytes of a known Secret in etcd are encrypted; a ConfigMap's show that the check sees plain ones."""
    stored = _etcd(cluster, "get", "--print-value-only", f"/registry/secrets/{here.namespace}/known")
    assert stored.startswith(ENCRYPTED)
    assert password.encode() not in stored
    plain = _etcd(cluster, "get", "--print-value-only", f"/registry/configmaps/{here.namespace}/plain")
    assert password[::-1].encode() in plain
    encoded = base64.b64decode(here.json("get", "secret", "known")["data"]["password"])
    assert encoded.decode() == password


def test_every_secret_is_encrypted(cluster: Cluster) -> None:
    """No Secret of the cluster lies in etcd in plain."""
    answer = json.loads(_etcd(cluster, "get", "--prefix", "/registry/secrets/", "--write-out=json"))
    assert answer["kvs"]
    for pair in answer["kvs"]:
        key, value = (base64.b64decode(pair[name]) for name in ("key", "value"))
        assert value.startswith(ENCRYPTED), key.decode()


def test_no_file_of_etcd_holds_it(cluster: Cluster, password: str) -> None:
    """On the disk of etcd a Secret's value is found neither in plain nor in base64."""
    machine = cluster.control_plane
    assert _files_with(cluster, machine, password[::-1], ETCD_STATE), (
        "the check itself finds a ConfigMap's word"
    )
    encoded = base64.b64encode(password.encode()).decode()
    for word in (password, encoded.rstrip("=")[:-1]):
        assert _files_with(cluster, machine, word, ETCD_STATE) == []


def test_etcd_answers_its_own_clients_only(cluster: Cluster) -> None:
    """etcd takes no connection without a client certificate of its own CA, not even one of the cluster's."""
    pki, address = cluster.state / "pki", cluster.address(cluster.control_plane)
    for credential in (None, "admin"):
        trusting = ssl.create_default_context(cafile=str(pki / "etcd" / "ca.crt"))
        if credential:
            trusting.load_cert_chain(pki / f"{credential}.crt", pki / f"{credential}.key")
        for port in (2379, 2380):
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                _ask(trusting, address, port)


def test_the_audit_log(cluster: Cluster, here: Kubectl, password: str) -> None:
    """The audit log says who made a Secret and who read it, and never what is in it."""
    here("get", "secret", "known")
    token = here("create", "token", "default").stdout.strip()
    machine = cluster.control_plane
    lines = cluster.run(machine, f'grep -h \'"namespace":"{here.namespace}"\' {AUDIT}/*.log').splitlines()
    events = [json.loads(line) for line in lines]
    seen = {
        (event["verb"], event["user"]["username"])
        for event in events
        if event["objectRef"].get("resource") == "secrets" and event["objectRef"].get("name") == "known"
    }
    assert {verb for verb, _ in seen} >= {"create", "get"}
    assert len({user for _, user in seen}) == 1
    assert all(
        event["level"] == "Metadata" for event in events if event["objectRef"]["resource"] == "secrets"
    )
    encoded = base64.b64encode(password.encode()).decode()
    for word in (password, encoded.rstrip("=")[:-1], token, token.split(".")[2]):
        assert _files_with(cluster, machine, word, AUDIT) == []
    assert cluster.run(machine, f"find {AUDIT} -perm /077") == "", "only root reads it"


def test_no_secret_in_the_journals(cluster: Cluster, password: str) -> None:
    """No journal of any machine and no file of ours outside a pod holds the Secret's value."""
    encoded = base64.b64encode(password.encode()).decode()[:20]
    for machine in cluster.nodes:
        found = cluster.run(
            machine, f"journalctl --no-pager --boot | grep -cE '{password}|{encoded}' || true"
        )
        assert found == "0", machine


def test_no_key_in_a_command_line(cluster: Cluster) -> None:
    """No process shows a token or key in its arguments or environment, and no unit file holds one."""
    words = "BEGIN [A-Z ]*PRIVATE KEY|--token[= ]|[a-z0-9]{6}\\.[a-z0-9]{16}([^a-z0-9]|$)"
    for machine in cluster.nodes:
        script = (
            "for process in /proc/[0-9]*; do cat $process/cmdline $process/environ 2>/dev/null "
            f"| tr '\\0' '\\n'; done | grep -E -- '{words}' | grep -v 'BEGIN .A-Z' || true"
        )
        assert cluster.run(machine, script) == "", machine
        units = "/etc/systemd/system/*.service"
        assert cluster.run(machine, f"grep -lE -- '{words}' {units} || true") == "", machine


def _etcd(cluster: Cluster, *arguments: str) -> bytes:
    """Run etcdctl of the bundle on this host with etcd's own health-check credential."""
    pki = cluster.state / "pki"
    client = pki / "machines" / cluster.control_plane / "etcd" / "healthcheck-client"
    done = subprocess.run(
        [
            cluster.bundle.file("bin/etcdctl"),
            f"--endpoints=https://{cluster.address(cluster.control_plane)}:2379",
            f"--cacert={pki / 'etcd' / 'ca.crt'}",
            f"--cert={client}.crt",
            f"--key={client}.key",
            "--dial-timeout=30s",
            "--command-timeout=30s",
            *arguments,
        ],
        capture_output=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def _files_with(cluster: Cluster, machine: str, word: str, place: str) -> list[str]:
    """Return the files below a place that hold a word; the word is not shown to the machine's process list."""
    script = f"grep --recursive --text --files-with-matches --fixed-strings --file=- {place} || true"
    return cluster.run(machine, script, stdin=word + "\n").splitlines()


def _ask(context: ssl.SSLContext, address: str, port: int) -> None:
    with (
        socket.create_connection((address, port), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname=address) as secured,
    ):
        secured.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        if not secured.recv(100):
            raise ConnectionResetError("closed")
