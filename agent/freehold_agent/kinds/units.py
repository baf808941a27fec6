"""systemd units: what runs, with which inputs, and how it is brought there in few calls."""

import os
import re
from dataclasses import dataclass
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Set

from freehold_agent.contract.resources import Attributes, Unit, key_of
from freehold_agent.errors import StepFailed
from freehold_agent.machine.systemd import Properties, SystemdError
from freehold_agent.this_machine import ThisMachine

_VARIABLE = "FREEHOLD_INPUTS="
_UP = ("active", "reloading")


@dataclass(frozen=True)
class Observation:
    """All units of one look."""

    attributes: Dict[str, Optional[Attributes]]
    properties: Dict[str, Properties]

    @property
    def reload_needed(self) -> bool:
        """A unit file changed since systemd read it."""
        return any(unit.get("NeedDaemonReload") == "yes" for unit in self.properties.values())


def observe_units(names: Sequence[str], machine: ThisMachine) -> Observation:
    """Return what systemd says of the units, in one call. Raises SystemdError."""
    properties = machine.systemd.show(names)
    links = _enabled(machine)
    return Observation(
        {name: _attributes(name, properties[name], links, machine) for name in names}, properties
    )


def start_units(
    units: Sequence[Unit],
    observed: Mapping[str, Optional[Attributes]],
    machine: ThisMachine,
    stale: Collection[str] = (),
) -> None:
    """Bring enabled units to running with their inputs (or to stopped), and look whether they are.

    `stale`: keys of units whose process may have been started with files that were wrong.

    One blocking call starts all of them: what must come one after the other says so in its unit (After=), or
    is separated by another resource. Raises StepFailed with the last journal lines of the unit.
    """
    stop = [unit.name for unit in units if not unit.active and _running(observed.get(key_of(unit)))]
    begin = [
        unit
        for unit in units
        if unit.active and (key_of(unit) in stale or _must_begin(unit, observed.get(key_of(unit))))
    ]
    failed = [unit.name for unit in begin if (observed.get(key_of(unit)) or {}).get("failed")]
    systemd = machine.systemd
    try:
        if failed:
            systemd.reset_failed(*failed)
        if stop:
            systemd.stop(*stop, timeout=max(unit.timeout for unit in units))
        if not begin:
            return
        # restart starts what is not running, too: one call serves both.
        systemd.restart(*[unit.name for unit in begin], timeout=max(unit.timeout for unit in begin))
        seen = observe_units([unit.name for unit in begin], machine)
        missed = [unit for unit in begin if not _has_inputs(unit, seen.attributes[unit.name])]
        if missed:
            # systemd executed itself anew meanwhile and lost the request for some of them.
            systemd.restart(*[unit.name for unit in missed], timeout=max(unit.timeout for unit in missed))
            seen = observe_units([unit.name for unit in begin], machine)
        for unit in begin:
            attributes = seen.attributes[unit.name] or {}
            if not attributes.get("active"):
                raise systemd.failure(unit.name)
            if not _has_inputs(unit, attributes):
                raise StepFailed(
                    key_of(unit),
                    "{} runs with inputs {}, not with {}: does its unit file carry them?".format(
                        unit.name, attributes.get("inputs"), unit.inputs
                    ),
                )
    except SystemdError as error:
        raise step_failed(error) from error


def step_failed(error: SystemdError) -> StepFailed:
    """Return the agent's error for one of systemd's, with the journal as its detail."""
    hint = "journalctl -u " + error.unit if error.unit else ""
    return StepFailed("unit:" + error.unit, str(error), hint=hint, detail=error.journal)


def remove_units(names: Sequence[str], machine: ThisMachine, keep_enabled: Sequence[str] = ()) -> None:
    """Stop units and take them out of the boot. Raises StepFailed."""
    try:
        machine.systemd.stop(*names, timeout=120)
        machine.systemd.reset_failed(*names)
        machine.systemd.disable([name for name in names if name not in keep_enabled])
    except SystemdError as error:
        raise step_failed(error) from error


def _must_begin(unit: Unit, attributes: Optional[Attributes]) -> bool:
    if not _running(attributes):
        return True
    return bool(unit.inputs) and (attributes or {}).get("inputs") != unit.inputs


def _has_inputs(unit: Unit, attributes: Optional[Attributes]) -> bool:
    """Say whether a unit that runs was started with its inputs; what does not run is another matter."""
    return not (_running(attributes) and unit.inputs) or (attributes or {}).get("inputs") == unit.inputs


def _running(attributes: Optional[Attributes]) -> bool:
    return bool(attributes and attributes.get("active"))


def _enabled(machine: ThisMachine) -> Set[str]:
    """Return the units that targets want, from the links on disk.

    systemd itself answers from what it saw at its last reload, which may be older than a link.
    """
    found: Set[str] = set()
    for entry in os.listdir(machine.units):
        if entry.endswith(".wants"):
            found.update(os.listdir(os.path.join(machine.units, entry)))
    return found


def _attributes(
    name: str, properties: Properties, links: Set[str], machine: ThisMachine
) -> Optional[Attributes]:
    state = properties.get("ActiveState", "inactive")
    if properties.get("LoadState") == "not-found" and state in {"inactive", "failed"}:
        return None
    return {
        "enabled": name in links,
        "active": state in _UP,
        "inputs": _inputs(properties, state, machine),
        "failed": state == "failed",
    }


def _inputs(properties: Properties, state: str, machine: ThisMachine) -> Optional[str]:
    if state not in _UP:
        return None
    pid = properties.get("MainPID", "0")
    if pid != "0":
        return _from_process(pid, machine)
    # A oneshot that stays active has no process: what systemd loaded is the best witness there is.
    match = re.search(r'(?:^|[\s"])' + _VARIABLE + r'([^\s"]*)', properties.get("Environment", ""))
    return match.group(1) if match else None


def _from_process(pid: str, machine: ThisMachine) -> Optional[str]:
    try:
        with open(os.path.join(machine.proc, pid, "environ"), "rb") as stream:
            variables: List[bytes] = stream.read().split(b"\0")
    except OSError:
        return None
    for variable in variables:
        if variable.startswith(_VARIABLE.encode()):
            return variable[len(_VARIABLE) :].decode("utf-8", "replace")
    return None
