"""A certificate authority: P-256 keys, X.509 v3, an injected clock. Operator's side only.

It knows profiles and bytes; where keys are kept is `pki_directory`'s business. Nothing that runs on a control
plane may import this module (import contract).
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import List, Optional, Tuple, Union

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.profiles import CertificateRequest

BACKDATING = timedelta(minutes=5)
"""A machine whose clock is behind by less than this still accepts a new certificate."""

_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key (PKCS#8), both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class Authority:
    """Signs certificates with one key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(
        cls, common_name: str, now: datetime, years: int = 10, key_pem: Optional[bytes] = None
    ) -> "Authority":
        """Make a self-signed authority; with `key_pem` for a key that is already there. Raises PkiError."""
        _require_aware(now)
        key = load_key(key_pem) if key_pem else ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATING)
            .not_valid_after(now + timedelta(days=365 * years))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """Return the authority of these PEM texts. Raises PkiError when they are no pair or no authority."""
        certificate = load_certificate(certificate_pem)
        key = load_key(key_pem)
        if certificate.public_key() != key.public_key():
            raise PkiError("the authority's certificate and key do not belong together")
        if not is_authority(certificate):
            raise PkiError(
                "the certificate {} is no authority's".format(certificate.subject.rfc4514_string())
            )
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_to_pem(self._key)

    def issue(self, request: CertificateRequest, now: datetime) -> Issued:
        """Return a new key and its certificate, valid from five minutes before `now` (aware datetime).

        It ends with the authority's own at the latest. Raises PkiError when the authority is not valid now,
        or when a server's certificate would carry no name.
        """
        _require_aware(now)
        rules = request.rules
        end = min(now + rules.lifetime, self._certificate.not_valid_after_utc)
        if end <= now:
            raise PkiError(
                "the authority {} expired on {:%Y-%m-%d}; it can issue nothing".format(
                    rules.authority, self._certificate.not_valid_after_utc
                )
            )
        if "server" in rules.usages and not request.names:
            raise PkiError("a server's certificate needs names; {} has none".format(request.name))
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_id = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject_of(request))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATING, self._certificate.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGES[usage] for usage in rules.usages]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
            )
        )
        if request.names:
            names = [_general_name(name) for name in request.names]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.PEM), key_to_pem(key))


def subject_of(request: CertificateRequest) -> x509.Name:
    """Return the subject a certificate for this request carries: organizations first, as kubeadm does."""
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)
        for organization in request.rules.organizations
    ]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, request.common_name)])


def why_replace(
    certificate_pem: bytes, key_pem: bytes, request: CertificateRequest, issuer_pem: bytes, now: datetime
) -> str:
    """Return in a few words why this pair no longer serves the request; empty when it does.

    A pair is renewed with less than 30 days (or a third of its lifetime, if that is shorter) to go.
    """
    _require_aware(now)
    try:
        certificate, key = load_certificate(certificate_pem), load_key(key_pem)
    except PkiError:
        return "unreadable"
    rules = request.rules
    if certificate.public_key() != key.public_key():
        return "key and certificate differ"
    try:
        certificate.verify_directly_issued_by(load_certificate(issuer_pem))
    except (ValueError, TypeError, InvalidSignature):
        return "of another authority"
    if certificate.subject != subject_of(request):
        return "subject changed"
    if set(_names_in(certificate)) != {_general_name(name) for name in request.names}:
        return "names changed"
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if set(usages) != {_USAGES[usage] for usage in rules.usages}:
        return "usages changed"
    left = certificate.not_valid_after_utc - now
    if left < min(timedelta(days=30), rules.lifetime / 3):
        return "expires in {} days".format(max(left.days, 0)) if left > timedelta(0) else "expired"
    return ""


def new_key_pair() -> Tuple[bytes, bytes]:
    """Return (private key, public key), PEM, P-256: for what is no certificate (service accounts)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key_to_pem(key), public_pem(key)


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half as PEM (SubjectPublicKeyInfo)."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return an unencrypted PKCS#8 PEM: what every component reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key. Raises PkiError for anything but an elliptic-curve key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise PkiError("not a readable private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("the private key is not of the kind freehold makes (P-256)")
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate. Raises PkiError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise PkiError("not a readable certificate") from error


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether the certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names_in(certificate: x509.Certificate) -> List[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _general_name(name: str) -> Union[x509.IPAddress, x509.DNSName]:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _require_aware(now: datetime) -> None:
    if now.tzinfo is None:
        raise ValueError("naive datetime: certificates are dated in UTC")
