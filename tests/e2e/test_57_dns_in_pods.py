"""CoreDNS as a Deployment: names work as with the unit on the control plane, and one takes the other's place."""

import json
import re

import pytest
from tests.support.cluster import Bundle, Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.lab import Lab
from tests.support.pods import pods_by_node, serve_echo
from tests.support.refusal import Inventories
from tests.support.whole import PATIENCE

DEPLOYMENT = {"replicas": 2, "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}
IN_PODS = {"config.controlPlane.coredns": {"embedded": False, "deployment": DEPLOYMENT}}
NAME = "echo.e2e-echo.svc.cluster.local"


@pytest.fixture(scope="module")
def cluster(spare_lab: Lab, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster with its DNS in pods."""
    spare_lab.clean()
    inventory = Inventories(spare_lab.inventory(), tmp_path_factory.mktemp("inventories"))(IN_PODS)
    made = Cluster.applied(spare_lab, inventory, tmp_path_factory.mktemp("state"), bundle)
    made.load_images()
    return made


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    """The bundle's kubectl with this cluster's kubeconfig."""
    return cluster.kubectl


@pytest.fixture(scope="module")
def echo(cluster: Cluster, kubectl: Kubectl) -> Kubectl:
    """kubectl in a namespace with a web server and a shell on each node."""
    return serve_echo(cluster, kubectl, "e2e-echo")


def names_work(echo: Kubectl) -> None:
    """Assert that pods of all nodes reach a Service by its name."""
    for shell in pods_by_node(echo, "shell").values():
        said = wait_for(lambda pod=shell.name: _fetched(echo, pod), 60, f"{NAME} from {shell.node}")  # type: ignore[misc]
        assert "ok" in said


def _fetched(echo: Kubectl, pod: str) -> str:
    return echo.exec(pod, "timeout", "5", "wget", "-qO-", f"http://{NAME}/healthz").stdout


def dns_addresses(kubectl: Kubectl) -> list[list[str]]:
    """Return the addresses of the DNS Service, by EndpointSlice."""
    selector = "--selector=kubernetes.io/service-name=kube-dns"
    slices = kubectl.json("get", "endpointslices", "-n", "kube-system", selector)["items"]
    return [[a for endpoint in found["endpoints"] or () for a in endpoint["addresses"]] for found in slices]


def test_names_are_resolved_by_pods(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """Two pods on two nodes, neither root nor privileged, with the resources asked for; no unit, and names work."""
    system = kubectl.within("kube-system")
    system.rolled_out("deployment/coredns")
    pods = system.json("get", "pods", "--selector=k8s-app=kube-dns")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == set(cluster.nodes)
    (container,) = pods[0]["spec"]["containers"]
    assert container["securityContext"]["runAsNonRoot"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    names_work(echo)
    plane = cluster.control_plane
    assert cluster.run(plane, "systemctl is-active coredns", check=False) == "inactive"
    assert cluster.run(plane, "ss -Hln sport = :1053; ls -d /etc/freehold/coredns 2>/dev/null || true") == ""
    status = json.loads(cluster.freehold("status", "--output", "json").stdout)
    assert "coredns" not in status["machines"][plane]["units"]
    assert cluster.freehold("plan").code == 0


def test_the_unit_takes_over(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """Without the key CoreDNS is a unit again: its pods and their addresses are gone, and names work."""
    embedded = cluster.lab.inventory_path
    plan = cluster.freehold("plan", inventory=embedded)
    assert plan.code == 2
    assert re.search(r"^ *- .*Deployment kube-system/coredns", plan.stdout, re.MULTILINE), plan.stdout
    answer = cluster.freehold("apply", "--yes", inventory=embedded)
    assert answer.code == 0, str(answer)
    names_work(echo)
    assert "selector" not in kubectl.json("get", "service", "kube-dns", "-n", "kube-system")["spec"]
    alone = [[cluster.address(cluster.control_plane)]]
    wait_for(lambda: dns_addresses(kubectl) == alone, PATIENCE, "the unit's address alone")
    assert kubectl("get", "deployment", "coredns", "-n", "kube-system", check=False).failed
    assert cluster.freehold("plan", inventory=embedded).code == 0


def test_pods_take_over(cluster: Cluster, kubectl: Kubectl, echo: Kubectl) -> None:
    """And the other way round."""
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    names_work(echo)
    addresses = {address for found in dns_addresses(kubectl) for address in found}
    assert cluster.address(cluster.control_plane) not in addresses
    assert cluster.freehold("plan").code == 0
