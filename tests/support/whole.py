"""A cluster after an accident: what must be true again without anybody's help, and how long it took."""

import time
from dataclasses import dataclass, field
from datetime import datetime

from tests.support.cluster import Cluster
from tests.support.kubectl import Answer, Kubectl, wait_for
from tests.support.pods import from_machine, from_pod, pods_by_node

from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.phases import trust

PATIENCE = 120.0
"""Seconds for things that take five to fifteen: test machines share two processors."""


@dataclass
class Accident:
    """From the moment it begins: what happened before that does not count as 'back'."""

    what: str
    begun: float = field(default_factory=time.time)

    def seconds(self) -> float:
        return time.time() - self.begun

    def tell(self, text: str) -> None:
        """Note a time in the output of the test."""
        print(f"{self.what}: {text} after {self.seconds():.1f} s")

    def node_is_back(self, kubectl: Kubectl, *nodes: str) -> None:
        """Wait until kubelets have shown signs of life since, and their nodes are Ready.

        The sign is the lease, renewed every 10 s: a Node whose status stays the same is reported every 5 min only.
        """
        for node in nodes:
            wait_for(lambda node=node: self._reports(kubectl, node), PATIENCE, f"{node} Ready again")  # type: ignore[misc]
            self.tell(f"{node} Ready")

    def pods_are_back(self, kubectl: Kubectl, *nodes: str) -> None:
        """Wait until each pod of a namespace on these nodes runs in containers started since."""
        for node in nodes:
            wait_for(lambda node=node: self._restarted(kubectl, node), PATIENCE, f"pods back on {node}")  # type: ignore[misc]
            self.tell(f"pods on {node}")

    def _reports(self, kubectl: Kubectl, node: str) -> bool:
        answer = kubectl("get", "node", node, "--output=json", "--request-timeout=5s", check=False)
        assert not answer.failed, answer.stderr
        ready = next(c for c in answer.json["status"]["conditions"] if c["type"] == "Ready")
        assert ready["status"] == "True", ready["message"]
        lease = kubectl("get", "lease", node, "--namespace=kube-node-lease", "--output=json", check=False)
        assert not lease.failed, lease.stderr
        return _moment(lease.json["spec"]["renewTime"]) >= self.begun

    def _restarted(self, kubectl: Kubectl, node: str) -> bool:
        pods = kubectl.json("get", "pods", f"--field-selector=spec.nodeName={node}")["items"]
        assert pods, f"no pods on {node}"
        for pod in pods:
            for container in pod["status"].get("containerStatuses", [{}]):
                running = container.get("state", {}).get("running")
                assert running, container
                assert container.get("ready"), container
                # Whole seconds: one that started in the second of the accident may have started before it.
                assert _moment(running["startedAt"]) > self.begun, f"{container['name']} not restarted yet"
        return True


def network_works(cluster: Cluster, echo: Kubectl) -> None:
    """Wait until every node's pods and every machine reach every pod, the Service and its name."""
    wait_for(lambda: _network_works(cluster, echo), PATIENCE, "pods, Services and names from everywhere")


def _network_works(cluster: Cluster, echo: Kubectl) -> bool:
    servers, shells = pods_by_node(echo, "echo"), pods_by_node(echo, "shell")
    assert set(servers) == set(shells) == set(cluster.nodes), f"pods on {set(servers)} and {set(shells)}"
    direct = {f"http://{server.address}:8080/": server.name for server in servers.values()}
    service = f"http://{echo.json('get', 'service', 'echo')['spec']['clusterIP']}/"
    for shell in shells.values():
        replies = from_pod(echo, shell.name, [*direct, service, "http://echo/"])
        assert [reply.server for reply in replies[:-2]] == list(direct.values()), f"{shell}: {replies}"
        assert all(reply.server for reply in replies[-2:]), f"{shell}: {replies}"
    for machine in cluster.nodes:
        replies = from_machine(cluster, machine, [*direct, service])
        assert all(reply.server for reply in replies), f"{machine}: {replies}"
    return True


def changes(answer: Answer) -> set[str]:
    """Return `MACHINE KEY` of everything that `plan --output json` would change."""
    machines = {
        f"{one['machine']} {change['key']}" for one in answer.json["machines"] for change in one["changes"]
    }
    return machines | {f"cluster {change['key']}" for change in answer.json["objects"]}


def nothing_to_apply(cluster: Cluster) -> bool:
    """The plan is empty: whatever the accident took is back. Raises AssertionError with what it would change."""
    answer = cluster.freehold("plan", "--output", "json")
    left = changes(answer)
    assert not left, f"the plan has changes: {sorted(left)}"
    assert answer.code == 0, str(answer)
    return True


def administrator(cluster: Cluster, timeout: float = 5.0) -> KubernetesApi:
    """Return a client with the administrator's certificate."""
    pki = PkiDirectory(str(cluster.state / "pki"))
    return KubernetesApi(
        f"https://{cluster.address(cluster.control_plane)}:6443",
        ca_pem=pki.ca_pem(),
        client_certificate=pki.certificate_path(trust.ADMIN),
        client_key=pki.key_path(trust.ADMIN),
        timeout=timeout,
    )


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
