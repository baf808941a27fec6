"""The operator's directory of keys: idempotent, complete after any interruption, closed to others."""

import json
import os
import ssl
import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from freehold_bootstrap.authority import Authority, load_certificate
from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import (
    OPERATOR_REQUESTS,
    CertificateRequest,
    apiserver_names,
    control_plane_requests,
)

NOW = datetime.fromisoformat("2026-11-23T08:00:00+00:00")
REQUESTS = (
    *control_plane_requests("cp1", ["10.0.0.2"], ["10.96.0.0/12"], "cluster.local"),
    *OPERATOR_REQUESTS,
    CertificateRequest("metrics-server", ("metrics-server.kube-system.svc",)),
)


@pytest.fixture
def pki(tmp_path: Path) -> PkiDirectory:
    return PkiDirectory(str(tmp_path / "state" / "pki"))


def contents(pki: PkiDirectory) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path(pki.path).rglob("*") if p.is_file()}


def test_missing_lists_everything_and_writes_nothing(pki: PkiDirectory) -> None:
    """Asking a directory that does not exist names all there is to issue and makes nothing."""
    names = pki.missing(REQUESTS, NOW)
    assert names[:5] == ["ca", "front-proxy-ca", "etcd/ca", "sa", "encryption-at-rest"]
    assert {"machines/cp1/etcd/server", "admin"} <= set(names)
    assert not os.path.exists(pki.path)


def test_ensure_twice_changes_nothing(pki: PkiDirectory) -> None:
    """The second call issues nothing and leaves every byte as it was."""
    assert pki.ensure(REQUESTS, NOW)
    before = contents(pki)
    assert pki.ensure(REQUESTS, NOW + timedelta(days=300)) == []
    assert contents(pki) == before


def test_files_are_closed_to_others(pki: PkiDirectory) -> None:
    """No file or directory of the PKI is open to group or others, whatever the umask was."""
    previous = os.umask(0)
    try:
        pki.ensure(REQUESTS, NOW)
    finally:
        os.umask(previous)
    for path in [Path(pki.path), *Path(pki.path).rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CertificateRequest("apiserver", ("cp1", "10.0.0.9"), "cp1"), "names changed"),
        (CertificateRequest("admin"), ""),
    ],
)
def test_changed_names_are_reissued(pki: PkiDirectory, request_: CertificateRequest, reason: str) -> None:
    """Other names than those asked for are a reason to issue again, the same are none."""
    pki.ensure(REQUESTS, NOW)
    assert pki.reasons([request_], NOW).get(request_.name, "") == reason


def test_renewal_begins_30_days_before_the_end(pki: PkiDirectory) -> None:
    """With 30 days to go nothing happens, a second later all leaves are issued again, no authority is."""
    pki.ensure(REQUESTS, NOW)
    edge = NOW + timedelta(days=335)
    assert pki.missing(REQUESTS, edge) == []
    assert pki.missing(REQUESTS, edge + timedelta(seconds=1)) == [request.name for request in REQUESTS]


def test_a_pair_torn_by_a_kill_is_replaced(pki: PkiDirectory) -> None:
    """A new key beside an old certificate (killed between the two writes) is seen and mended."""
    pki.ensure(REQUESTS, NOW)
    other = pki.authority().issue(CertificateRequest("admin"), NOW)
    Path(pki.path, "admin.key").write_bytes(other.key_pem)
    assert pki.reasons(REQUESTS, NOW) == {"admin": "key and certificate differ"}
    assert pki.ensure(REQUESTS, NOW) == ["admin"]
    assert pki.missing(REQUESTS, NOW) == []


def test_creation_of_an_authority_resumes_with_its_key(pki: PkiDirectory) -> None:
    """A CA key whose certificate was never written keeps being the CA's key."""
    pki.ensure([], NOW)
    key = pki.read("ca.key")
    os.unlink(os.path.join(pki.path, "ca.crt"))
    pki.ensure([], NOW)
    assert pki.read("ca.key") == key
    assert pki.authority().certificate_pem == pki.read("ca.crt")


def test_a_new_authority_means_new_certificates(pki: PkiDirectory) -> None:
    """Leaves of another authority of the same name are seen for what they are."""
    pki.ensure(REQUESTS, NOW)
    other = Authority.create("kubernetes", NOW)
    Path(pki.path, "ca.crt").write_bytes(other.certificate_pem)
    Path(pki.path, "ca.key").write_bytes(other.key_pem)
    assert pki.reasons([CertificateRequest("admin")], NOW) == {"admin": "of another authority"}


def test_a_damaged_authority_is_an_error_not_a_new_one(pki: PkiDirectory) -> None:
    """No authority is replaced on the side: a broken pair stops everything."""
    pki.ensure(REQUESTS, NOW)
    Path(pki.path, "ca.key").write_bytes(Authority.create("kubernetes", NOW).key_pem)
    before = contents(pki)
    with pytest.raises(PkiError, match="do not belong together"):
        pki.ensure(REQUESTS, NOW)
    assert contents(pki) == before


def test_without_the_authority_key_certificates_in_use_go_on(pki: PkiDirectory) -> None:
    """A CA whose key is kept elsewhere is complete; only issuing needs the key, and says so."""
    pki.ensure(REQUESTS, NOW)
    os.unlink(os.path.join(pki.path, "ca.key"))
    assert pki.missing(REQUESTS, NOW) == []
    with pytest.raises(PkiError, match=r"no ca\.key"):
        pki.ensure(REQUESTS, NOW + timedelta(days=350))


def test_short_lived_credential_leaves_no_file(pki: PkiDirectory) -> None:
    """The first credential of all lives ten minutes, is never stored and its file ends with the block."""
    request = CertificateRequest("installer-bootstrap")
    pki.ensure([], NOW)
    with pki.short_lived(request, NOW) as path:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        certificate = load_certificate(Path(path).read_bytes())
    assert certificate.not_valid_after_utc == NOW + timedelta(minutes=10)
    assert not os.path.exists(path)
    with pytest.raises(PkiError, match="never stored"):
        pki.ensure([request], NOW)


def test_no_stored_certificate_is_a_superuser(pki: PkiDirectory) -> None:
    """`system:masters` cannot be taken back, so nothing on disk carries it."""
    pki.ensure(REQUESTS, NOW)
    for path in Path(pki.path).rglob("*.crt"):
        assert "system:masters" not in load_certificate(path.read_bytes()).subject.rfc4514_string(), path


def test_encryption_configuration_has_one_secretbox_key_of_32_bytes(pki: PkiDirectory) -> None:
    """Secrets are encrypted from the first write, and plain ones are not accepted either."""
    pki.ensure([], NOW)
    (resource,) = json.loads(pki.encryption_configuration())["resources"]
    assert resource["resources"] == ["secrets"]
    (provider,) = resource["providers"]
    assert list(provider) == ["secretbox"]


def test_apiserver_names_cover_service_address_and_local_endpoint() -> None:
    """The API server answers to the Service's first address and to the nodes' local address, IPv6 too."""
    names = apiserver_names(
        "cp1", ["10.0.0.2", "fd00::2"], ["10.96.0.0/12", "fd01::/108"], "example.org", ["api"]
    )
    for name in (
        "10.96.0.1",
        "fd01::1",
        "169.254.200.1",
        "kubernetes.default.svc.example.org",
        "api",
        "fd00::2",
    ):
        assert name in names


def test_python_trusts_the_chain(pki: PkiDirectory) -> None:
    """Every leaf loads as a TLS pair beside its authority."""
    pki.ensure(REQUESTS, NOW)
    for request in REQUESTS:
        context = ssl.create_default_context(cadata=pki.ca_pem(request.rules.authority))
        context.load_cert_chain(pki.certificate_path(request), pki.key_path(request))
        leaf = load_certificate(pki.issued(request).certificate_pem)
        identifiers = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        authority = load_certificate(pki.ca_pem(request.rules.authority).encode())
        subject_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert identifiers.key_identifier == subject_id.digest


def test_admin_kubeconfig_embeds_everything(pki: PkiDirectory) -> None:
    """The operator's kubeconfig needs no other file and names user, cluster and context as kubeadm does."""
    pki.ensure(REQUESTS, NOW)
    config = pki.kubeconfig("lab", "https://10.0.0.2:6443", CertificateRequest("admin"))
    assert config["current-context"] == "kubernetes-admin@lab"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
