"""The parser of requests agrees with `cryptography` wherever it accepts, and refuses everything odd."""

import base64
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.a_request import a_key, a_request, key_digest

from freehold_controller.approver.request_parser import MAX_PEM_BYTES, Parsed, RequestError, parse, parse_der

DER = a_request(sans=("w1", "10.0.0.7", "fd00::7"), encoding=Encoding.DER)
PLAIN = a_request(encoding=Encoding.DER)


def _pem(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + text + b"-----END CERTIFICATE REQUEST-----\n"


def test_reads_a_kubelets_client_request() -> None:
    """Subject and key are read, and no names are found where none are asked for."""
    assert parse(a_request()) == Parsed("system:node:w1", ("system:nodes",), key_digest())


def test_reads_a_kubelets_serving_request() -> None:
    """DNS names and both families of addresses are read in order."""
    parsed = parse(a_request(sans=("w1", "10.0.0.7", "fd00::7")))
    assert parsed.dns_names == ("w1",)
    assert parsed.addresses == ("10.0.0.7", "fd00::7")


def test_reports_other_kinds_of_names_and_extensions() -> None:
    """A mail address, a URI and a CA flag are reported, so that the rules can refuse them."""
    parsed = parse(
        a_request(
            sans=("w1", x509.RFC822Name("a@b.example"), x509.UniformResourceIdentifier("spiffe://a/b")),
            extensions=(x509.BasicConstraints(ca=True, path_length=None),),
        )
    )
    assert parsed.other_names == ("rfc822Name", "uniformResourceIdentifier")
    assert parsed.other_extensions == ("2.5.29.19",)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_reads_other_kinds_of_keys(key: "rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey") -> None:
    """The digest is that of the SubjectPublicKeyInfo for RSA and Ed25519 as well."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ünï")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    algorithm = hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None
    parsed = parse(builder.sign(key, algorithm).public_bytes(Encoding.PEM))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert parsed.key_sha256 == digest.finalize().hex()
    assert parsed.common_name == "ünï"


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (b"", "not one PEM"),
        (b"junk\n" + a_request(), "not one PEM"),
        (a_request() + b"x", "not one PEM"),
        (a_request() + a_request(), "not one PEM"),
        (a_request().replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), "not one PEM"),
        (a_request().replace(b"BEGIN CERTIFICATE", b"BEGIN NEW CERTIFICATE"), "not one PEM"),
        (_pem(b"\x30\x00").replace(b"MAA=", b"M=A="), "not base64"),
        (b"-" * (MAX_PEM_BYTES + 1), "larger"),
        (_pem(DER + b"\x00"), "bytes follow"),
        (_pem(DER[:-1]), "not DER"),
        (_pem(b"\x30\x00"), "not DER"),
        (a_request(common_name=None), "0 common names"),
        (a_request(more_subject=[(NameOID.COMMON_NAME, "system:node:other")]), "2 common names"),
        (a_request(more_subject=[(NameOID.COUNTRY_NAME, "DE")]), "attribute 2.5.4.6"),
        (a_request(common_name="a\x00b"), "control characters"),
    ],
)
def test_refuses_what_a_kubelet_never_sends(pem: bytes, says: str) -> None:
    """Each odd request is refused with a reason of its own."""
    with pytest.raises(RequestError, match=says):
        parse(pem)


def test_refuses_other_attributes() -> None:
    """A challenge password is not read over."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
    with pytest.raises(RequestError, match=r"1\.2\.840\.113549\.1\.9\.7"):
        parse(builder.sign(a_key(), hashes.SHA256()).public_bytes(Encoding.PEM))


def test_refuses_encodings_that_are_not_canonical() -> None:
    """A length in three bytes where two do is BER, which another reader may read otherwise."""
    assert PLAIN[1] == 0x81 or PLAIN[1] == 0x82
    size = 1 + (PLAIN[1] & 0x7F)
    longer = PLAIN[:1] + bytes([PLAIN[1] + 1, 0]) + PLAIN[2 : 1 + size] + PLAIN[1 + size :]
    with pytest.raises(RequestError):
        parse_der(longer)


def test_refuses_text_in_other_string_types() -> None:
    """A TeletexString in the subject is refused: libraries differ on what it says."""
    with pytest.raises(RequestError, match="neither PrintableString nor UTF8String"):
        parse_der(PLAIN.replace(b"\x0c\x0csystem:nodes", b"\x14\x0csystem:nodes"))


letters = st.characters(min_codepoint=0x20, max_codepoint=0x2FF).filter(str.isprintable)
names = st.text(letters, min_size=1, max_size=40)
hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,8}){0,3}", fullmatch=True)
sans = st.lists(st.one_of(hosts, st.ip_addresses().map(str)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(common_name=names, organizations=st.lists(names, max_size=3), wanted=sans)
def test_agrees_with_cryptography_on_valid_requests(
    common_name: str, organizations: "list[str]", wanted: "list[str]"
) -> None:
    """Whatever `cryptography` writes, both read alike."""
    der = a_request(common_name, organizations, wanted, encoding=Encoding.DER)
    _same(parse_der(der), x509.load_der_x509_csr(der))


@pytest.mark.parametrize("kind", [b"\x10", b"\x13", b"\x25"], ids=["without meaning", "CA", "usages"])
def test_another_extension_is_named_whatever_is_in_it(kind: bytes) -> None:
    """The names of a subjectAltName under another identifier: no names, and an extension that no rule allows."""
    subject_alt_name = b"\x06\x03\x55\x1d\x11"
    assert DER.count(subject_alt_name) == 1
    der = DER.replace(subject_alt_name, subject_alt_name[:-1] + kind)
    parsed = parse_der(der)
    assert parsed.other_extensions == ("2.5.29.{}".format(kind[0]),)
    _same(parsed, x509.load_der_x509_csr(der))


@settings(max_examples=250, deadline=None)
@given(
    base=st.sampled_from([DER, PLAIN]),
    edits=st.lists(
        st.tuples(
            st.integers(0, 400), st.sampled_from(["set", "insert", "delete", "flip"]), st.integers(0, 255)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_requests_are_refused_or_read_alike(base: bytes, edits: "list[tuple[int, str, int]]") -> None:
    """Nothing but Parsed or RequestError comes out, and what is accepted `cryptography` reads the same."""
    der = bytearray(base)
    for place, verb, value in edits:
        at = place % max(1, len(der))
        if verb == "set":
            der[at] = value
        elif verb == "insert":
            der.insert(at, value)
        elif verb == "delete":
            del der[at]
        else:
            der[at] ^= 1 << (value % 8)
    try:
        parsed = parse_der(bytes(der))
    except RequestError:
        return
    try:
        other = x509.load_der_x509_csr(bytes(der))
    except ValueError as error:
        # Parameters of key and signature are opaque to us: whoever verifies the signature reads them.
        if "AlgorithmIdentifier" in str(error):
            return
        raise
    _same(parsed, other)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes give a RequestError, in DER and in PEM."""
    for read, given_bytes in ((parse_der, data), (parse, data), (parse, _pem(data))):
        with pytest.raises(RequestError):
            read(given_bytes)


def _same(parsed: Parsed, other: x509.CertificateSigningRequest) -> None:
    assert [parsed.common_name] == [
        a.value for a in other.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    assert list(parsed.organizations) == [
        a.value for a in other.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ]
    assert len(other.subject) == 1 + len(parsed.organizations)
    try:
        value = other.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ValueError:
        # Other extensions are named, not read: whatever is in them, the rules refuse them.
        assert parsed.other_extensions
        return
    except x509.ExtensionNotFound:
        assert parsed.dns_names == parsed.addresses == parsed.other_names == ()
        return
    assert list(parsed.dns_names) == value.get_values_for_type(x509.DNSName)
    assert [ipaddress.ip_address(a) for a in parsed.addresses] == value.get_values_for_type(x509.IPAddress)
    assert len(parsed.dns_names) + len(parsed.addresses) + len(parsed.other_names) == len(list(value))
