"""The kinds of text, numbers and flags an inventory is made of, each with its rule and its message.

YAML 1.1 turns `yes`, `010` and `1.37` into something else than text; all types here are strict, so that such
a value is an error (with a hint, see `loading`) and never silently converted.
"""

import base64
import binascii
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)
from pydantic.alias_generators import to_camel

from freehold_installer.config import addresses

DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{DNS_LABEL}(\.{DNS_LABEL})*")
_LABEL_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) ([A-Za-z0-9+/]+={0,2})( .*)?")


class Model(BaseModel):
    """Base of every part of an inventory: frozen, camelCase in the file, nothing unknown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=False,
        allow_inf_nan=False,
    )


def _plain(text: str) -> str:
    """Refuse what could break out of a line of a unit file or a terminal."""
    if not text:
        raise ValueError("expected text, found none")
    if any(not char.isprintable() for char in text):
        raise ValueError("expected one line of printable text")
    return text


def _name(text: str) -> str:
    if len(text) > 63 or not _DNS_NAME.fullmatch(text):
        raise ValueError(
            f"expected a DNS-1123 name (lower-case letters, digits, '-' and '.', at most 63), found {text!r}"
        )
    return text


def _cluster_name(text: str) -> str:
    if not re.fullmatch(DNS_LABEL, text):
        raise ValueError(
            f"expected a DNS-1123 label (lower-case letters, digits and '-', at most 63), found {text!r}"
        )
    return text


def _domain(text: str) -> str:
    if len(text) > 180 or not _DNS_NAME.fullmatch(text):
        raise ValueError(f"expected a DNS domain such as cluster.local, found {text!r}")
    return text


def _host_address(text: str) -> str:
    """Accept an IP address or a DNS name; figures and dots alone are meant as an address."""
    if addresses.is_address(text) or re.fullmatch(r"[0-9.]+|.*:.*", text):
        return addresses.parse_address(text)
    if len(text) > 253 or not _DNS_NAME.fullmatch(text.lower()):
        raise ValueError(f"expected an IP address or a DNS name, found {text!r}")
    return text


def _san(text: str) -> str:
    bare = text.removeprefix("*.")
    if bare == text and addresses.is_address(text):
        return addresses.parse_address(text)
    if len(bare) > 250 or not _DNS_NAME.fullmatch(bare.lower()):
        raise ValueError(f"expected an IP address or a DNS name for the certificate, found {text!r}")
    return text.lower()


def _label_key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not _LABEL_PART.fullmatch(name) or (slash and (len(prefix) > 253 or not _DNS_NAME.fullmatch(prefix))):
        raise ValueError(f"expected a label key such as example.org/rack, found {text!r}")
    if prefix == "freehold.io" or prefix.endswith(".freehold.io"):
        raise ValueError("the prefix freehold.io/ is freehold's own")
    if text in ("kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"):
        raise ValueError(f"{text} is set by the kubelet itself")
    return text


def _label_value(text: str) -> str:
    if text and not _LABEL_PART.fullmatch(text):
        raise ValueError(
            f"expected a label value (letters, digits, '-', '_', '.', at most 63), found {text!r}"
        )
    return text


def _login(text: str) -> str:
    if not _LOGIN.fullmatch(text):
        raise ValueError(f"expected a login name, found {text!r}")
    return text


def _absolute_path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", text) or ".." in text.split("/"):
        raise ValueError(
            f"expected an absolute path of plain letters such as /var/lib/freehold, found {text!r}"
        )
    return text


def _host_key(text: str) -> str:
    """Return `type base64` without a comment. Raises ValueError when the two do not agree."""
    match = _HOST_KEY.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a host's public key such as 'ssh-ed25519 AAAA...' (see ssh-keyscan)")
    kind, blob = match.group(1), match.group(2)
    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        raise ValueError("the host key's base64 part is damaged") from None
    if raw[4 : 4 + int.from_bytes(raw[:4], "big")] != kind.encode():
        raise ValueError(f"the host key says {kind}, but its bytes are of another type or cut off")
    return f"{kind} {blob}"


def _cpu(text: str) -> str:
    """Return processor time as Kubernetes writes it back: `1000m` is `1`."""
    match = re.fullmatch(r"([0-9]+)(m?)", text)
    if match is None:
        raise ValueError(f"expected processor time such as 500m or 2, found {text!r}")
    number = int(match.group(1))
    if match.group(2) and number % 1000 == 0:
        return str(number // 1000)
    return f"{number}{match.group(2)}"


def _memory(text: str) -> str:
    """Return memory as Kubernetes writes it back: `1024Mi` is `1Gi`."""
    match = re.fullmatch(r"([1-9][0-9]*)(Ki|Mi|Gi)", text)
    if match is None:
        raise ValueError(f"expected memory such as 64Mi or 2Gi, found {text!r}")
    number, units = int(match.group(1)), ["Ki", "Mi", "Gi", "Ti"]
    step = units.index(match.group(2))
    while number % 1024 == 0 and step < len(units) - 1:
        number, step = number // 1024, step + 1
    return f"{number}{units[step]}"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Flag = StrictBool
Text = Annotated[StrictStr, AfterValidator(_plain)]
Name = Annotated[StrictStr, AfterValidator(_name)]
ClusterName = Annotated[StrictStr, AfterValidator(_cluster_name)]
Domain = Annotated[StrictStr, AfterValidator(_domain)]
HostAddress = Annotated[StrictStr, AfterValidator(_host_address)]
IpAddress = Annotated[StrictStr, AfterValidator(addresses.parse_address)]
Cidr = Annotated[StrictStr, AfterValidator(addresses.parse_cidr)]
San = Annotated[StrictStr, AfterValidator(_san)]
LabelKey = Annotated[StrictStr, AfterValidator(_label_key)]
LabelValue = Annotated[StrictStr, AfterValidator(_label_value)]
Login = Annotated[StrictStr, AfterValidator(_login)]
AbsolutePath = Annotated[StrictStr, AfterValidator(_absolute_path)]
Cpu = Annotated[StrictStr, AfterValidator(_cpu)]
Memory = Annotated[StrictStr, AfterValidator(_memory)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Seconds = Annotated[StrictInt, Field(ge=1, le=3600)]
HostKeys = Annotated[
    tuple[Annotated[StrictStr, AfterValidator(_host_key)], ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
