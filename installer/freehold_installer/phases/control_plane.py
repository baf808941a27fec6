"""A control plane: its files are streamed in the order they are needed, while the machine starts what it has.

Four things go on at once: bytes flow, the machine converges, as soon as the API answers its objects are made, and a
control plane that is a node too prepares and joins.
"""

from typing import Any

from gevent.event import Event

from freehold_agent.contract.resources import to_json
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_installer.desired import cluster
from freehold_installer.engine.lanes import Lane
from freehold_installer.errors import StepError
from freehold_installer.phases import access, leave, nodes, release, trust
from freehold_installer.phases.cluster_state import ClusterState
from freehold_installer.phases.progress import change_reporter
from freehold_installer.plan import Plan

ARTIFACTS = "artifact service"
"""Signal: nodes may fetch from here."""
API = "API"
"""Signal: the API is ready and holds what admission needs."""

ARTIFACTS_UNIT = "unit:freehold-artifacts.service"
API_UNIT = "unit:kube-apiserver.service"
READY_TIMEOUT = 180.0
"""Seconds from the start of the API server to `/readyz`."""


def run(lane: Lane, state: ClusterState, plan: Plan) -> None:
    """Bring one control-plane machine to what it should be. Raises StepError."""
    context = state.context(lane.host)
    resources = cluster.control_plane_resources(context)
    is_node = lane.host.name in {host.name for host in state.inventory.nodes}
    digests = [artifact.sha256 for artifact in cluster.stream_order(resources)]
    started = Started(lane)

    lane.beside("stream", lambda: _stream(lane, state, digests))
    lane.beside("access", lambda: _access(lane, state, plan, started))
    if is_node:
        lane.beside("node", lambda: nodes.run(lane, state))
    request = {
        "verb": "converge",
        "owner": cluster.OWNER,
        "resources": [to_json(resource) for resource in resources],
        "deliver": "wait",
    }
    lane.machine.program(request, change_reporter(lane, "converge", started.see), timeout=900)
    # What had not to be started runs already.
    started.all()


class Started:
    """Tells others which units the machine has started so far."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.api_server = Event()

    def see(self, event: dict[str, Any]) -> None:
        """Take notice of a progress event of `converge`."""
        if event.get("state") == "done" and event.get("key") == ARTIFACTS_UNIT:
            self._lane.signal(ARTIFACTS, self._lane.host.name)
        if event.get("state") == "done" and event.get("key") == API_UNIT:
            self.api_server.set()

    def all(self) -> None:
        """Everything runs."""
        self._lane.signal(ARTIFACTS, self._lane.host.name)
        self.api_server.set()


def _stream(lane: Lane, state: ClusterState, digests: list[str]) -> None:
    files = release.local_files(lane.run.store, state.manifest, digests)
    sent = lane.machine.stream(
        files,
        lambda done, total: lane.step("sending files", done, total),
        on_event=change_reporter(lane, "receive"),
        titles={entry.sha256: entry.name for entry in state.manifest.entries},
    )
    if sent:
        lane.step(f"sent {sent >> 20} MiB")


def _access(lane: Lane, state: ClusterState, plan: Plan, started: Started) -> None:
    """Make the API's objects once it is ready, then tell all lanes. Raises StepError."""
    started.api_server.wait()
    api = access.api_of(lane.machine, lane.host.internal_address, state.pki, trust.ADMIN)
    try:
        wait_until_ready(api, lane.name)
        if plan.objects:
            _make_objects(lane, state, plan, api)
        else:
            lane.signal(API, lane.host.name)
    except (ApiError, OSError) as error:
        raise StepError(lane.name, "rights, policies and DNS", str(error)) from error
    finally:
        api.close()


def _make_objects(lane: Lane, state: ClusterState, plan: Plan, api: KubernetesApi) -> None:
    lane.step("rights, policies and DNS")
    trusted = access.all_trust_objects()
    if not access.is_bound(api):
        with access.first_api(lane.machine, lane.host.internal_address, state.pki) as first:
            access.apply(first, lane.name, trusted)
    else:
        access.apply(api, lane.name, [body for _, body in access.changes_in(api, trusted)])
    leave.expel_pending(lane.run, api)
    lane.signal(API, lane.host.name)
    needed = access.base_objects(state.settings(), state.dns_objects())
    access.apply(api, lane.name, [body for _, body in access.changes_in(api, needed)])
    access.remove_superseded(api, lane.name, state.inventory, plan.objects)


def wait_until_ready(api: KubernetesApi, machine: str) -> None:
    """Return when `/readyz` says ok. Raises StepError after READY_TIMEOUT seconds.

    Asked every 50 ms: a watch does not exist before it is ready, and one request costs the server under 1 ms.
    """
    try:
        api.wait_until_healthy(READY_TIMEOUT)
    except (OSError, TimeoutError) as error:
        raise StepError(
            machine,
            "wait for the API",
            str(error),
            hint="journalctl -u kube-apiserver -u etcd on that machine says why",
        ) from error
