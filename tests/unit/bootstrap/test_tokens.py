"""Tokens: what a person types, what the cluster keeps, and that the secret stands nowhere else."""

import base64
import json
from datetime import datetime, timedelta

import pytest

from freehold_bootstrap import tokens
from freehold_bootstrap.errors import BootstrapError
from freehold_bootstrap.tokens import JoinToken, JoinTokenRecord

NOW = datetime.fromisoformat("2026-11-23T08:00:00+00:00")


def test_a_token_survives_being_typed() -> None:
    """What is printed parses to the same token, with spaces around it too."""
    token, _ = tokens.mint("w1", NOW)
    assert tokens.parse("  {}\n".format(token.reveal())) == token


def test_a_token_has_256_random_bits() -> None:
    """The secret is 32 bytes in base32, another one each time."""
    secrets = {tokens.mint("w1", NOW)[0].secret for _ in range(50)}
    assert len(secrets) == 50
    assert {len(base64.b32decode(secret.upper() + "====")) for secret in secrets} == {32}


def test_the_secret_is_in_no_text_but_the_one_asked_for() -> None:
    """Neither repr, str nor the stored record show it."""
    token, record = tokens.mint("w1", NOW)
    shown = [repr(token), str(token), repr(record), json.dumps(record.to_object())]
    shown.append(base64.b64decode(record.to_object()["data"]["record"]).decode())
    assert all(token.secret not in text for text in shown)
    assert record.hash not in repr(record)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "fh1.a",
        "fh2.aaaaaaaaaa." + "a" * 52,
        "fh1.aaaaaaaaaa." + "a" * 51,
        "fh1.AAAAAAAAAA." + "a" * 52,
    ],
)
def test_a_mistyped_token_is_explained_without_repeating_it(text: str) -> None:
    """The error says what is wrong and holds no part of what was typed."""
    with pytest.raises(BootstrapError, match="token") as raised:
        tokens.parse(text)
    assert len(text) < 3 or text not in str(raised.value)


def test_only_the_right_secret_matches() -> None:
    """The record knows its own token and no other with the same id."""
    token, record = tokens.mint("w1", NOW)
    assert record.matches(token)
    assert not record.matches(JoinToken(token.id, "a" * 52))


def test_record_travels_as_a_secret() -> None:
    """Everything that matters comes back from the Secret; fields of a newer version are left alone."""
    _, record = tokens.mint(
        "w1",
        NOW,
        cidr="10.0.0.0/8",
        addresses=("10.0.0.3",),
        labels={"a": "b"},
        taints=({"key": "x", "effect": "NoSchedule"},),
        control_plane=True,
        replace=True,
    )
    record = record.claimed("claim", "10.0.0.3")
    obj = record.to_object("7")
    assert obj["metadata"]["resourceVersion"] == "7"
    data = json.loads(base64.b64decode(obj["data"]["record"]))
    obj["data"]["record"] = base64.b64encode(json.dumps({**data, "later": 1}).encode()).decode()
    assert JoinTokenRecord.from_object(obj) == record
    with pytest.raises(ValueError, match="not a join token"):
        JoinTokenRecord.from_object({"data": {"record": "x"}})


def test_lifetimes() -> None:
    """Ten minutes unless asked otherwise, a day at most, over at the very second."""
    _, record = tokens.mint("w1", NOW)
    assert record.expires == NOW + timedelta(minutes=10)
    assert record.expired(record.expires)
    assert not record.expired(record.expires - timedelta(seconds=1))
    tokens.mint("w1", NOW, lifetime=timedelta(hours=24))
    for lifetime in (timedelta(0), timedelta(hours=24, seconds=1)):
        with pytest.raises(BootstrapError, match="24 hours"):
            tokens.mint("w1", NOW, lifetime=lifetime)


@pytest.mark.parametrize(
    ("cidr", "source", "admitted"),
    [
        ("", "192.0.2.1", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
    ],
)
def test_networks(cidr: str, source: str, admitted: bool) -> None:
    """A token with a network admits only from there, whatever the address family."""
    _, record = tokens.mint("w1", NOW, cidr=cidr)
    assert record.admits(source) is admitted


def test_a_bad_network_is_an_error_when_the_token_is_made() -> None:
    """Not when a machine at the other end of the world tries it."""
    with pytest.raises(BootstrapError, match="no network"):
        tokens.mint("w1", NOW, cidr="10.0.0.1/8")


def test_bootstrap_token_can_only_authenticate() -> None:
    """The standard Secret allows one use, our group, three minutes, and says whom it is for."""
    token, secret = tokens.mint_bootstrap("w1", "uid", "join", NOW)
    data = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    assert "{}.{}".format(data["token-id"], data["token-secret"]) == token
    assert [name for name in data if name.startswith("usage-")] == ["usage-bootstrap-authentication"]
    assert data["auth-extra-groups"] == "system:bootstrappers:freehold"
    assert data["expiration"] == "2026-11-23T08:03:00Z"
    assert secret["metadata"]["name"] == "bootstrap-token-" + data["token-id"]
    binding = tokens.BootstrapBinding.from_object(secret)
    assert (binding.node, binding.node_uid, binding.join_uid, binding.spent_by) == ("w1", "uid", "join", "")
    assert not binding.expired(NOW + timedelta(minutes=3) - timedelta(seconds=1))
    assert binding.expired(NOW + timedelta(minutes=3))


def test_a_foreign_bootstrap_token_binds_no_node() -> None:
    """One that somebody else made joins nothing, and one without an end counts as expired."""
    binding = tokens.BootstrapBinding.from_object(
        {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token"}
    )
    assert binding.node == ""
    assert binding.expired(NOW)
