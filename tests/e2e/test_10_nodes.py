"""The machines as nodes."""

from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl


def test_all_nodes_are_ready(cluster: Cluster, kubectl: Kubectl) -> None:
    """Each machine is a Ready node of the release's version, with its role."""
    found = {node["metadata"]["name"]: node for node in kubectl.json("get", "nodes")["items"]}
    assert set(found) == set(cluster.nodes)
