"""Look at the machines: facts, what freehold has there, and the difference to the inventory. Changes nothing."""

import time
from collections.abc import Mapping
from typing import Any

from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.contract.resources import Change, File, key_of, to_json
from freehold_agent.machine.kubernetes_api import ApiError
from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.config import Host
from freehold_installer.desired import cluster
from freehold_installer.engine.machine import Machine
from freehold_installer.engine.run import Run
from freehold_installer.errors import FreeholdError, UnfitError, joined
from freehold_installer.phases import access, clocks, leave, nodes, preflight, release, trust, verify
from freehold_installer.phases.cluster_state import ClusterState, Seen
from freehold_installer.plan import Content, MachinePlan, Plan, without_secrets


def look_at(machine: Machine) -> Seen:
    """Return what one machine says of itself. Raises StepError."""
    asked = time.time()
    answer = machine.program({"verb": "look"}, timeout=60)
    ahead = clocks.difference(asked, answer["facts"]["time"], time.time())
    try:
        document = JoinDocument.from_json(answer["document"]) if answer.get("document") else None
    except DocumentError:
        # Of another version or damaged: it will be written anew.
        document = None
    return Seen(answer["facts"], document, tuple(answer["owners"]), ahead)


def state_of(run: Run) -> ClusterState:
    """Connect, look at every machine, refuse those that cannot work. Raises UnfitError, BundleError, ..."""
    run.connect()
    seen: Mapping[str, Seen] = run.each(look_at)
    failures: list[FreeholdError] = []
    for name, host in run.inventory.hosts.items():
        found = preflight.problems(run.inventory, host, seen[name].facts, installed=seen[name].installed)
        failures += [UnfitError(f"{name}: {problem}") for problem in found]
        if "node" in seen[name].owners and not run.inventory.is_node(host):
            failures.append(
                UnfitError(
                    f"{name} is a node, and standalone.joinNode.enabled is false now",
                    hint="a control plane cannot stop being a node yet: let it be true, or reset all machines first",
                )
            )
    differences = {name: seen[name].ahead for name in run.inventory.hosts}
    failures += [UnfitError(problem, hint=clocks.HINT) for problem in clocks.problems(differences)]
    pki = PkiDirectory(str(run.state_dir.pki))
    failures += _of_another_cluster(run, pki, seen)
    failures += _of_another_network(run, seen)
    if failures:
        raise joined(failures)
    architectures = {name: seen[name].facts["architecture"] for name in seen}
    config = run.inventory.config
    manifest = release.manifest_for(
        run.store,
        config.control_plane.distro.k8s.version,
        architectures,
        metrics_server=config.deploy.metrics_server.enabled,
        unwanted=release.unwanted(config),
        coredns_image=not config.control_plane.coredns.embedded,
    )
    return ClusterState(run.inventory, pki, manifest, seen)


def _of_another_cluster(run: Run, pki: PkiDirectory, seen: Mapping[str, Seen]) -> list[FreeholdError]:
    """Refuse machines installed with other keys: new ones would make their data unreadable."""
    try:
        ca = pki.ca_pem().strip()
    except PkiError:
        ca = ""
    strangers = [
        name
        for name, found in ((name, seen[name]) for name in run.inventory.hosts)
        if found.installed and (not ca or (found.document is not None and ca not in found.document.ca_pem))
    ]
    hint = (
        "XDG_STATE_HOME says where they are; or reset the machines first, with all their data: freehold reset"
    )
    return [
        UnfitError(f"{name} was installed with keys that are not in {run.state_dir.path}", hint=hint)
        for name in strangers
    ]


def _of_another_network(run: Run, seen: Mapping[str, Seen]) -> list[FreeholdError]:
    """Refuse to change the pod network under running pods, and to leave Services' rules of a kube-proxy behind."""
    deploy = run.inventory.config.deploy
    hint = "it cannot be changed yet: put the key back, or reset all machines first"
    found = []
    for name in run.inventory.hosts:
        document = seen[name].document
        if document is None:
            continue
        if document.network.flannel != deploy.cni.flannel.enabled:
            state = "has" if document.network.flannel else "has not"
            found.append(UnfitError(f"{name} {state} flannel, against deploy.cni.flannel.enabled", hint=hint))
        if document.network.kube_proxy and not deploy.kube_proxy.enabled:
            found.append(UnfitError(f"{name} has kube-proxy, against deploy.kubeProxy.enabled", hint=hint))
    return list(found)


def plan_of(run: Run, state: ClusterState) -> Plan:
    """Return what apply would do. Writes nothing anywhere."""
    control = {host.name: host for host in state.inventory.control_planes}
    node_names = {host.name for host in state.inventory.nodes}

    def one(machine: Machine) -> MachinePlan:
        host = run.inventory.hosts[machine.name]
        parts = []
        if machine.name in control:
            parts.append(_control_plan(machine, state, host))
        if machine.name in node_names:
            parts.append(_node_plan(machine, state, host))
        return _merged(
            machine.name,
            parts,
            preflight.notes(state.seen[machine.name].facts, node=machine.name in node_names),
        )

    machines = run.each(one)
    return Plan(
        cluster=run.inventory.name,
        machines=tuple(machines[name] for name in run.inventory.hosts if name in machines),
        to_be_issued=tuple(trust.to_be_issued(run.inventory, state.pki)),
        objects=tuple(_object_changes(run, state, tuple(machines.values()))),
        notes=(_room_for_nodes(state),),
        others=tuple(_other_nodes(run, state)),
    )


def _control_plan(machine: Machine, state: ClusterState, host: Host) -> MachinePlan:
    resources = cluster.control_plane_resources(state.context(host))
    answer = machine.program(
        {"verb": "plan", "owner": cluster.OWNER, "resources": [to_json(r) for r in resources]}, timeout=120
    )
    secret = [r for r in resources if isinstance(r, File) and r.secret]
    changes = without_secrets([Change.from_json(change) for change in answer["changes"]], secret)
    hidden = {key_of(r) for r in secret}
    return MachinePlan(machine.name, tuple(changes), _contents(answer, hidden))


def _node_plan(machine: Machine, state: ClusterState, host: Host) -> MachinePlan:
    document = nodes.expected_document(state, host)
    answer = machine.program({"verb": "plan", "document": document.to_json()}, timeout=120)
    hidden = set(answer["secret"])
    changes = [Change.from_json(change) for change in answer["changes"]]
    return MachinePlan(
        machine.name,
        tuple(change for change in changes if change.key not in hidden)
        + tuple(Change(c.key, c.action, None, None, c.title) for c in changes if c.key in hidden),
        _contents(answer, hidden),
    )


def _contents(answer: Mapping[str, Any], hidden: set[str]) -> dict[str, Content]:
    return {
        key: Content(text["before"] or "", text["after"] or "")
        for key, text in answer["texts"].items()
        if key not in hidden
    }


def _merged(name: str, parts: list[MachinePlan], notes: list[str]) -> MachinePlan:
    """Return one plan of a machine's roles; what both need is changed once."""
    changes: dict[str, Change] = {}
    contents: dict[str, Content] = {}
    for part in parts:
        for change in part.changes:
            changes.setdefault(change.key, change)
        contents |= part.contents
    return MachinePlan(name, tuple(changes.values()), contents, tuple(notes))


def _object_changes(run: Run, state: ClusterState, machines: tuple[MachinePlan, ...]) -> list[Change]:
    """Return the changes in the API: all objects when it does not run yet, else those that differ."""
    objects = [
        *access.all_trust_objects(),
        *access.base_objects(state.settings(), state.dns_objects()),
        *access.addon_objects(state.inventory, state.pki, state.metrics_server_image),
        *access.manifests(state.inventory),
    ]
    admissions = [
        Change(f"object:Node {host.name}", "create", None, {})
        for host in state.inventory.nodes
        if state.seen[host.name].document is None
    ]
    # Nodes of machines that left while the API did not answer go before others are admitted.
    admissions = [
        *(
            Change(f"object:Node {name}", "delete", {}, None, "its machine has left")
            for name in leave.pending(run)
        ),
        *admissions,
    ]
    plane = state.inventory.control_planes[0]
    if "control" not in state.seen[plane.name].owners or trust.to_be_issued(state.inventory, state.pki):
        return [*access.all_created(objects), *admissions]
    api = access.api_of(run.machines[plane.name], plane.internal_address, state.pki, trust.ADMIN)
    try:
        if not access.is_bound(api):
            return [*access.all_created(objects), *admissions]
        leftovers = [
            Change(f"object:Pod kube-system/{pod}", "delete", {}, None, "of a run that was killed")
            for pod in verify.probe_pods(api)
        ]
        removals = access.superseded_in(api, state.inventory)
        changes = (change for change, _ in access.changes_in(api, objects))
        return [*changes, *removals, *leftovers, *admissions]
    except (OSError, ApiError) as error:
        # It is down: apply will start it and look again.
        if any(change.key == "unit:kube-apiserver.service" for m in machines for change in m.changes):
            return [*access.all_created(objects), *admissions]
        run.note(f"the API does not answer, so what it holds was not looked at: {error}", "warning")
        return admissions
    finally:
        api.close()


def _other_nodes(run: Run, state: ClusterState) -> list[str]:
    """Return the nodes that joined without SSH; none while the API does not answer, which is said elsewhere."""
    plane = state.inventory.control_planes[0]
    if "control" not in state.seen[plane.name].owners or state.pki.missing([trust.ADMIN]):
        return []
    api = access.api_of(run.machines[plane.name], plane.internal_address, state.pki, trust.ADMIN)
    try:
        names = [node["metadata"]["name"] for node in api.list("/api/v1/nodes")["items"]]
    except (OSError, ApiError):
        return []
    finally:
        api.close()
    gone = {*state.inventory.hosts, *leave.pending(run)}
    return [name for name in names if name not in gone]


def _room_for_nodes(state: ClusterState) -> str:
    networking = state.inventory.config.networking
    return (
        f"{networking.pod_cidr} has room for {state.inventory.max_nodes} nodes "
        f"(/{networking.node_cidr_mask_size} each); {len(state.inventory.nodes)} in the inventory"
    )
