"""A machine becomes a node: prepared while the control plane starts, admitted by it, then joined.

Over SSH no token exists: the installer calls the same admission as the join service. The bootstrap credential is
asked for last and travels on the program's standard input.
"""

import dataclasses
import json
from typing import Any

from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import documents
from freehold_bootstrap.errors import BootstrapError, Refused
from freehold_bootstrap.node_admission import NodeRequest, admit, bootstrap_credential, finish, labels_of
from freehold_bootstrap.node_record import NodeRecord
from freehold_installer.config import Host
from freehold_installer.engine.lanes import Lane
from freehold_installer.errors import StepError
from freehold_installer.phases import access, trust
from freehold_installer.phases.cluster_state import ClusterState
from freehold_installer.phases.progress import change_reporter


def request_for(state: ClusterState, host: Host) -> NodeRequest:
    """Return what admission is asked for."""
    document = state.seen[host.name].document
    return NodeRequest(
        name=host.name,
        addresses=(str(host.internal_address),),
        labels=state.inventory.labels_for(host),
        taints=tuple(
            {"key": taint.key, "value": taint.value, "effect": taint.effect}
            for taint in state.inventory.taints_for(host)
        ),
        control_plane=host.is_control_plane,
        node_uid=document.node_uid if document else "",
    )


def expected_document(state: ClusterState, host: Host) -> JoinDocument:
    """Return the document that admission would write, as far as it is known before admission."""
    request = request_for(state, host)
    known = state.seen[host.name].document
    record = NodeRecord(
        node=host.name,
        addresses=request.addresses,
        join_uid="",
        node_uid=known.node_uid if known else "",
        control_plane=request.control_plane,
        labels=labels_of(request),
        taints=tuple(request.taints),
    )
    pod_cidrs = known.network.node_pod_cidrs if known else ()
    document = documents.render(state.settings(), record, pod_cidrs)
    return dataclasses.replace(document, generation=known.generation if known else 1)


def prepare(lane: Lane, state: ClusterState, *, local: bool) -> None:
    """Bring everything onto a new machine that needs no admission: files, containerd, images.

    `local`: the installer streams the artifacts to this machine itself, so they are waited for, not fetched.
    A machine that is a node already is brought up to date as a whole by the join: its resident agent keeps it as
    its present document says, and would take away what that does not name.
    """
    if state.seen[lane.host.name].document is not None:
        return
    request = {
        "verb": "prepare",
        "document": expected_document(state, lane.host).to_json(),
        "deliver": "wait" if local else "fetch",
    }
    lane.machine.program(request, change_reporter(lane, "prepare"), timeout=900)


def run(lane: Lane, state: ClusterState) -> None:
    """Prepare, admit and join one machine. Raises StepError."""
    if lane.host.is_control_plane:
        prepare(lane, state, local=True)
    else:
        lane.wait_for("artifact service")
        prepare(lane, state, local=False)
    lane.step("waiting for the API")
    plane = lane.wait_for("API")
    control = state.inventory.hosts[plane]
    api = access.api_of(lane.run.machines[plane], control.internal_address, state.pki, trust.INSTALLER)
    try:
        _join(lane, state, api)
    except BootstrapError as error:
        raise StepError(lane.name, "admission", str(error), hint=getattr(error, "hint", "")) from error
    except (ApiError, OSError) as error:
        raise StepError(lane.name, "admission", str(error)) from error
    finally:
        api.close()


def _join(lane: Lane, state: ClusterState, api: KubernetesApi) -> None:
    lane.step("admission")
    asked = request_for(state, lane.host)
    document = admit(api, asked, state.settings())

    def credential(_event: dict[str, Any]) -> bytes:
        try:
            given = bootstrap_credential(api, lane.host.name)
        except Refused as refused:
            if refused.reason != "node-exists" or asked.node_uid != document.node_uid:
                raise
            # This very node, as its own document says: its certificate has expired. It gets another join.
            admit(api, dataclasses.replace(asked, replace=True), state.settings())
            given = bootstrap_credential(api, lane.host.name)
        return json.dumps({"token": given.token, "expires": given.expires}).encode() + b"\n"

    lane.step("joining")
    request = {
        "verb": "join",
        "document": document.to_json(),
        "deliver": "wait" if lane.host.is_control_plane else "fetch",
    }
    lane.machine.program(request, change_reporter(lane, "join"), credential, timeout=900)
    finish(api, lane.host.name)


def settle(lane: Lane) -> None:
    """Do what nobody waits for: images of add-ons, removal of what is not needed any more, bytes made durable."""
    request = {"verb": "settle", "deliver": "wait" if lane.host.is_control_plane else "fetch"}
    lane.machine.program(request, change_reporter(lane, "settle"), timeout=900)
