"""Read a PKCS#10 request for a certificate, strictly, into the few facts that the rules judge.

Two readers of one request that disagree are how a wrong certificate gets signed: the API server and the
signer read it with Go's library, we with pyasn1. So everything here must be the one canonical encoding
(re-encoding gives the same bytes), and whatever a kubelet never asks for is refused instead of interpreted.
Proof of possession is not checked here: the API server verifies the request's own signature before it stores
it. Must not know the cluster. pyasn1 is imported by the leader only: it is a good part of its memory.
"""

import base64
import binascii
import hashlib
import ipaddress
import re
import threading
from dataclasses import dataclass
from typing import Any, List, Tuple

MAX_PEM_BYTES = 16 * 1024
"""A kubelet's request has 500 bytes, one with an RSA-4096 key and fifty names less than 4 kB."""

_LOADING = threading.Lock()
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE REQUEST-----\r?\n"
    rb"((?:[A-Za-z0-9+/=]{1,76}\r?\n)+)"
    rb"-----END CERTIFICATE REQUEST-----(?:\r?\n)?\Z"
)
_COMMON_NAME = "2.5.4.3"
_ORGANIZATION = "2.5.4.10"
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_SUBJECT_ALT_NAME = "2.5.29.17"
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+\Z")


class RequestError(ValueError):
    """Not a request that a certificate may be signed for; the message says why and names no secret."""


@dataclass(frozen=True)
class Parsed:
    """What a request for a certificate asks for."""

    common_name: str
    organizations: Tuple[str, ...]
    key_sha256: str
    """Lower-case hex digest of the DER SubjectPublicKeyInfo."""
    dns_names: Tuple[str, ...] = ()
    addresses: Tuple[str, ...] = ()
    """IPv4 or IPv6, in canonical text."""
    other_names: Tuple[str, ...] = ()
    """Kinds of subject alternative names that are neither (`rfc822Name`, ...)."""
    other_extensions: Tuple[str, ...] = ()
    """Object identifiers of requested extensions beside subjectAltName."""


def load() -> None:
    """Import what parsing needs (0.1 s, 6 MB), so that the first node does not wait for it.

    One thread at a time: two that import modules which import each other may be given half of one, and honest
    requests were denied by what it lacked.
    """
    with _LOADING:
        import pyasn1.codec.der.decoder
        import pyasn1.codec.der.encoder
        import pyasn1.type.char  # noqa: F401
        import pyasn1_modules.rfc2986
        import pyasn1_modules.rfc5280  # noqa: F401


def parse(pem: bytes) -> Parsed:
    """Return what the one PEM request asks for. Raises RequestError for anything but exactly one."""
    if len(pem) > MAX_PEM_BYTES:
        raise RequestError("the request is larger than {} bytes".format(MAX_PEM_BYTES))
    match = _PEM.match(pem)
    if match is None:
        raise RequestError("not one PEM block of type CERTIFICATE REQUEST")
    try:
        der = base64.b64decode(match.group(1).replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise RequestError("the PEM block is not base64") from error
    return parse_der(der)


def parse_der(der: bytes) -> Parsed:
    """Return what the DER request asks for. Raises RequestError."""
    load()
    from pyasn1_modules import rfc2986

    request = _decode(der, rfc2986.CertificationRequest(), "request")
    info = request["certificationRequestInfo"]
    if int(info["version"]) != 0:
        raise RequestError("the request has version {}, not 0".format(int(info["version"])))
    common_name, organizations = _subject(info["subject"])
    dns_names, addresses, other_names, other_extensions = _extensions(info["attributes"])
    return Parsed(
        common_name=common_name,
        organizations=organizations,
        key_sha256=hashlib.sha256(_encode(info["subjectPKInfo"])).hexdigest(),
        dns_names=dns_names,
        addresses=addresses,
        other_names=other_names,
        other_extensions=other_extensions,
    )


def _decode(der: bytes, spec: Any, what: str) -> Any:
    """Return the decoded value; refuses trailing bytes and every encoding but the canonical one."""
    from pyasn1.codec.der import decoder

    try:
        value, rest = decoder.decode(der, asn1Spec=spec)
        again = b"" if rest else _encode(value)
    except Exception as error:
        # Hostile bytes: whatever a foreign decoder trips over is a refusal.
        raise RequestError("the {} is not DER ({})".format(what, type(error).__name__)) from error
    if rest:
        raise RequestError("bytes follow the {}".format(what))
    if again != der:
        raise RequestError("the {} is not in canonical DER".format(what))
    return value


def _encode(value: Any) -> bytes:
    from pyasn1.codec.der import encoder

    return bytes(encoder.encode(value))


def _subject(name: Any) -> Tuple[str, Tuple[str, ...]]:
    common_names: List[str] = []
    organizations: List[str] = []
    for relative in name["rdnSequence"]:
        for attribute in relative:
            kind = str(attribute["type"])
            if kind == _COMMON_NAME:
                common_names.append(_directory_string(bytes(attribute["value"])))
            elif kind == _ORGANIZATION:
                organizations.append(_directory_string(bytes(attribute["value"])))
            else:
                raise RequestError("the subject has attribute {} beside CN and O".format(kind))
    if len(common_names) != 1:
        raise RequestError("the subject has {} common names, not one".format(len(common_names)))
    return common_names[0], tuple(organizations)


def _directory_string(der: bytes) -> str:
    """Return the text of a PrintableString or UTF8String; Go writes no other for these names."""
    from pyasn1.type import char

    tag = der[:1]
    if tag == b"\x13":
        text = str(_decode(der, char.PrintableString(), "subject"))
        if not _PRINTABLE.match(text):
            raise RequestError("the subject has a PrintableString with characters that it may not hold")
        return text
    if tag == b"\x0c":
        return _text(str(_decode(der, char.UTF8String(), "subject")), "subject")
    raise RequestError("the subject has text that is neither PrintableString nor UTF8String")


def _extensions(attributes: Any) -> Tuple[Tuple[str, ...], Tuple[str, ...], Tuple[str, ...], Tuple[str, ...]]:
    """Return DNS names, addresses, kinds of other names, and other extensions."""
    from pyasn1_modules import rfc5280

    names: Tuple[Tuple[str, ...], Tuple[str, ...], Tuple[str, ...]] = ((), (), ())
    others: List[str] = []
    seen = set()
    if len(attributes) > 1:
        raise RequestError("the request has {} attributes, at most one is known".format(len(attributes)))
    for attribute in attributes:
        if str(attribute["type"]) != _EXTENSION_REQUEST:
            raise RequestError("the request has attribute {}".format(attribute["type"]))
        if len(attribute["values"]) != 1:
            raise RequestError("the request has more or less than one list of extensions")
        for extension in _decode(bytes(attribute["values"][0]), rfc5280.Extensions(), "list of extensions"):
            kind = str(extension["extnID"])
            if kind in seen:
                raise RequestError("extension {} appears twice".format(kind))
            seen.add(kind)
            if kind == _SUBJECT_ALT_NAME:
                names = _alternative_names(bytes(extension["extnValue"]))
            else:
                others.append(kind)
    return names[0], names[1], names[2], tuple(others)


def _alternative_names(der: bytes) -> Tuple[Tuple[str, ...], Tuple[str, ...], Tuple[str, ...]]:
    from pyasn1_modules import rfc5280

    dns_names: List[str] = []
    addresses: List[str] = []
    others: List[str] = []
    for name in _decode(der, rfc5280.SubjectAltName(), "subjectAltName"):
        kind = name.getName()
        if kind == "dNSName":
            dns_names.append(_text(_ascii(bytes(name.getComponent())), "subjectAltName"))
        elif kind == "iPAddress":
            packed = bytes(name.getComponent())
            if len(packed) not in (4, 16):
                raise RequestError("subjectAltName has an address of {} bytes".format(len(packed)))
            addresses.append(str(ipaddress.ip_address(packed)))
        else:
            others.append(str(kind))
    return tuple(dns_names), tuple(addresses), tuple(others)


def _ascii(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise RequestError("subjectAltName has a DNS name that is not ASCII") from error


def _text(text: str, what: str) -> str:
    if not text or not text.isprintable():
        raise RequestError("the {} has text that is empty or has control characters".format(what))
    return text
