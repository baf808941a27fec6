"""Requests for certificates as kubelets make them, and as attackers might, made with `cryptography`."""

import ipaddress
from functools import cache
from typing import Optional, Sequence, Tuple, Union

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

KIND_O = NameOID.ORGANIZATION_NAME
KIND_CN = NameOID.COMMON_NAME


@cache
def a_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """Return a key; the same number gives the same key within one run."""
    return ec.generate_private_key(ec.SECP256R1())


def a_request(
    common_name: Optional[str] = "system:node:w1",
    organizations: Sequence[str] = ("system:nodes",),
    sans: Sequence[Union[str, x509.GeneralName]] = (),
    *,
    key: int = 0,
    more_subject: Sequence[Tuple[x509.ObjectIdentifier, str]] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    encoding: serialization.Encoding = serialization.Encoding.PEM,
) -> bytes:
    """Return a signed PKCS#10 request; a SAN in text is an address when it reads as one, else a DNS name."""
    subject = [x509.NameAttribute(KIND_O, organization) for organization in organizations]
    subject += [x509.NameAttribute(kind, value) for kind, value in more_subject]
    if common_name is not None:
        subject.append(x509.NameAttribute(KIND_CN, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if sans:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name(san) for san in sans]), critical=False
        )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(a_key(key), hashes.SHA256()).public_bytes(encoding)


def key_digest(key: int = 0) -> str:
    """Return the hex SHA-256 of the key's DER SubjectPublicKeyInfo."""
    der = (
        a_key(key)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def _name(san: Union[str, x509.GeneralName]) -> x509.GeneralName:
    if isinstance(san, x509.GeneralName):
        return san
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)
