"""Which addresses a machine gets that joins: the whole table."""

from typing import Sequence

import pytest

from freehold_bootstrap.errors import Refused
from freehold_bootstrap.join_service.addresses import addresses_of

OWN = ("10.0.0.9", "192.168.1.9", "fe80::1")
NAT = "203.0.113.1"


@pytest.mark.parametrize(
    ("told", "seen", "asked", "own", "addresses"),
    [
        ((), "10.0.0.9", (), OWN, ("10.0.0.9",)),
        ((), "10.0.0.9", ("10.0.0.9",), OWN, ("10.0.0.9",)),
        (("192.168.1.9",), "10.0.0.9", (), OWN, ("192.168.1.9",)),
        (("10.0.0.9",), NAT, (), OWN, ("10.0.0.9",)),
        (("10.0.0.9",), NAT, ("10.0.0.9",), OWN, ("10.0.0.9",)),
        # Only the first is the node's IP; others may be somebody else's way to it.
        (("10.0.0.9", NAT), NAT, (), OWN, ("10.0.0.9", NAT)),
        (("2001:DB8::9",), NAT, (), ("2001:db8::9",), ("2001:DB8::9",)),
        # It does not say what it has.
        ((), NAT, (), (), (NAT,)),
    ],
)
def test_told_else_seen(
    told: Sequence[str], seen: str, asked: Sequence[str], own: Sequence[str], addresses: Sequence[str]
) -> None:
    """The operator's word counts; without it the address that the control plane sees, if the machine has it."""
    assert addresses_of(told, seen, asked, own) == addresses


@pytest.mark.parametrize(
    ("told", "seen", "asked", "own", "reason", "said"),
    [
        ((), NAT, (), OWN, "address-not-here", "behind NAT; it has 10.0.0.9, 192.168.1.9"),
        ((), NAT, (NAT,), OWN, "address-not-here", "behind NAT"),
        (("10.0.0.8",), "10.0.0.9", (), OWN, "address-not-here", "10.0.0.8, which the token names; it has"),
        (("10.0.0.8",), NAT, (), OWN, "address-not-here", "which the token names"),
        ((), "10.0.0.9", ("192.168.1.9",), OWN, "address-not-allowed", "not an address this token admits"),
        (("10.0.0.9",), "10.0.0.9", ("192.168.1.9",), OWN, "address-not-allowed", "token admits"),
        ((), NAT, ("10.0.0.9",), OWN, "address-not-allowed", "token admits"),
    ],
)
def test_refused(
    told: Sequence[str], seen: str, asked: Sequence[str], own: Sequence[str], reason: str, said: str
) -> None:
    """Neither an address that the machine does not have, nor one of its own choice."""
    with pytest.raises(Refused) as caught:
        addresses_of(told, seen, asked, own)
    assert caught.value.reason == reason
    assert said in caught.value.message
    assert "token create --address" in caught.value.hint
