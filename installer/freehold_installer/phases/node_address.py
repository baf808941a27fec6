"""`freehold node set-address`: a machine got another address, and its node is to go on there.

Record and document are written through the API; the machine takes them by its agent's long poll, as every other change
of its document: no node is connected to.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from freehold_agent.machine.kubernetes_api import KubernetesApi, NotFound
from freehold_bootstrap import node_admission, node_record
from freehold_bootstrap.node_admission import NODES, NodeRequest
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError, StepError
from freehold_installer.phases.membership import admin_api, installer_api, settings_of
from freehold_installer.phases.node_verbs import ROLE_PREFIX
from freehold_installer.phases.report import node_row

_PAUSE = 0.5


def set_address(run: Run, name: str, addresses: Sequence[str], timeout: float) -> dict[str, Any]:
    """Give a node these addresses, the first is its node IP; return what changed, as JSON values.

    Its serving certificates may name no others from then on. Waits at most `timeout` seconds until its kubelet reports
    from there; 0: not at all. Raises FreeholdError.
    """
    _agrees_with_inventory(run, name, addresses)
    run.begin_changes()
    with installer_api(run) as api:
        record = node_record.read(api, name)
        if record is None:
            raise InputError(f"there is no node {name} that freehold admitted", hint="freehold node list")
        document = node_admission.admit(
            api,
            NodeRequest(
                name=name,
                addresses=tuple(addresses),
                labels={k: v for k, v in record.labels.items() if not k.startswith(ROLE_PREFIX)},
                taints=record.taints,
                control_plane=record.control_plane,
                join_uid=record.join_uid,
            ),
            settings_of(api),
        )
    if timeout > 0:
        run.note(f"{name} is told by its agent's long poll; waiting until it reports from {addresses[0]}")
        with admin_api(run) as api:
            _wait_for_report(api, name, addresses[0], timeout)
    return {
        "node": name,
        "before": list(record.addresses),
        "addresses": list(document.addresses),
        "generation": document.generation,
    }


def _agrees_with_inventory(run: Run, name: str, addresses: Sequence[str]) -> None:
    """Raise InputError for what the next apply would undo, and for a control plane."""
    host = run.inventory.hosts.get(name)
    if host is None:
        return
    if host.is_control_plane:
        raise InputError(
            f"{name} is a control plane: its address stands in the certificates and documents of the whole cluster",
            hint="another address of a control plane is not built yet; give the machine its old one back",
        )
    if str(host.internal_address) != addresses[0]:
        raise InputError(
            f"the inventory says that {name} has the address {host.internal_address}",
            hint=f"change hosts.{name} in {run.inventory.path}; then freehold apply, or this command again",
        )


def _wait_for_report(
    api: KubernetesApi, name: str, address: str, timeout: float, clock: Callable[[], float] = time.monotonic
) -> None:
    deadline = clock() + timeout
    while True:
        with contextlib.suppress(NotFound):
            row = node_row(api.get(f"{NODES}/{name}"))
            if row["ready"] and address in row["addresses"]:
                return
        if clock() > deadline:
            raise StepError(
                name,
                "report from its new address",
                f"{name} was given {address} and does not report from there after {timeout:g} s",
                hint="on the machine: has it that address? systemctl restart freehold-agent asks for the document "
                "at once, and its journal says what is missing",
            )
        time.sleep(_PAUSE)
