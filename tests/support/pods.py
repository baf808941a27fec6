"""Pods as tests need them: where one runs and which address it has; and web requests made from somewhere."""

import re
import shlex
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl

PATIENCE = 5
"""Seconds for one request; it takes milliseconds."""


@dataclass(frozen=True)
class Pod:
    """A running pod."""

    name: str
    node: str
    address: str


def make_namespace(kubectl: Kubectl, name: str) -> Kubectl:
    """Create a namespace that takes pods, and return kubectl within it."""
    kubectl("create", "namespace", name)
    there = kubectl.within(name)
    # Pods are refused until the controller manager has made it.
    there.wait("serviceaccount/default", "create")
    return there


def serve_echo(cluster: Cluster, kubectl: Kubectl, name: str) -> Kubectl:
    """Run a web server and a shell on each node (manifests/echo.yaml) in a new namespace; return kubectl within it."""
    there = make_namespace(kubectl, name)
    there.apply(*cluster.objects("echo"))
    there.rolled_out("daemonset/echo", "daemonset/shell")
    return there


def pods_by_node(kubectl: Kubectl, app: str) -> dict[str, Pod]:
    """Return the running pods labelled `app=APP`, one per node."""
    items = kubectl.json("get", "pods", f"--selector=app={app}")["items"]
    return {
        item["spec"]["nodeName"]: Pod(
            item["metadata"]["name"], item["spec"]["nodeName"], item["status"].get("podIP", "")
        )
        for item in items
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]
    }


def containers_of(kubectl: Kubectl, *nodes: str) -> dict[str, Any]:
    """Return identity and start of each container on these nodes, by its pod: what changes when one is another."""
    return {
        pod["metadata"]["name"]: [
            (state["containerID"], state["restartCount"], state["state"]["running"]["startedAt"])
            for state in pod["status"]["containerStatuses"]
        ]
        for pod in kubectl.json("get", "pods")["items"]
        if pod["spec"]["nodeName"] in nodes
    }


@dataclass(frozen=True)
class Reply:
    """What the echo server said about a request; empty when there was no answer."""

    url: str
    server: str = ""
    client: str = ""
    """The address that the server saw."""


def from_pod(kubectl: Kubectl, pod: str, urls: Sequence[str]) -> list[Reply]:
    """Ask each URL from a pod that has a shell. Raises nothing for one that does not answer."""
    script = _script(f"timeout {PATIENCE} wget -q -O-", urls)
    answer = kubectl.exec(pod, "sh", "-c", script, timeout=30 + PATIENCE * len(urls))
    return _replies(urls, answer.stdout)


def from_machine(cluster: Cluster, machine: str, urls: Sequence[str]) -> list[Reply]:
    """Ask each URL from a machine's own network."""
    script = _script(f"curl --silent --max-time {PATIENCE}", urls)
    return _replies(urls, cluster.run(machine, script, timeout=30 + PATIENCE * len(urls)))


def through_port_forward(kubectl: Kubectl, pod: str, path: str) -> str:
    """Ask the web server in a pod at this machine's end of `kubectl port-forward`; return what it said."""
    command = kubectl.command("port-forward", f"pod/{pod}", ":8080")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            matched = re.search(r"127\.0\.0\.1:(\d+)", first)
            assert matched, first
            with urllib.request.urlopen(f"http://127.0.0.1:{matched[1]}{path}", timeout=10) as reply:
                said: str = reply.read().decode()
                return said
        finally:
            process.terminate()


def _script(command: str, urls: Sequence[str]) -> str:
    return "\n".join(f"{command} {shlex.quote(url)} || true; echo ====" for url in urls)


def _replies(urls: Sequence[str], output: str) -> list[Reply]:
    found = output.split("====")[: len(urls)]
    return [Reply(url, _field("hostname", said), _field("remote", said)) for url, said in zip(urls, found)]


def _field(name: str, said: str) -> str:
    matched = re.search(rf"^{name}: (\S+)$", said, re.MULTILINE)
    return matched[1].rsplit(":", 1)[0] if matched else ""
