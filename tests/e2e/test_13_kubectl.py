"""What people do with kubectl all day."""

import json
import re
from pathlib import Path

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.pods import Pod, pods_by_node, through_port_forward


@pytest.fixture(scope="module")
def shells(echo: Kubectl) -> dict[str, Pod]:
    return pods_by_node(echo, "shell")


def test_logs(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """Logs of a pod are read from each node."""
    for shell in shells.values():
        assert echo("logs", shell.name).stdout == "shell is here\n", shell


def test_exec(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """A command runs in a pod of each node; its exit code comes back."""
    for shell in shells.values():
        assert echo.exec(shell.name, "hostname").stdout == f"{shell.name}\n"
        assert echo.exec(shell.name, "sh", "-c", "exit 7", check=False).code == 7, shell


def test_standard_input(cluster: Cluster, here: Kubectl) -> None:
    """What is typed reaches an attached container, and its words come back."""
    image = cluster.bundle.image("busybox")
    answer = here(
        *("run", "typist", f"--image={image}", "--restart=Never", "--stdin", "--rm", "--quiet"),
        *("--command", "--", "sh", "-c", "read line; echo you said $line"),
        stdin="good morning\n",
    )
    assert "you said good morning" in answer.stdout


def test_copy(echo: Kubectl, shells: dict[str, Pod], tmp_path: Path) -> None:
    """A file goes into a pod and comes back the same."""
    shell = shells[max(shells)]
    content = bytes(range(256)) * 500
    (tmp_path / "there").write_bytes(content)
    echo("cp", str(tmp_path / "there"), f"{shell.name}:/tmp/file")
    echo("cp", f"{shell.name}:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.parametrize("place", ["control plane", "worker"])
def test_port_forward(cluster: Cluster, echo: Kubectl, place: str) -> None:
    """A port of a pod is reached at the operator's own machine."""
    node = cluster.control_plane if place == "control plane" else cluster.workers[0]
    server = pods_by_node(echo, "echo")[node]
    said = through_port_forward(echo, server.name, "/hello")
    assert f"hostname: {server.name}\n" in said
    assert "path: /hello\n" in said


def test_top_nodes(cluster: Cluster, kubectl: Kubectl) -> None:
    """Processor time and memory of each node are measured."""

    def measured() -> bool:
        lines = kubectl("top", "nodes", "--no-headers").stdout.splitlines()
        figures = {line.split()[0]: line.split()[3] for line in lines}
        assert set(figures) == set(cluster.nodes)
        assert all(re.fullmatch(r"[1-9]\d*Mi", figure) for figure in figures.values()), lines
        return True

    wait_for(measured, 120, "figures of all nodes")


def test_top_pods(cluster: Cluster, echo: Kubectl) -> None:
    """Memory of pods on each node is measured."""

    def measured() -> bool:
        lines = echo("top", "pods", "--no-headers").stdout.splitlines()
        assert len(lines) == 2 * len(cluster.nodes), lines
        return True

    wait_for(measured, 120, "figures of all pods")


def test_proxy_to_a_pod(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """The API server itself reaches a pod and a Service, as dashboards need it."""
    assert "ok" in echo("get", "--raw", "/api/v1/namespaces/e2e-echo/services/echo:http/proxy/healthz").stdout


def test_events_and_describe(echo: Kubectl, shells: dict[str, Pod]) -> None:
    """`describe` tells a pod's story with its node and its events."""
    shell = shells[max(shells)]
    said = echo("describe", "pod", shell.name).stdout
    assert shell.node in said
    assert "Started" in said


def test_the_kubeconfig_names_the_cluster(cluster: Cluster) -> None:
    """The administrator's kubeconfig is private, has one context and verifies the server."""
    assert cluster.kubeconfig.stat().st_mode & 0o077 == 0
    shown = cluster.kubectl("config", "view", "--raw", "--output=json").json
    assert [context["name"] for context in shown["contexts"]] == [shown["current-context"]]
    assert "certificate-authority-data" in shown["clusters"][0]["cluster"]
    assert "insecure" not in json.dumps(shown)
