"""Reading what a certificate file says of itself: whose it is and how long it is valid.

A short walk over DER with the standard library; no signature is checked here, so this decides only whether to
ask for a new credential, never whether to trust one.
"""

import base64
import calendar
import re
import time
from dataclasses import dataclass
from typing import Iterator, Tuple

_COMMON_NAME = bytes.fromhex("0603550403")
_UTC_TIME = 0x17


@dataclass(frozen=True)
class CertificateFacts:
    """Of one certificate."""

    common_name: str
    not_before: float
    """Seconds since the epoch."""
    not_after: float
    """Seconds since the epoch."""


def read_certificate(pem: bytes) -> CertificateFacts:
    """Return the facts of the first certificate in a PEM text. Raises ValueError when there is none."""
    match = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem, re.DOTALL)
    if match is None:
        raise ValueError("no certificate in this file")
    try:
        der = base64.b64decode(match.group(1))
        _, certificate, _ = _element(der, 0)
        _, body, _ = _element(certificate, 0)
        parts = list(_elements(body))
        # Version 3 has an explicit version first, then serial, algorithm, issuer, validity, subject.
        start = 1 if parts[0][0] == 0xA0 else 0
        validity = list(_elements(parts[start + 3][1]))
        subject = parts[start + 4][1]
        return CertificateFacts(_common_name(subject), _time(*validity[0]), _time(*validity[1]))
    except (IndexError, ValueError) as error:
        raise ValueError("not a certificate: {}".format(error)) from error


def _element(data: bytes, start: int) -> Tuple[int, bytes, int]:
    """Return tag, content and the offset behind the element. Raises IndexError, ValueError."""
    tag, length, offset = data[start], data[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[offset : offset + count], "big")
        offset += count
    if offset + length > len(data):
        raise ValueError("an element is cut short")
    return tag, data[offset : offset + length], offset + length


def _elements(data: bytes) -> Iterator[Tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        tag, content, offset = _element(data, offset)
        yield tag, content


def _common_name(subject: bytes) -> str:
    for _, relative in _elements(subject):
        for _, pair in _elements(relative):
            if pair.startswith(_COMMON_NAME):
                return _element(pair, len(_COMMON_NAME))[1].decode("utf-8")
    return ""


def _time(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
