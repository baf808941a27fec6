"""What the verbs do, one function each: plan, apply, status, reset. The command line calls these and nothing else."""

from typing import Any

import yaml

from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError
from freehold_installer.phases import leave, look, phases_of_apply, report, trust
from freehold_installer.phases import logs as journals
from freehold_installer.phases.cluster_state import url
from freehold_installer.plan import Plan

CONFIRM = "Apply this?"


def plan(run: Run) -> Plan:
    """Return what apply would change. Writes nothing on any machine; on the operator's side only host keys."""
    return look.plan_of(run, look.state_of(run))


def apply(run: Run) -> Plan:
    """Bring the cluster to what the inventory says; return the plan that was carried out.

    Shows the plan and asks unless told otherwise. Raises FreeholdError; running it again goes on from there.
    """
    run.begin_changes()
    state = look.state_of(run)
    planned = look.plan_of(run, state)
    wanted = run.options.plan_digest
    if wanted and planned.to_json()["digest"] != wanted:
        raise InputError(
            "the machines or the inventory are not what they were when the plan was made; nothing was changed",
            hint="look at a new one: freehold plan",
        )
    if planned.empty:
        if not run.state_dir.kubeconfig.exists():  # killed just before it was written, or deleted
            write_kubeconfig(run)
        return planned
    run.console.show_plan(planned)
    run.confirm(CONFIRM, "apply changes machines and nobody said yes")
    trust.issue(run.inventory, state.pki)
    run.execute(phases_of_apply(state, planned))
    write_kubeconfig(run)
    return planned


def kubeconfig(run: Run) -> bytes:
    """Return the administrator's kubeconfig as YAML. Raises InputError before the first apply."""
    return _kubeconfig(run)


def write_kubeconfig(run: Run) -> None:
    """Keep the administrator's kubeconfig in the state directory, readable by its owner only."""
    run.state_dir.write_private("kubeconfig", _kubeconfig(run))


def status(run: Run) -> dict[str, Any]:
    """Return machines, units and nodes as JSON values; what does not answer is named, never assumed good."""
    return report.status(run)


def logs(run: Run, units: list[str], since: str) -> dict[str, str]:
    """Return what units logged, by machine. Raises StepError."""
    return journals.collect(run, units, since)


def reset(run: Run) -> dict[str, Any]:
    """Remove freehold from the chosen machines (all: the whole cluster); return what was removed where."""
    return leave.reset(run)


def _kubeconfig(run: Run) -> bytes:
    pki = PkiDirectory(str(run.state_dir.pki))
    if trust.ADMIN.name in pki.missing([trust.ADMIN]):
        raise InputError(
            f"cluster {run.inventory.name} has no administrator's certificate yet",
            hint="freehold apply first",
        )
    config = run.inventory.config.control_plane
    plane = run.inventory.control_planes[0]
    # Known by its own address from outside; the endpoint, when HA is built, goes before it.
    address = str(config.standalone.advertise_address or plane.address)
    content = pki.kubeconfig(run.inventory.name, url(address, 6443), trust.ADMIN)
    return yaml.safe_dump(content, sort_keys=False).encode()
