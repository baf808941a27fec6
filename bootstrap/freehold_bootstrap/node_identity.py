"""Which names and addresses a node may have: its serving certificate will speak for them.

Judges only; admission decides when, and the approver compares certificates with what was recorded.
"""

import contextlib
import dataclasses
import ipaddress
import re
import urllib.parse
from typing import Sequence

from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi, NotFound
from freehold_bootstrap import node_record
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import Refused
from freehold_bootstrap.node_record import NodeRecord

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SERVERS = re.compile(r"localhost|kubernetes(\.default)?|metrics-server(\.kube-system)?|.*\.svc(\..*)?")
"""Names by which clients know servers of the cluster; no node's certificate may speak for them."""


def check_name(name: str) -> None:
    """Raise Refused (`bad-name`) for what is no node's name."""
    # 63 and not 253: the name is also the value of the label kubernetes.io/hostname.
    if len(name) > 63 or not _NAME.fullmatch(name):
        raise Refused(
            "bad-name",
            "a node's name is at most 63 lower-case letters, digits, dots and dashes, not {!r}".format(
                name[:80]
            ),
        )
    if _SERVERS.fullmatch(name):
        raise Refused("bad-name", "{} is the name of a server of every cluster, no node's".format(name))


def check_addresses(
    name: str, addresses: Sequence[str], settings: ClusterSettings, control_plane: bool
) -> None:
    """Raise Refused (`bad-address`, `address-in-use`) for what cannot be a node's address in this cluster."""
    if not addresses:
        raise Refused("bad-address", "node {} has no address".format(name))
    networks = [*settings.network.service_cidrs, *settings.network.pod_cidrs]
    endpoints = [*settings.endpoints, *settings.join_endpoints, *settings.artifact_endpoints]
    servers = {urllib.parse.urlsplit(url).hostname for url in endpoints}
    for address in addresses:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise Refused("bad-address", "{!r} is no IP address".format(address[:80])) from None
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local:
            raise Refused("bad-address", "a node cannot be reached at {}".format(address))
        for network in networks:
            if parsed in ipaddress.ip_network(network):
                message = "{} lies in the cluster's own network {}".format(address, network)
                raise Refused("bad-address", message)
        if str(parsed) in servers and not control_plane:
            raise Refused("address-in-use", "{} is the address of a control plane".format(address))


def check_free(api: KubernetesApi, name: str, addresses: Sequence[str]) -> None:
    """Raise Refused (`address-in-use`) for an address of another node. Raises ApiError, OSError.

    Asked before and after an address is recorded: of two nodes at the same time at most one is not refused.
    """
    for address in addresses:
        selector = "{}=node,{}".format(node_record.RECORD_LABEL, node_record.address_label(address))
        listed = api.list(node_record.RECORDS, labelSelector=selector)["items"]
        for other in map(NodeRecord.from_object, listed):
            if other.node != name and _exists(api, other.node):
                raise Refused("address-in-use", "{} is the address of node {}".format(address, other.node))


def forget_addresses(api: KubernetesApi, name: str) -> None:
    """Take the addresses out of a node's record: they are another's. Raises ApiError, OSError."""
    stored = node_record.read_object(api, name)
    if stored is not None:
        with contextlib.suppress(Conflict):  # whoever changed it judges the addresses, too
            node_record.write(api, dataclasses.replace(NodeRecord.from_object(stored), addresses=()), stored)


def _exists(api: KubernetesApi, name: str) -> bool:
    try:
        api.get("/api/v1/nodes/" + name)
    except NotFound:
        return False
    return True
