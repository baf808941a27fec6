"""A control plane that is no node: nothing of one runs there, and its API server reaches pods and kubelets."""

import json
from collections.abc import Iterator

import pytest
from tests.support.cluster import Bundle, Cluster
from tests.support.inventory_of_machine import Inventory, differences, inventory_of
from tests.support.kubectl import Kubectl, wait_for
from tests.support.lab import Lab
from tests.support.pods import pods_by_node, serve_echo, through_port_forward
from tests.support.refusal import Inventories
from tests.support.webhooks import wait_until_asked, webhooks
from tests.support.whole import PATIENCE

NODE_UNITS = ("containerd", "kubelet", "kube-proxy", "flannel", "freehold-agent")
ROUTES = "ip -json route show proto 70"
SERVICE = "/api/v1/namespaces/e2e-echo/services/echo:http/proxy/healthz"


@pytest.fixture(scope="module")
def machines(spare_lab: Lab) -> Lab:
    """A control plane and a worker with nothing on them."""
    spare_lab.clean()
    for machine in spare_lab.machines:
        spare_lab.wait_for_boot(machine)
    return spare_lab


@pytest.fixture(scope="module")
def untouched(machines: Lab) -> dict[str, Inventory]:
    """What they held before."""
    return {machine: inventory_of(machines, machine) for machine in machines.machines}


@pytest.fixture(scope="module")
def cluster(
    machines: Lab, bundle: Bundle, untouched: dict[str, Inventory], tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """The machines as a cluster whose control plane is no node."""
    inventories = Inventories(machines.inventory(), tmp_path_factory.mktemp("inventories"))
    inventory = inventories({"config.controlPlane.standalone.joinNode.enabled": False})
    made = Cluster.applied(machines, inventory, tmp_path_factory.mktemp("state"), bundle)
    made.load_images(*made.workers)
    return made


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    """The bundle's kubectl with this cluster's kubeconfig."""
    return cluster.kubectl


@pytest.fixture(scope="module")
def echo(cluster: Cluster, kubectl: Kubectl) -> Kubectl:
    """kubectl in a namespace with a web server and a shell on the worker."""
    return serve_echo(cluster, kubectl, "e2e-echo")


@pytest.fixture
def webhook(cluster: Cluster, here: Kubectl, kubectl: Kubectl) -> Iterator[str]:
    """Admission webhooks in a pod behind a Service."""
    with webhooks(cluster, here, kubectl) as name:
        yield name


def routes(cluster: Cluster) -> dict[str, str]:
    """Return destination -> gateway of our routes on the control plane."""
    listed = json.loads(cluster.run(cluster.control_plane, ROUTES) or "[]")
    return {route["dst"]: route.get("gateway", "") for route in listed}


def service_answers(echo: Kubectl) -> None:
    """Wait for an answer through API server and Service: its endpoints come a moment after its pods are ready."""
    wait_for(lambda: "ok" in echo("get", "--raw", SERVICE).stdout, PATIENCE, "a pod through the API server")


def test_nothing_of_a_node_is_there(cluster: Cluster, kubectl: Kubectl) -> None:
    """No unit, link, table, container or Node; the worker alone is a node, and both say so."""
    assert (
        tuple(node["metadata"]["name"] for node in kubectl.json("get", "nodes")["items"]) == cluster.workers
    )
    plane = cluster.control_plane
    for unit in NODE_UNITS:
        assert cluster.run(plane, f"systemctl is-active {unit}", check=False) == "inactive", unit
    left = cluster.run(plane, "nft list tables; ls /etc/cni/net.d /run/netns 2>/dev/null", check=False)
    assert set(left.splitlines()) <= {"table inet freehold"}
    links = {link["ifname"] for link in json.loads(cluster.run(plane, "ip -json link"))}
    assert links == {"lo", "eth0"}
    status = cluster.freehold("status", "--output", "json")
    assert status.code == 0, str(status)
    units = status.json["machines"][plane]["units"]
    assert units["freehold-pod-routes"] == "active"
    assert not set(NODE_UNITS) & set(units)


def test_the_second_plan_is_empty(cluster: Cluster) -> None:
    """There is nothing more to do."""
    assert cluster.freehold("plan").code == 0


@pytest.mark.usefixtures("webhook")
def test_admission_webhooks(here: Kubectl) -> None:
    """Webhooks in a pod are asked, mutating and validating, and fail closed."""
    wait_until_asked(here)
    bad = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "bad", "labels": {"deny": "true"}},
    }
    answer = here.apply(bad, check=False)
    assert "denied by the test webhook" in answer.stderr, str(answer)


def test_pods_and_services_through_the_api_server(echo: Kubectl) -> None:
    """`kubectl proxy` leads to a pod by its name, and to a Service."""
    (pod,) = pods_by_node(echo, "echo").values()
    path = f"/api/v1/namespaces/e2e-echo/pods/{pod.name}:8080/proxy/healthz"
    assert "ok" in echo("get", "--raw", path).stdout
    service_answers(echo)


def test_kubelets(echo: Kubectl) -> None:
    """Logs, exec and port-forward reach the worker."""
    (shell,) = pods_by_node(echo, "shell").values()
    assert echo("logs", shell.name).stdout == "shell is here\n"
    assert echo.exec(shell.name, "hostname").stdout == f"{shell.name}\n"
    (server,) = pods_by_node(echo, "echo").values()
    assert f"hostname: {server.name}\n" in through_port_forward(echo, server.name, "/hello")


def test_names_and_services_from_pods(echo: Kubectl) -> None:
    """CoreDNS on the control plane answers pods, and a Service leads to its pod."""
    (shell,) = pods_by_node(echo, "shell").values()
    assert (
        "ok" in echo.exec(shell.name, "wget", "-qO-", "http://echo.e2e-echo.svc.cluster.local/healthz").stdout
    )


def test_routes_follow_nodes(cluster: Cluster, kubectl: Kubectl) -> None:
    """A new Node's pods get a route, those of a Node that is gone lose it, and others stay as they are."""
    before = routes(cluster)
    assert list(before.values()) == [cluster.address("w1")]
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "pretended"},
        "spec": {"podCIDR": "10.244.77.0/24", "podCIDRs": ["10.244.77.0/24"], "unschedulable": True},
    }
    kubectl.apply(node)
    gateway = cluster.lab.subnet.replace(".0/24", ".77")
    patch = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": gateway}]}})
    try:
        kubectl("patch", "node", "pretended", "--subresource=status", "--type=merge", f"--patch={patch}")
        wanted = {**before, "10.244.77.0/24": gateway}
        wait_for(lambda: routes(cluster) == wanted, PATIENCE, "a route to the new node's pods")
    finally:
        kubectl("delete", "node", "pretended")
    wait_for(lambda: routes(cluster) == before, PATIENCE, "the route gone")


def test_an_aggregated_api(kubectl: Kubectl) -> None:
    """metrics.k8s.io is served by a pod through the API server."""
    kubectl.wait("apiservice/v1beta1.metrics.k8s.io", "condition=Available", PATIENCE)
    wait_for(lambda: kubectl("top", "nodes", "--no-headers").stdout.startswith("w1 "), PATIENCE, "figures")


def test_a_lost_route_is_back(cluster: Cluster) -> None:
    """Somebody flushes the routes: the kernel tells, and they are put back."""
    before = routes(cluster)
    cluster.run(cluster.control_plane, "ip route flush proto 70")
    wait_for(lambda: routes(cluster) == before, PATIENCE, "the route back")


def test_after_a_reboot(cluster: Cluster, echo: Kubectl) -> None:
    """The control plane boots: the API server finds its way to pods again, without an apply."""
    cluster.lab.reboot(cluster.control_plane)
    service_answers(echo)
    # Not every unit of the boot has to be up for that.
    wait_for(lambda: cluster.freehold("plan").code == 0, PATIENCE, "all as it was")


def test_it_becomes_a_node(cluster: Cluster, echo: Kubectl, kubectl: Kubectl) -> None:
    """Without the key the next apply makes it one: flannel has the routes then, and there is no way back for now."""
    answer = cluster.freehold("apply", "--yes", inventory=cluster.lab.inventory_path)
    assert answer.code == 0, str(answer)
    kubectl.wait("nodes --all", "condition=Ready")
    assert routes(cluster).keys() <= {"10.96.0.0/12"}
    service_answers(echo)
    assert cluster.run(cluster.control_plane, "id freehold-pod-routes", check=False) == ""
    assert cluster.freehold("plan", inventory=cluster.lab.inventory_path).code == 0
    refused = cluster.freehold("plan")
    assert refused.code == 4, str(refused)
    assert "cp1 is a node" in refused.stderr


def test_reset(cluster: Cluster, untouched: dict[str, Inventory]) -> None:
    """Reset leaves neither routes nor users nor anything else on either machine."""
    answer = cluster.freehold("reset", "--yes")
    assert answer.code == 0, str(answer)
    for machine in cluster.nodes:
        now = inventory_of(cluster.lab, machine)
        found = differences(untouched[machine], now, expected=("/etc/cni",))
        assert not found, f"{machine}:\n" + "\n".join(found)
