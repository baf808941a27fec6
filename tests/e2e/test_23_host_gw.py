"""The pod network without an overlay: a cluster moves from vxlan to host-gw and back, and pods reach each other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.pods import from_pod, pods_by_node
from tests.support.whole import PATIENCE


@pytest.fixture(scope="module")
def host_gw(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cluster with flannel's host-gw back end; afterwards it is what its own inventory says."""
    inventory: dict[str, Any] = json.loads(json.dumps(cluster.inventory))
    inventory.setdefault("config", {}).setdefault("deploy", {})["cni"] = {"flannel": {"backend": "host-gw"}}
    path: Path = tmp_path_factory.mktemp("host-gw") / "inventory.yaml"
    path.write_text(yaml.safe_dump(inventory))
    answer = cluster.freehold("apply", "--yes", inventory=path)
    assert answer.code == 0, str(answer)
    yield
    answer = cluster.freehold("apply", "--yes")
    assert answer.code == 0, str(answer)
    _overlay_is_back(cluster)


def test_pod_networks_are_routes_to_their_nodes(cluster: Cluster, host_gw: None) -> None:
    """Each machine reaches the pods of every other one by a route over that machine's own address."""
    for machine in cluster.nodes:
        others = [cluster.address(name) for name in cluster.nodes if name != machine]

        def routed(machine: str = machine, others: list[str] = others) -> bool:
            routes = cluster.run(machine, "ip -4 route")
            return all(f"via {address} " in routes + " " for address in others)

        wait_for(routed, PATIENCE, f"routes of {machine} to the pods of {others}")


def test_pods_reach_pods_without_an_overlay(cluster: Cluster, echo: Kubectl, host_gw: None) -> None:
    """Every pod reaches every pod by address, and is seen with its own."""
    servers, shells = pods_by_node(echo, "echo"), pods_by_node(echo, "shell")
    for shell in shells.values():
        urls = [f"http://{server.address}:8080/" for server in servers.values()]

        def answered(shell: Any = shell, urls: list[str] = urls) -> bool:
            found = from_pod(echo, shell.name, urls)
            expected = [server.name for server in servers.values()]
            return [reply.server for reply in found] == expected and {r.client for r in found} == {
                shell.address
            }

        wait_for(answered, PATIENCE, f"answers of all pods to {shell.name}")


def _overlay_is_back(cluster: Cluster) -> None:
    """After the way back no route to another machine's pods leads around the overlay."""
    for machine in cluster.nodes:

        def through_the_overlay(machine: str = machine) -> bool:
            routes = cluster.run(machine, "ip -4 route").splitlines()
            pods = [line for line in routes if line.startswith("10.244.") and "cni0" not in line]
            return len(pods) == len(cluster.nodes) - 1 and all("flannel.1" in line for line in pods)

        wait_for(through_the_overlay, PATIENCE, f"routes of {machine} over flannel.1")
