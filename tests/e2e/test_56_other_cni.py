"""Another pod network and, at first, no kube-proxy: nodes wait for it and say so, and what it brings is left alone."""

import time

import pytest
from tests.support.cluster import Bundle, Cluster
from tests.support.kubectl import Answer, Kubectl, wait_for
from tests.support.lab import Lab
from tests.support.pods import from_pod, pods_by_node, serve_echo
from tests.support.program import Freehold
from tests.support.refusal import Inventories
from tests.support.whole import PATIENCE

CNI = "/etc/cni/net.d"
FOREIGN = f"{CNI}/90-mine.conflist.off"
CONTENT = "not freehold's"
NO_FLANNEL = {"config.deploy.cni.flannel": {"enabled": False}}
SECONDS = 120.0
"""An apply that waits for a network of somebody else waits for two minutes, and fails."""


@pytest.fixture(scope="module")
def machines(spare_lab: Lab) -> Lab:
    """A control plane and a worker with nothing on them but a foreign file."""
    spare_lab.clean()
    for machine in spare_lab.machines:
        script = f'mkdir -p {CNI}; printf %s "$1" > {FOREIGN}'
        spare_lab.exec(machine, "sh", "-euc", script, "sh", CONTENT)
    return spare_lab


@pytest.fixture(scope="module")
def inventories(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Inventories:
    """Writes inventories of these machines."""
    return Inventories(machines.inventory(), tmp_path_factory.mktemp("inventories"))


@pytest.fixture(scope="module")
def freehold(inventories: Inventories, tmp_path_factory: pytest.TempPathFactory) -> Freehold:
    """The command, for a cluster without flannel and kube-proxy."""
    inventory = inventories({**NO_FLANNEL, "config.deploy.kubeProxy": {"enabled": False}})
    return Freehold(inventory, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def first_apply(freehold: Freehold) -> tuple[Answer, float]:
    """What it said, and the seconds it took."""
    began = time.monotonic()
    return freehold("apply", "--yes"), time.monotonic() - began


@pytest.fixture(scope="module")
def cluster(machines: Lab, freehold: Freehold, bundle: Bundle, first_apply: tuple[Answer, float]) -> Cluster:
    """The cluster, with test images."""
    assert first_apply[0].code == 0, str(first_apply[0])
    made = Cluster(machines, freehold, bundle)
    made.load_images()
    return made


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    """The bundle's kubectl with this cluster's kubeconfig."""
    return cluster.kubectl


@pytest.fixture(scope="module")
def network(cluster: Cluster, kubectl: Kubectl) -> None:
    """The other network has come, and every node is Ready."""
    pairs = " ".join(
        f"{node['status']['addresses'][0]['address']}={node['spec']['podCIDR']}"
        for node in kubectl.json("get", "nodes")["items"]
    )
    kubectl.apply(*cluster.objects("stand-in-network", nodes=pairs))
    kubectl.wait("nodes --all", "condition=Ready", PATIENCE)


@pytest.fixture(scope="module")
def echo(cluster: Cluster, kubectl: Kubectl, network: None) -> Kubectl:
    """kubectl in a namespace with a web server and a shell on each node."""
    return serve_echo(cluster, kubectl, "e2e-echo")


def is_left_alone(cluster: Cluster, node: str) -> None:
    """Assert that the foreign file is what it was."""
    assert cluster.run(node, f"cat {FOREIGN}") == CONTENT, node


def test_apply_says_that_a_network_is_waited_for(first_apply: tuple[Answer, float]) -> None:
    """It succeeds, does not wait, names the nodes and says what they need."""
    answer, seconds = first_apply
    assert answer.code == 0, str(answer)
    assert seconds < SECONDS
    said = answer.stdout + answer.stderr
    assert "cp1, w1 not Ready: a pod network of yours is waited for" in said, str(answer)


def test_nodes_are_honest(cluster: Cluster, kubectl: Kubectl) -> None:
    """Node, taint and status tell that the network is missing; there is nothing for an apply to do about it."""
    for node in kubectl.json("get", "nodes")["items"]:
        ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        assert ready["status"] == "False"
        assert "cni plugin not initialized" in ready["message"]
        assert "node.kubernetes.io/not-ready" in {taint["key"] for taint in node["spec"]["taints"]}
    status = cluster.freehold("status")
    assert status.code == 1
    assert "network not ready" in status.stdout + status.stderr
    assert cluster.freehold("plan").code == 0


def test_nothing_of_ours_takes_the_place(cluster: Cluster) -> None:
    """Neither units nor links nor tables nor a CNI configuration of flannel and kube-proxy."""
    for node in cluster.nodes:
        tables = "nft list tables | grep -v 'inet freehold$' || true"
        said = cluster.run(
            node, f"ls {CNI}; systemctl is-active flannel kube-proxy || true; {tables}; ls /sys/class/net"
        )
        assert said.split() == [FOREIGN.rpartition("/")[2], "inactive", "inactive", "eth0", "lo"], node
        is_left_alone(cluster, node)


def test_pods_use_the_other_network(cluster: Cluster, echo: Kubectl) -> None:
    """Pods of all nodes reach each other, and the API server reaches them."""
    shells, servers = pods_by_node(echo, "shell"), pods_by_node(echo, "echo")
    for shell in shells.values():
        urls = [f"http://{server.address}:8080/" for server in servers.values()]
        replies = from_pod(echo, shell.name, urls)
        assert [reply.server for reply in replies] == [server.name for server in servers.values()], shell
    for server in servers.values():
        path = f"/api/v1/namespaces/e2e-echo/pods/{server.name}:8080/proxy/healthz"
        assert "ok" in echo("get", "--raw", path).stdout, server


def test_kube_proxy_joins_in(cluster: Cluster, echo: Kubectl, inventories: Inventories) -> None:
    """With kube-proxy allowed the next apply tries names and Services from pods of that network, and they work."""
    inventory = inventories(NO_FLANNEL)
    answer = cluster.freehold("apply", "--yes", inventory=inventory)
    assert answer.code == 0, str(answer)
    assert "waited for" not in answer.stdout + answer.stderr
    for shell in pods_by_node(echo, "shell").values():
        url = "http://echo.e2e-echo.svc.cluster.local/healthz"
        assert "ok" in echo.exec(shell.name, "wget", "-qO-", url).stdout, shell
    assert cluster.freehold("plan", inventory=inventory).code == 0


def test_there_is_no_way_back_under_running_pods(cluster: Cluster, inventories: Inventories) -> None:
    """Flannel in its place, or no kube-proxy again, is refused, by machine and key."""
    refused = cluster.freehold("plan", inventory=cluster.lab.inventory_path)
    assert refused.code == 4, str(refused)
    assert "w1 has not flannel" in refused.stderr
    refused = cluster.freehold("plan")
    assert refused.code == 4, str(refused)
    assert "w1 has kube-proxy" in refused.stderr


def test_the_agent_leaves_it_alone(cluster: Cluster, echo: Kubectl) -> None:
    """A look of the agent repairs what is ours and touches nothing of the other network."""
    node = cluster.workers[0]
    before = cluster.run(node, f"stat -c '%n %Y %Z %i' {CNI}/*; ip route")
    cluster.run(node, "rm /etc/freehold/kube-proxy.json; systemctl reload freehold-agent")
    there = "test -e /etc/freehold/kube-proxy.json && echo yes"
    wait_for(lambda: cluster.run(node, there, check=False) == "yes", 60, "the agent's repair")
    assert cluster.run(node, f"stat -c '%n %Y %Z %i' {CNI}/*; ip route") == before


def test_reset_leaves_what_is_not_ours(cluster: Cluster, inventories: Inventories) -> None:
    """Everything of freehold goes; the other network's files stay as they are."""
    answer = cluster.freehold("reset", "--yes", inventory=inventories(NO_FLANNEL))
    assert answer.code == 0, str(answer)
    gone = "/opt/freehold /etc/freehold /etc/systemd/system/kube*.service /var/lib/kubelet/*"
    for node in cluster.nodes:
        said = cluster.run(node, f"ls {CNI}; ls -d {gone} 2>/dev/null || true; nft list tables")
        assert said.split() == ["50-stand-in.conflist", "90-mine.conflist.off"], node
        is_left_alone(cluster, node)
