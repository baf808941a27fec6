"""Wire the controller together: the list of DNS clients; election, and while we lead approver, DNS endpoints, documents,
volumes.

Rights it needs, and no more (its role is in `freehold_bootstrap.rbac`):

| Group | Resource | Verbs | Where |
|---|---|---|---|
| certificates.k8s.io | certificatesigningrequests | get list watch | cluster |
| certificates.k8s.io | certificatesigningrequests/approval | update | cluster |
| certificates.k8s.io | signers `kubernetes.io/kube-apiserver-client-kubelet`, `kubernetes.io/kubelet-serving` | approve | cluster |
| (core) | nodes | get list watch | cluster |
| (core) | secrets | get update | kube-system (bootstrap tokens; names cannot be matched by prefix) |
| (core) | configmaps | get list watch create update | freehold-nodes |
| (core) | events | create | default, and where claims are |
| (core) | persistentvolumeclaims | get list watch patch | cluster |
| (core) | persistentvolumes | get list watch create patch delete | cluster |
| storage.k8s.io | storageclasses | get list watch | cluster |
| storage.k8s.io | csistoragecapacities | list create delete | freehold-nodes |
| coordination.k8s.io | leases | get create update | freehold-nodes |
| discovery.k8s.io | endpointslices | get create patch | kube-system |
"""  # noqa: E501 a table

import os
import signal
import time
from threading import Event, Lock, Thread
from typing import Any, Callable, Dict, Mapping, Optional

from freehold_agent.machine import systemd
from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap import journal
from freehold_controller.approver.approver import Approver
from freehold_controller.config import ControllerConfig
from freehold_controller.dns_clients import DnsClients
from freehold_controller.dns_endpoints import DnsEndpoints
from freehold_controller.leader import Leader
from freehold_controller.node_documents import NodeDocuments
from freehold_controller.volume_provisioner.provisioner import VolumeProvisioner

_API_TIMEOUT = 10.0
_LEASE_TIMEOUT = 4.0
"""Short, so that a leader that cannot renew knows it within the lease's renew deadline."""
_SILENT_SECONDS = 45.0
"""Without a sign of life for so long, systemd is left to restart us."""
_FAREWELL_SECONDS = 8.0
_RESTART_SECONDS = 1.0


class SignsOfLife:
    """When each loop was last seen alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._seen: Dict[str, float] = {}

    def beat(self, name: str) -> None:
        """Note that the loop is alive."""
        with self._lock:
            self._seen[name] = self._clock()

    def forget(self, name: str) -> None:
        """The loop has ended."""
        with self._lock:
            self._seen.pop(name, None)

    def silent(self) -> Optional[str]:
        """Return the name of a loop that has been silent too long, if there is one."""
        with self._lock:
            for name, seen in self._seen.items():
                if self._clock() - seen > _SILENT_SECONDS:
                    return name
        return None


class Controller:
    """One process; `run` blocks until `stop` is set, then steps down cleanly."""

    def __init__(self, config: ControllerConfig, api: KubernetesApi, lease_api: KubernetesApi) -> None:
        self._config = config
        self._api = api
        self._leader = Leader(lease_api, config.identity, timings=config.timings, single=config.single)
        self._life = SignsOfLife()

    def run(self, stop: Event) -> None:
        """Tell systemd that we are up, at once: the API server may start after us; then campaign and lead."""
        election = Thread(target=self._campaign, args=(stop,), name="leader", daemon=True)
        self._life.beat("leader")
        election.start()
        if self._config.dns_clients:
            clients = DnsClients(self._api, self._config.dns_clients)
            Thread(
                target=self._task,
                args=("dns-clients", stop, lambda: clients.run(stop)),
                name="dns-clients",
                daemon=True,
            ).start()
        systemd.notify("READY=1\nSTATUS=waiting to lead")
        pause = _watchdog_seconds() / 2 or 3600.0
        while not stop.wait(pause):
            silent = self._life.silent()
            if silent is None:
                systemd.notify("WATCHDOG=1")
            else:
                journal.error("no sign of life", loop=silent)
        systemd.notify("STOPPING=1")
        election.join(_FAREWELL_SECONDS)

    def _campaign(self, stop: Event) -> None:
        while not stop.is_set():
            self._guarded("leader", stop, lambda: self._leader.run(stop, self._lead, self._beat("leader")))

    def _lead(self, term: Event) -> None:
        systemd.notify("STATUS=leading")
        config = self._config
        approver = Approver(self._api, config.identity, term)
        tasks: Dict[str, Callable[[], None]] = {
            "approver": approver.run,
            "documents": lambda: NodeDocuments(self._api).run(term),
        }
        if config.dns:
            dns = DnsEndpoints(self._api, config.dns, metrics=config.dns_metrics)
            tasks["dns"] = lambda: dns.run(term, self._beat("dns"))
        if config.volumes:
            volumes = VolumeProvisioner(self._api, config.identity)
            tasks["volumes"] = lambda: volumes.run(term, self._beat("volumes"))
        for name, work in tasks.items():
            Thread(target=self._task, args=(name, term, work), name=name, daemon=True).start()

    def _task(self, name: str, term: Event, work: Callable[[], None]) -> None:
        while not term.is_set():
            self._guarded(name, term, work)
        self._life.forget(name)

    def _guarded(self, name: str, stop: Event, work: Callable[[], None]) -> None:
        """Run one loop; what it did not foresee is logged and the loop started again, the others go on."""
        try:
            work()
        except Exception as error:  # noqa: BLE001
            journal.error("loop failed", loop=name, error="{}: {}".format(type(error).__name__, error))
            stop.wait(_RESTART_SECONDS)

    def _beat(self, name: str) -> Callable[[], None]:
        return lambda: self._life.beat(name)


def serve(data: Mapping[str, Any]) -> None:
    """Run the controller until SIGTERM. Raises ConfigError, and OSError when its CA cannot be read."""
    config = ControllerConfig.from_json(data)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Controller(config, _api(config, _API_TIMEOUT), _api(config, _LEASE_TIMEOUT)).run(stop)


def _api(config: ControllerConfig, timeout: float) -> KubernetesApi:
    with open(config.ca, encoding="ascii") as stream:
        ca_pem = stream.read()
    return KubernetesApi(
        config.server,
        ca_pem=ca_pem,
        client_certificate=config.certificate,
        client_key=config.key,
        timeout=timeout,
    )


def _watchdog_seconds() -> float:
    """Return the interval systemd expects, 0 when it expects nothing."""
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
