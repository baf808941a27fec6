"""Keep the list of nodes that may ask this machine's CoreDNS from outside its own networks.

CoreDNS forwards what it does not know, so it answers only who belongs to the cluster. Who does stands in the node
records, where no node can write; CoreDNS imports the file and looks for changes by itself. Runs on every control
plane, whether it leads or not (docs/adr/0020).
"""

import ipaddress
import os
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Iterable, Mapping, Set, Tuple

from freehold_agent.machine import files
from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap import journal
from freehold_bootstrap.node_record import RECORD_LABEL, RECORDS, NodeRecord
from freehold_controller.mirror import Mirror

INTERVAL = 2.0
"""Seconds between two writes at least: each makes CoreDNS read the API anew."""


@dataclass(frozen=True)
class DnsClientList:
    """Where the list stands, and who needs no line in it."""

    path: str
    networks: Tuple[str, ...]
    """Those that CoreDNS answers anyway. As long as all nodes are in them, the list never changes."""


def clients(records: Iterable[Mapping[str, Any]], networks: Iterable[str]) -> Tuple[str, ...]:
    """Return the addresses of all nodes, and those they were last seen at, outside the networks; pure."""
    known = [ipaddress.ip_network(network) for network in networks]
    found: Set[str] = set()
    for obj in records:
        try:
            record = NodeRecord.from_object(obj)
        except ValueError:
            continue
        for text in (*record.addresses, record.source):
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                continue  # it has none now
            if not any(address in network for network in known):
                found.add(str(address))
    return tuple(sorted(found))


def acl_lines(addresses: Iterable[str]) -> bytes:
    """Return what stands inside CoreDNS's `acl`."""
    lines = ["# Nodes in other networks than this machine's; kept by freehold-controller."]
    lines += ["allow net " + address for address in addresses]
    return "".join(line + "\n" for line in lines).encode()


class DnsClients:
    """Writes the list when it is to say something else."""

    def __init__(self, api: KubernetesApi, wanted: DnsClientList) -> None:
        self._wanted = wanted
        self._changed = Event()
        self._records = Mirror(api, RECORDS, self._changed.set, labelSelector=RECORD_LABEL + "=node")

    def run(self, stop: Event) -> None:
        """Follow the records until stopped."""
        Thread(target=self._records.run, args=(stop,), name="dns-records", daemon=True).start()
        while not stop.wait(INTERVAL):
            try:
                self.step()
            except OSError as error:
                self._changed.set()
                journal.error("list of DNS clients not written", path=self._wanted.path, error=str(error))

    def step(self) -> bool:
        """Say whether the list had to be written, after a change of the records. Raises OSError."""
        if not self._changed.is_set() or not self._records.synced:
            return False
        self._changed.clear()
        addresses = clients(self._records.items(), self._wanted.networks)
        content = acl_lines(addresses)
        try:
            with open(self._wanted.path, "rb") as stream:
                if stream.read() == content:
                    return False
        except FileNotFoundError:
            pass
        user, group = files.owner_name(os.geteuid()), files.group_name(os.getegid())
        files.write_atomic(self._wanted.path, content, 0o644, user, group)
        journal.info("list of DNS clients written", path=self._wanted.path, addresses=len(addresses))
        return True
