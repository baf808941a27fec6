"""Reset: a machine leaves, and nothing of freehold is left on it.

A single machine is taken out of the cluster first: its Node, record and document go before its files, so that its
credential is worth nothing from that moment. With all machines there is no cluster left to tell. A machine that
cannot be reached keeps nobody else from leaving: it is named at the end, and the same command goes on.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap import documents, node_admission, node_record, volume_records
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.engine.adapter import in_parallel
from freehold_installer.engine.lanes import Lane, Phase
from freehold_installer.engine.run import Run
from freehold_installer.errors import FreeholdError, InputError, UnfitError, UnreachableError, joined
from freehold_installer.phases import access, trust
from freehold_installer.phases.progress import change_reporter

PENDING = "nodes-to-remove.json"
"""In the state directory: Nodes of machines that left while the API did not answer."""
PODS = "/api/v1/pods"


def reset(run: Run) -> dict[str, Any]:
    """Remove freehold from the chosen machines, or all. Raises FreeholdError; running it again goes on.

    What can be reached is reset before UnreachableError names the rest.
    """
    everything = not run.options.machines or set(run.options.machines) == set(run.inventory.hosts)
    names = list(run.inventory.hosts) if everything else list(run.options.machines)
    planes = {host.name for host in run.inventory.control_planes}
    for name in names:
        run.host(name)
    if not everything and planes & set(names):
        raise InputError(
            f"{', '.join(sorted(planes & set(names)))} holds the control plane: the other machines would be orphans",
            hint="reset all machines, or only workers",
        )
    what = "all machines of the cluster, with all its data," if everything else ", ".join(names)
    run.begin_changes()
    run.confirm(f"Remove freehold from {what} for good?", "reset removes everything and nobody said yes")
    away = _connect(run, names if everything else {*names, run.inventory.control_planes[0].name})
    lost = [away[name] for name in names if name in away]
    here = [name for name in names if name not in away]
    removed: dict[str, Any] = {}
    api = None if everything else _api(run, names)
    try:
        told = api is not None and _expel_all(run, api, names)
        if here:
            leave = Phase("leave", "everything of freehold is removed", lambda lane: _leave(lane, removed))
            run.execute([leave], here)
        if api is not None and told:
            _remove_pods(run, api, here)
    except FreeholdError as error:
        raise joined([error, *lost]) from error
    finally:
        if api is not None:
            api.close()
    if lost:
        raise _said(joined(lost), here)
    if everything:
        _forget(run)
    return {"cluster": run.inventory.name, "removed": removed}


def pending(run: Run) -> list[str]:
    """Return the Nodes that still have to be taken out of the cluster."""
    try:
        names = json.loads((run.state_dir.path / PENDING).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return [str(name) for name in names]


def expel_pending(run: Run, api: KubernetesApi) -> None:
    """Take out of the cluster what could not be when its machine left. Raises ApiError, OSError."""
    for name in pending(run):
        expel(api, name)
    _set_pending(run, [])


def expel(api: KubernetesApi, name: str) -> None:
    """Take one node out of the cluster: token, Node, record, document, lists of volumes. Raises ApiError, OSError.

    Should its machine come back, the list is made anew from the PersistentVolumes.
    """
    node_admission.finish(api, name)
    volumes = [
        f"{node_record.RECORDS}/{volume_records.name_of(kind, name)}"
        for kind in (volume_records.LIST, volume_records.REPORT)
    ]
    record, document = node_record.record_path(name), documents.document_path(name)
    for path in (f"/api/v1/nodes/{name}", record, document, *volumes):
        with contextlib.suppress(NotFound):
            api.delete(path)


def _leave(lane: Lane, removed: dict[str, Any]) -> None:
    removed[lane.name] = lane.machine.program({"verb": "leave"}, change_reporter(lane, "leave"), timeout=300)


def _connect(run: Run, names: Iterable[str]) -> dict[str, FreeholdError]:
    """Connect to all that can be reached; return why not, by machine. Raises InputError and the like."""
    failures: dict[str, FreeholdError] = {}

    def one(host: Any) -> None:
        try:
            run.connect([host.name])
        except (UnreachableError, UnfitError) as reason:
            failures[host.name] = reason

    in_parallel([run.host(name) for name in names], one)
    return failures


def _api(run: Run, names: Sequence[str]) -> KubernetesApi | None:
    """Return a client of the cluster, None when there is none or its control plane cannot be reached."""
    plane = run.inventory.control_planes[0]
    pki = PkiDirectory(str(run.state_dir.pki))
    if pki.missing([trust.ADMIN]):
        return None
    if plane.name not in run.machines:
        _postpone(run, names, f"{plane.name} cannot be reached")
        return None
    return access.api_of(run.machines[plane.name], plane.internal_address, pki, trust.ADMIN)


def _expel_all(run: Run, api: KubernetesApi, names: Sequence[str]) -> bool:
    """Take nodes out of the cluster. One that does not answer is said, and no obstacle."""
    try:
        for name in names:
            expel(api, name)
    except (ApiError, OSError) as error:
        _postpone(run, names, f"the API does not answer ({error})")
        return False
    return True


def _postpone(run: Run, names: Sequence[str], reason: str) -> None:
    run.note(f"{reason}; the next apply removes the Nodes {', '.join(names)} from the cluster", "warning")
    _set_pending(run, [*pending(run), *names])


def _set_pending(run: Run, names: Sequence[str]) -> None:
    if names:
        run.state_dir.write_private(PENDING, json.dumps(sorted(set(names))).encode())
    else:
        (run.state_dir.path / PENDING).unlink(missing_ok=True)


def _remove_pods(run: Run, api: KubernetesApi, names: Sequence[str]) -> None:
    """Let pods start elsewhere: their processes are gone, and Kubernetes itself would wait most of a minute."""
    try:
        for name in names:
            for pod in api.list(PODS, fieldSelector=f"spec.nodeName={name}")["items"]:
                meta = pod["metadata"]
                with contextlib.suppress(NotFound):
                    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
                    api.delete(path, gracePeriodSeconds=0)
    except (ApiError, OSError) as error:
        run.note(f"pods of {', '.join(names)} stay listed for a minute: {error}", "warning")


def _said(error: FreeholdError, done: Sequence[str]) -> FreeholdError:
    if done:
        error.hint = (
            f"{', '.join(done)} done; this goes on with the rest once it can be reached\n{error.hint}".strip()
        )
    return error


def _forget(run: Run) -> None:
    """The keys of a cluster that is gone open nothing, and a new one gets new ones."""
    shutil.rmtree(run.state_dir.pki, ignore_errors=True)
    run.state_dir.kubeconfig.unlink(missing_ok=True)
    _set_pending(run, [])
