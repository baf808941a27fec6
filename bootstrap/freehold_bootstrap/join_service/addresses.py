"""Which addresses a machine that joins gets. Pure: what the operator said, what the machine says, what we see.

| Told with the token | Seen | Node's addresses |
|---|---|---|
| `--address` | anything: NAT, another network | those of the token, if the machine has the first |
| nothing | one that the machine has | the one seen |
| nothing | one that it has not: NAT | refused, with those to choose from |

A machine asking for others is refused, too. An agent that does not say what it has is believed, and looks itself.
"""

import ipaddress
from typing import Sequence, Tuple

from freehold_bootstrap.errors import Refused

_HINT = "name the one at which the cluster is to reach it: `freehold token create --address`"


def addresses_of(told: Sequence[str], seen: str, asked: Sequence[str], own: Sequence[str]) -> Tuple[str, ...]:
    """Return the node's addresses, the first is its node IP.

    `told` are the token's, `seen` is where the request came from, `asked` what the machine wants, `own` what its
    interfaces have. Raises Refused (`address-not-allowed`, `address-not-here`).
    """
    allowed = tuple(told) or (seen,)
    known = {canonical(address) for address in allowed}
    foreign = [address for address in asked if canonical(address) not in known]
    if foreign:
        raise Refused(
            "address-not-allowed",
            "{!r} is not an address this token admits ({})".format(foreign[0][:80], ", ".join(allowed)),
            hint="name it with `freehold token create --address`",
        )
    here = [canonical(address) for address in own]
    if here and canonical(allowed[0]) not in here:
        message = "no interface of this machine has the address {}, which {}; it has {}".format(
            allowed[0],
            "the token names" if told else "is the one that the control plane sees: it is behind NAT",
            ", ".join(address for address in here if not ipaddress.ip_address(address).is_link_local),
        )
        raise Refused("address-not-here", message, hint=_HINT)
    return allowed


def canonical(address: str) -> str:
    """Return an address as it is compared; a text that is none as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
