"""The probe's reading and writing of DNS messages; the rest of it is seen on real machines."""

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from freehold_agent.probe import answer_of, query

ADDRESS = bytes([10, 96, 0, 1])


def an_answer(
    name: str = "kubernetes.default.svc.cluster.local", records: bytes = b"", count: int = 1
) -> bytes:
    """Return the answer that a server gives to our own question, with these records."""
    question = query(name)
    return question[:2] + struct.pack(">HHHHH", 0x8180, 1, count, 0, 0) + question[12:] + records


def a_record(kind: int, data: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 30, len(data)) + data


def test_a_question_names_every_label():
    """The name travels as length and label, as RFC 1035 says."""
    assert query("a.example")[12:] == b"\x01a\x07example\x00\x00\x01\x00\x01"


def test_the_address_of_an_answer_is_found():
    """The first IPv4 address is what the name means."""
    assert answer_of(an_answer(records=a_record(1, ADDRESS))) == "10.96.0.1"


def test_an_alias_before_the_address_is_passed_over():
    """A CNAME is followed by the address in the same answer."""
    records = a_record(5, b"\x01b\xc0\x0c") + a_record(1, ADDRESS)

    assert answer_of(an_answer(records=records, count=2)) == "10.96.0.1"


def test_no_such_name_is_no_address():
    """NXDOMAIN, and an answer without records, name nothing."""
    refused = bytearray(an_answer(count=0))
    refused[3] |= 3

    assert answer_of(bytes(refused)) is None
    assert answer_of(an_answer(count=0)) is None


@given(st.integers(0, 3), st.binary(max_size=80))
def test_a_damaged_answer_is_no_traceback(count: int, tail: bytes):
    """Whatever comes from port 53, the probe goes on asking."""
    found = answer_of(struct.pack(">HHHHHH", 1, 0x8180, 1, count, 0, 0) + tail)

    assert found is None or ipaddress.ip_address(found).version == 4
