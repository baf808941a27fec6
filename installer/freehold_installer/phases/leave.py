"""Reset: a machine leaves, and nothing of freehold is left on it.

A single machine is taken out of the cluster first: its Node, record and document go before its files, so that its
credential is worth nothing from that moment. With all machines there is no cluster left to tell.
"""

import shutil
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError, NotFound
from freehold_bootstrap import documents, node_record
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.engine.lanes import Lane, Phase
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError
from freehold_installer.phases import access, trust
from freehold_installer.phases.progress import change_reporter


def reset(run: Run) -> dict[str, Any]:
    """Remove freehold from the chosen machines, or all. Raises FreeholdError; running it again goes on."""
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
    run.connect(names if everything else {*names, run.inventory.control_planes[0].name})
    removed: dict[str, Any] = {}
    if not everything:
        _expel(run, names)
    run.execute(
        [Phase("leave", "everything of freehold is removed", lambda lane: _leave(lane, removed))], names
    )
    if everything:
        _forget(run)
    return {"cluster": run.inventory.name, "removed": removed}


def _leave(lane: Lane, removed: dict[str, Any]) -> None:
    removed[lane.name] = lane.machine.program({"verb": "leave"}, change_reporter(lane, "leave"), timeout=300)


def _expel(run: Run, names: list[str]) -> None:
    """Take nodes out of the cluster. A cluster that does not answer is said, and no obstacle."""
    plane = run.inventory.control_planes[0]
    pki = PkiDirectory(str(run.state_dir.pki))
    if pki.missing([trust.ADMIN]):
        return
    api = access.api_of(run.machines[plane.name], plane.internal_address, pki, trust.ADMIN)
    try:
        for name in names:
            for path in (
                f"/api/v1/nodes/{name}",
                node_record.record_path(name),
                documents.document_path(name),
            ):
                try:
                    api.delete(path)
                except NotFound:
                    continue
    except (ApiError, OSError) as error:
        run.note(f"the API does not answer, so its Nodes stay: {error}", "warning")
    finally:
        api.close()


def _forget(run: Run) -> None:
    """The keys of a cluster that is gone open nothing, and a new one gets new ones."""
    shutil.rmtree(run.state_dir.pki, ignore_errors=True)
    run.state_dir.kubeconfig.unlink(missing_ok=True)
