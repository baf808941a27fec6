"""Keep the EndpointSlices of the DNS Service to the CoreDNS units that answer, judged by their `/ready`.

The Service has no selector, so nobody else writes them. Pods resolve names through whatever stands here: when
no probe succeeds, the fault is more likely ours than every server's, so the last known addresses stay.
"""

import http.client
import time
import urllib.parse
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from freehold_agent.contract.paths import DNS_PORT
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap import journal

SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
SERVICE = "kube-dns"
MANAGED_BY = "freehold"
METRICS_PORT = 9153

INTERVAL = 1.0
PROBE_TIMEOUT = 0.8
FALL = 2
"""Failures in a row that take a server out; one success brings it back."""
RECHECK = 30.0
"""Seconds after which the slices are read again, in case somebody changed them."""


@dataclass(frozen=True)
class DnsServer:
    """One CoreDNS unit."""

    node: str
    """Its machine's Node; empty when that is none."""
    address: str
    """IPv4 or IPv6; where it answers on port 1053."""
    ready_url: str
    """`http://host:8181/ready`, of its `ready` plugin."""

    @property
    def family(self) -> str:
        """`IPv4` or `IPv6`, as slices name them."""
        return "IPv6" if ":" in self.address else "IPv4"


def choose(
    servers: Sequence[DnsServer], ready: Sequence[DnsServer], last: Sequence[str]
) -> Tuple[DnsServer, ...]:
    """Return the servers of one family to publish; pure, and empty only when there are no servers.

    `last` are the addresses published now; they stay when none is ready.
    """
    kept = [server for server in servers if server.address in last]
    return tuple(server for server in servers if server in (ready or kept or servers))


def endpoint_slice(family: str, servers: Sequence[DnsServer], metrics: bool) -> Dict[str, Any]:
    """Return the EndpointSlice of one family."""
    ports: List[Dict[str, Any]] = [
        {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
    ]
    if metrics:
        ports.append({"name": "metrics", "port": METRICS_PORT, "protocol": "TCP"})
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(family),
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
            },
        },
        "addressType": family,
        "endpoints": [
            {
                "addresses": [server.address],
                "conditions": {"ready": True},
                **({"nodeName": server.node} if server.node else {}),
            }
            for server in servers
        ],
        "ports": ports,
    }


def slice_name(family: str) -> str:
    """Return the name of the slice of `IPv4` or `IPv6`."""
    return "kube-dns-freehold" if family == "IPv4" else "kube-dns-freehold-ipv6"


def probe(url: str) -> bool:
    """Say whether a GET of the URL gives 200 within PROBE_TIMEOUT seconds."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class DnsEndpoints:
    """One term's keeper of the DNS endpoints."""

    def __init__(
        self,
        api: KubernetesApi,
        servers: Sequence[DnsServer],
        *,
        metrics: bool = False,
        prober: Callable[[str], bool] = probe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._servers = tuple(servers)
        self._metrics = metrics
        self._prober = prober
        self._clock = clock
        self._up: Dict[DnsServer, bool] = {}
        self._failures: Dict[DnsServer, int] = {}
        self._published: Dict[str, Optional[Dict[str, Any]]] = {}
        self._read_at: Dict[str, float] = {}

    def run(self, stop: Event, beat: Callable[[], None] = lambda: None) -> None:
        """Probe and publish each second until stopped."""
        while not stop.is_set():
            beat()
            try:
                self.step()
            except (ApiError, OSError) as error:
                journal.warning("DNS endpoints not written", error=str(error))
            stop.wait(INTERVAL)

    def step(self) -> int:
        """Probe all servers once, write what changed, return how many writes. Raises ApiError, OSError."""
        self._probe_all()
        writes = 0
        for family in ("IPv4", "IPv6"):
            servers = [server for server in self._servers if server.family == family]
            if servers:
                writes += self._publish(family, servers)
        return writes

    def _publish(self, family: str, servers: Sequence[DnsServer]) -> int:
        path = SLICES + "/" + slice_name(family)
        age = self._clock() - self._read_at.get(family, float("-inf"))
        if age >= RECHECK:
            self._published[family] = self._read(path)
            self._read_at[family] = self._clock()
        published = self._published.get(family)
        ready = [server for server in servers if self._up.get(server)]
        wanted = endpoint_slice(family, choose(servers, ready, _addresses(published)), self._metrics)
        if published is not None and _essence(published) == _essence(wanted):
            return 0
        self._read_at.pop(family, None)  # if the write fails half way, look again
        self._published[family] = self._api.apply(path, wanted)
        self._read_at[family] = self._clock()
        journal.info("DNS endpoints written", addresses=_addresses(wanted), ready=len(ready))
        return 1

    def _read(self, path: str) -> Optional[Dict[str, Any]]:
        try:
            return self._api.get(path)
        except NotFound:
            return None

    def _probe_all(self) -> None:
        answers: Dict[DnsServer, bool] = {}

        def ask(server: DnsServer) -> None:
            answers[server] = self._prober(server.ready_url)

        others = [Thread(target=ask, args=(server,), daemon=True) for server in self._servers[1:]]
        for thread in others:
            thread.start()
        for server in self._servers[:1]:
            ask(server)
        for thread in others:
            thread.join()
        for server in self._servers:
            if answers.get(server, False):
                self._failures[server] = 0
                self._up[server] = True
                continue
            self._failures[server] = self._failures.get(server, 0) + 1
            if server not in self._up or self._failures[server] >= FALL:
                self._up[server] = False


def _addresses(published: Optional[Mapping[str, Any]]) -> List[str]:
    endpoints = (published or {}).get("endpoints") or ()
    return [address for endpoint in endpoints for address in endpoint.get("addresses") or ()]


def _essence(published: Mapping[str, Any]) -> Any:
    """Return what we care about: the API server adds fields of its own."""
    endpoints = [
        (endpoint["addresses"], (endpoint.get("conditions") or {}).get("ready"), endpoint.get("nodeName"))
        for endpoint in published.get("endpoints") or ()
    ]
    ports = [
        (port.get("name"), port.get("port"), port.get("protocol")) for port in published.get("ports") or ()
    ]
    labels = published["metadata"].get("labels") or {}
    wanted = ("kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by")
    return [endpoints, ports, [labels.get(name) for name in wanted]]
