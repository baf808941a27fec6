"""The last phase: watch until nodes are Ready and pods can use names and Services; say what is missing otherwise.

A pause pod is placed on each node and its network is used from the machine (`freehold_agent.probe`), so that no
image beside pause is needed. It is removed again.
"""

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import stamina

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_installer.engine.lanes import Lane
from freehold_installer.errors import StepError
from freehold_installer.phases import access, trust
from freehold_installer.phases.cluster_state import ClusterState

NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/kube-system/pods"
LABEL = "freehold.io/verify"
NETWORK_MISSING = "container runtime network not ready"
"""How a kubelet's message begins when there is no CNI configuration."""
NO_NETWORK = (
    "{} not Ready: a pod network of yours is waited for, because deploy.cni.flannel.enabled is false. "
    "Nodes become Ready by themselves when it has come (freehold status); pods were not tried"
)
NO_PROXY = (
    "Services were not tried: deploy.kubeProxy.enabled is false, so a proxy of yours makes them reachable"
)
CLOSED_PORT = 9
"""Nobody listens there in a probe pod."""
TIMEOUT = 120.0
"""Seconds for each of: nodes Ready, probe pods running, answers from them."""


def run(lane: Lane, state: ClusterState) -> None:
    """Watch until everything works. Raises StepError naming what is missing and why."""
    api = access.api_of(lane.machine, lane.host.internal_address, state.pki, trust.ADMIN)
    names = [host.name for host in state.inventory.nodes]
    if not names:
        lane.step("no node yet")
        return
    try:
        lane.step("nodes Ready")
        deploy = state.inventory.config.deploy
        waiting = _wait_for_nodes(api, lane.name, names, own_network=deploy.cni.flannel.enabled)
        if waiting:
            lane.run.note(NO_NETWORK.format(", ".join(waiting)), "warning")
            return
        lane.step("names and Services from pods")
        _probe(lane, state, api, names)
        if not deploy.kube_proxy.enabled:
            lane.run.note(NO_PROXY, "warning")
    except (ApiError, OSError) as error:
        raise StepError(lane.name, "verify", str(error)) from error
    finally:
        api.close()


def _wait_for_nodes(api: KubernetesApi, machine: str, names: list[str], *, own_network: bool) -> list[str]:
    """Return the nodes that lack nothing but a pod network which is not ours to bring; wait for the others."""
    reasons = dict.fromkeys(names, "not registered")

    def without_network(name: str) -> bool:
        return not own_network and reasons[name].startswith(NETWORK_MISSING)

    def ready(node: Mapping[str, Any]) -> bool:
        reasons[node["metadata"]["name"]] = _why_not_ready(node)
        return all(not reasons[name] or without_network(name) for name in names)

    if not _watch_until(api, NODES, {}, ready):
        waiting = "; ".join(f"{name}: {reasons[name]}" for name in names if reasons[name])
        raise StepError(
            machine, "wait for nodes", waiting, hint="journalctl -u kubelet on that machine says why"
        )
    return [name for name in names if reasons[name]]


def _why_not_ready(node: Mapping[str, Any]) -> str:
    conditions = node.get("status", {}).get("conditions", [])
    ready = next((c for c in conditions if c["type"] == "Ready"), None)
    if ready is None:
        return "its kubelet has not reported"
    return (
        "" if ready["status"] == "True" else str(ready.get("message") or ready.get("reason") or "not Ready")
    )


def probe_pods(api: KubernetesApi) -> list[str]:
    """Return the names of pods that a run placed to use their network. Raises ApiError, OSError."""
    return [pod["metadata"]["name"] for pod in api.list(PODS, labelSelector=LABEL)["items"]]


def _probe(lane: Lane, state: ClusterState, api: KubernetesApi, names: list[str]) -> None:
    image = state.manifest.entry("images/pause.tar").image
    pods = {f"freehold-verify-{name}": name for name in names}
    _remove(api, probe_pods(api))
    try:
        for pod, node in pods.items():
            api.create(PODS, _pod(pod, node, image))
        addresses = _wait_for_pods(api, lane.name, pods)
        if not state.inventory.is_node(lane.host):
            for pod in pods:
                _wait_for_way(api, lane.name, pod)
        if not state.inventory.config.deploy.kube_proxy.enabled:
            return
        networking = state.inventory.config.networking
        request = {
            "verb": "probe",
            "name": f"kubernetes.default.svc.{networking.cluster_domain}",
            "server": str(networking.dns_address),
            "port": 443,
            "timeout": TIMEOUT,
        }

        def ask(machine: Any) -> Any:
            return machine.program({**request, "pod_address": addresses[machine.name]}, timeout=TIMEOUT + 30)

        lane.run.each(ask, names)
    finally:
        _remove(api, pods)


def _wait_for_way(api: KubernetesApi, machine: str, pod: str) -> None:
    """Return once the API server gets an answer from a pod's address: that nobody listens there is one.

    Webhooks and aggregated APIs go this way. Raises StepError.
    """
    try:
        for attempt in stamina.retry_context(
            on=_NoWayError, attempts=None, timeout=TIMEOUT, wait_initial=0.05, wait_max=1.0
        ):
            with attempt:
                _try_the_way(api, pod)
    except _NoWayError as error:
        raise StepError(
            machine,
            "reach pods from the API server",
            f"{pod}: {error}",
            hint="journalctl -u freehold-pod-routes on that machine, and `ip route` there",
        ) from error


class _NoWayError(Exception):
    pass


def _try_the_way(api: KubernetesApi, pod: str) -> None:
    try:
        api.get(f"{PODS}/{pod}:{CLOSED_PORT}/proxy/")
    except ApiError as error:
        if "connection refused" not in error.message:
            raise _NoWayError(error.message) from error
    except OSError as error:
        raise _NoWayError(str(error)) from error


def _pod(pod: str, node: str, image: str) -> dict[str, Any]:
    affinity = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "labels": {LABEL: "true"}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            # The scheduler places it, so that the scheduler is seen to work.
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [affinity]}
                }
            },
            "containers": [
                {
                    "name": "pause",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "runAsNonRoot": True,
                        "runAsUser": 65535,
                    },
                }
            ],
        },
    }


def _wait_for_pods(api: KubernetesApi, machine: str, pods: Mapping[str, str]) -> dict[str, str]:
    """Return the pods' addresses by node."""
    addresses: dict[str, str] = {}
    reasons = dict.fromkeys(pods, "not seen")

    def running(pod: Mapping[str, Any]) -> bool:
        name = pod["metadata"]["name"]
        if name in pods:
            status = pod.get("status", {})
            reasons[name] = _why_not_running(status)
            if status.get("phase") == "Running" and status.get("podIP"):
                addresses[pods[name]] = status["podIP"]
        return len(addresses) == len(pods)

    if not _watch_until(api, PODS, {"labelSelector": LABEL}, running):
        waiting = "; ".join(f"{pod}: {reasons[pod]}" for pod, node in pods.items() if node not in addresses)
        raise StepError(machine, "start a pod on each node", waiting)
    return addresses


def _why_not_running(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("message"):
            return str(waiting["message"])
    for condition in status.get("conditions", []):
        if condition["status"] == "False" and condition.get("message"):
            return str(condition["message"])
    return str(status.get("phase", "unknown"))


def _watch_until(api: KubernetesApi, path: str, query: Mapping[str, str], done: Any) -> bool:
    """Show every object to `done` until it says yes; False after TIMEOUT seconds.

    A watch that breaks begins again: an API server that has just started ends some.
    """
    deadline = time.monotonic() + TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        listing = api.list(path, **query)
        if True in {done(item) for item in listing["items"]}:
            return True
        version = listing["metadata"]["resourceVersion"]
        with contextlib.suppress(OSError):
            for kind, item in api.watch(path, resource_version=version, timeout=left, **query):
                if kind in ("ADDED", "MODIFIED") and done(item):
                    return True
    return False


def _remove(api: KubernetesApi, pods: Iterable[str]) -> None:
    for pod in pods:
        try:
            api.delete(f"{PODS}/{pod}", gracePeriodSeconds=0)
        except NotFound:
            continue
