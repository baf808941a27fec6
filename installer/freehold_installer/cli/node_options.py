"""Options that describe a node on the command line: labels, taints, durations, addresses."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer

NodeOption = Annotated[str, typer.Option("--node", help="Name of the node that the machine becomes.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]
TtlOption = Annotated[str, typer.Option("--ttl", help="How long the token is good for, at most 24h.")]
AddressOption = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        help="Address of the machine, the first is its node IP; may be repeated. Default: the one it comes from.",
    ),
]
CidrOption = Annotated[
    str, typer.Option("--cidr", help="Only machines that come from this network may use the token.")
]

_DURATION = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")


def duration(text: str) -> timedelta:
    """Return `90s`, `10m`, `1h30m` as a duration. Raises InputError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise _bad(f"{text!r} is no duration", "write it as 90s, 10m or 24h")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def addresses(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return IP addresses in their canonical text. Raises InputError."""
    try:
        return tuple(str(ipaddress.ip_address(text)) for text in given or ())
    except ValueError as error:
        raise _bad(f"address: {error}", "an IPv4 or IPv6 address of the machine") from error


def network(text: str) -> str:
    """Return a network in its canonical text, empty for none. Raises InputError."""
    try:
        return str(ipaddress.ip_network(text)) if text else ""
    except ValueError as error:
        raise _bad(f"--cidr: {error}", "for example 192.0.2.0/24") from error


def labels(given: Sequence[str] | None) -> tuple[dict[str, str], list[str]]:
    """Return labels to have (`key=value`) and keys to take off (`key-`). Raises InputError."""
    from freehold_installer.config.scalars import LabelKey, LabelValue

    wanted, unwanted = {}, []
    for text in given or ():
        if text.endswith("-") and "=" not in text:
            unwanted.append(text[:-1])
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise _bad(f"--label {text}: no value", "KEY=VALUE; the value may be empty")
        wanted.update(_checked(dict[LabelKey, LabelValue], {key: value}, f"--label {text}"))
    return wanted, unwanted


def taints(given: Sequence[str] | None) -> tuple[list[dict[str, str]], list[str]]:
    """Return taints to have (`key=value:Effect`) and keys to take off (`key-`). Raises InputError."""
    from freehold_installer.config.cluster import Taint

    wanted, unwanted = [], []
    for text in given or ():
        if text.endswith("-") and ":" not in text:
            unwanted.append(text[:-1])
            continue
        pair, colon, effect = text.rpartition(":")
        if not colon:
            raise _bad(f"--taint {text}: no effect", "KEY=VALUE:NoSchedule, or KEY:NoExecute")
        key, _, value = pair.partition("=")
        parsed = _checked(Taint, {"key": key, "value": value, "effect": effect}, f"--taint {text}")
        wanted.append({"key": parsed.key, "value": parsed.value, "effect": parsed.effect})
    return wanted, unwanted


def _checked(kind: Any, value: Any, title: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _bad(f"{title}: {error.errors()[0]['msg'].removeprefix('Value error, ')}", "") from error


def _bad(message: str, hint: str) -> Exception:
    from freehold_installer.errors import InputError

    return InputError(message, hint=hint)
