"""Arithmetic on addresses and networks, as text in and text out, for IPv4 and IPv6 alike. Pure."""

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_cidr(text: str) -> str:
    """Return a network in its normal spelling (`10.244.0.0/16`).

    Raises ValueError, with the network that was probably meant, when host bits are set or no length is given.
    """
    if "/" not in text:
        raise ValueError(f"expected a network with its length such as 10.244.0.0/16, found {text!r}")
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected a network such as 10.244.0.0/16, found {text!r}") from None
    raise ValueError(f"{text!r} names one address inside a network; did you mean {meant}?")


def parse_address(text: str) -> str:
    """Return an IP address in its normal spelling. Raises ValueError when it is none a machine can have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"expected an IP address such as 10.73.0.11, found {text!r}") from None
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f"{text} is not an address a machine can have")
    return str(address)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(text: str) -> bool:
    """Whether `text` is an IP address that never leaves a machine."""
    return is_address(text) and ipaddress.ip_address(text).is_loopback


def contains(cidr: str, address: str) -> bool:
    """Whether an IP address lies in a network; false across address families."""
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def overlap(one: str, other: str) -> bool:
    """Whether two networks share an address; false across address families."""
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)


def nth_address(cidr: str, number: int) -> str:
    """Return the address at `number` (0 is the network's own). Raises ValueError when it lies outside."""
    network = ipaddress.ip_network(cidr)
    if number >= network.num_addresses:
        raise ValueError(f"{cidr} has only {network.num_addresses} addresses, number {number} is asked for")
    return str(network[number])


def prefix_length(cidr: str) -> int:
    return ipaddress.ip_network(cidr).prefixlen


def bits(cidr: str) -> int:
    """Return how many bits an address of this network's family has: 32 or 128."""
    return ipaddress.ip_network(cidr).max_prefixlen
