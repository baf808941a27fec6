"""Every certificate does its one job in a real TLS handshake with the names Kubernetes uses, and no other."""

import socket
import ssl
import threading
from typing import Any

import pytest

from freehold_bootstrap.authority import Authority
from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest


def request(profile: str) -> CertificateRequest:
    return CertificateRequest(profile, (), "cp1")


def handshake(pki: PkiDirectory, server: str, client: str, name: str, authority: str = "ca") -> str:
    """Return the CN the server sees. Both sides verify against the authority; raises ssl.SSLError."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(pki.certificate_path(request(server)), pki.key_path(request(server)))
    server_side.load_verify_locations(cadata=pki.ca_pem(authority))
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.load_cert_chain(pki.certificate_path(request(client)), pki.key_path(request(client)))
    client_side.load_verify_locations(cadata=pki.ca_pem(authority))
    # With TLS 1.2 a client learns of its refusal in the handshake already.
    client_side.maximum_version = ssl.TLSVersion.TLSv1_2
    one, other = socket.socketpair()
    seen: Any = {}

    def serve() -> None:
        try:
            with server_side.wrap_socket(one, server_side=True) as secure:
                seen.update(secure.getpeercert() or {})
        except OSError:
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_side.wrap_socket(other, server_hostname=name):
            pass
    finally:
        other.close()
        thread.join(10)
    return "".join(value for part in seen["subject"] for key, value in part if key == "commonName")


@pytest.mark.parametrize(
    "name",
    [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
        "10.0.0.2",
        "127.0.0.1",
        "169.254.200.1",
        "cp1",
        "localhost",
    ],
)
def test_the_api_server_answers_to_all_its_names(cluster_pki: PkiDirectory, name: str) -> None:
    """Pods, nodes and the control plane itself reach it by different names; all are in the certificate."""
    assert handshake(cluster_pki, "apiserver", "scheduler", name) == "system:kube-scheduler"


@pytest.mark.parametrize(
    ("client", "subject"),
    [
        ("controller-manager", "system:kube-controller-manager"),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client"),
        ("freehold-join-client", "freehold:join"),
        ("freehold-controller", "freehold:controller"),
        ("coredns", "freehold:coredns"),
    ],
)
def test_clients_are_who_kubernetes_expects(cluster_pki: PkiDirectory, client: str, subject: str) -> None:
    """The CN that the API server sees is the user that RBAC names."""
    assert handshake(cluster_pki, "apiserver", client, "kubernetes") == subject


@pytest.mark.parametrize("client", ["apiserver-etcd-client", "etcd/peer", "etcd/healthcheck-client"])
def test_etcd_talks_to_its_own(cluster_pki: PkiDirectory, client: str) -> None:
    """Members, the API server and health checks speak to etcd under etcd's own authority."""
    assert handshake(cluster_pki, "etcd/server", client, "10.0.0.2", "etcd/ca")


@pytest.mark.parametrize(
    ("server", "client", "authority"),
    [
        ("etcd/server", "scheduler", "etcd/ca"),
        ("etcd/server", "freehold-join-client", "etcd/ca"),
        ("apiserver", "apiserver-etcd-client", "ca"),
        ("apiserver", "front-proxy-client", "ca"),
        ("apiserver", "freehold-artifacts", "ca"),
        ("freehold-join", "freehold-join", "ca"),
    ],
)
def test_no_certificate_serves_another_purpose(
    cluster_pki: PkiDirectory, server: str, client: str, authority: str
) -> None:
    """Another authority's certificate, or a server's used as a client's, ends the handshake."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(cluster_pki, server, client, "localhost", authority)


def test_a_certificate_is_for_its_machine(cluster_pki: PkiDirectory) -> None:
    """etcd of another machine, or another address, is not this one's."""
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(cluster_pki, "etcd/server", "etcd/peer", "10.0.0.3", "etcd/ca")


def test_requests_that_make_no_sense_are_refused(cluster_pki: PkiDirectory) -> None:
    """A server without a name, a machine's certificate without a machine, a profile that does not exist."""
    from datetime import datetime

    now = datetime.fromisoformat("2026-11-23T08:00:00+00:00")
    authority = Authority.create("kubernetes", now)
    for bad, words in (
        (CertificateRequest("apiserver"), "needs names"),
        (CertificateRequest("etcd/peer", ("x",)), "always for one machine"),
        (CertificateRequest("no-such"), "no certificate profile"),
    ):
        with pytest.raises(PkiError, match=words):
            authority.issue(bad, now)
    with pytest.raises(ValueError, match="naive"):
        authority.issue(CertificateRequest("admin"), now.replace(tzinfo=None))
    with pytest.raises(PkiError, match="expired"):
        authority.issue(CertificateRequest("admin"), now.replace(year=2040))
