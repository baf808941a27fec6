"""What follows from claims, volumes and reports: each node's list, and what to write in the cluster. Pure.

The rule above all others: data that somebody may still want is never removed. A directory is removed when its volume
was released and its class says Delete, or when nobody ever got to use it. What leaves a list is left alone.
"""

from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from freehold_agent.contract.volumes import (
    DELETE,
    KEEP,
    MAKE,
    MOST,
    Refusal,
    Volume,
    VolumeList,
    VolumeReport,
    name_is_good,
)
from freehold_bootstrap.identities import VOLUME_FINALIZER
from freehold_controller.volume_provisioner.volume_objects import Claim, Persistent, VolumeClass


@dataclass(frozen=True)
class View:
    """What the cluster says at one moment."""

    classes: Mapping[str, VolumeClass]
    """Ours, by name."""
    claims: Sequence[Claim]
    persistent: Sequence[Persistent]
    nodes: Set[str]
    lists: Mapping[str, VolumeList]
    reports: Mapping[str, VolumeReport]


@dataclass(frozen=True)
class Decisions:
    """What to write, in this order."""

    lists: Dict[str, Tuple[Volume, ...]] = field(default_factory=dict)
    """Lists that say something new; `since` 0 stands for their next generation."""
    unused: List[Tuple[str, str]] = field(default_factory=list)
    """(node, volume) that these lists have removed because nobody got to use them."""
    move: List[Tuple[Claim, Refusal]] = field(default_factory=list)
    """Claims that cannot have their volume on their node."""
    create: List[Claim] = field(default_factory=list)
    """Claims whose directory is there."""
    remove: List[Persistent] = field(default_factory=list)
    """PersistentVolumes whose data is gone, or nobody's to remove."""
    misfits: List[Tuple[Claim, str]] = field(default_factory=list)
    """Claims that ask for what we don't have."""
    faults: List[Tuple[Persistent, str]] = field(default_factory=list)
    """Volumes whose node says that something is wrong."""


def decide(view: View) -> Decisions:
    """Return what follows."""
    decisions = Decisions()
    pending: Dict[str, List[Claim]] = {}
    known = {volume.name for volume in view.persistent}
    for claim in view.claims:
        if _wants(claim, view.classes, known, decisions):
            if claim.node in view.nodes:
                pending.setdefault(claim.node, []).append(claim)
            else:
                decisions.move.append((claim, Refusal("there is no node {}".format(claim.node))))
    volumes: Dict[str, List[Persistent]] = {}
    for volume in view.persistent:
        if VOLUME_FINALIZER in volume.finalizers or not volume.leaving:  # else it is as good as gone
            volumes.setdefault(volume.node, []).append(volume)
    bound = {claim.bound_to for claim in view.claims if claim.bound_to == claim.volume}
    for node in sorted({*pending, *volumes, *view.lists}):
        if node in view.nodes:
            _node(view, node, pending.get(node, ()), volumes.get(node, ()), bound - known, decisions)
        else:
            # Data that nobody wants any more went with the machine; of all other the machine may bring it back.
            decisions.remove.extend(volume for volume in volumes.get(node, ()) if volume.doomed)
    return decisions


def _wants(claim: Claim, classes: Mapping[str, VolumeClass], known: Set[str], decisions: Decisions) -> bool:
    """Say whether a claim is to get a volume now."""
    volume_class = classes.get(claim.class_name)
    if volume_class is None or claim.bound_to or claim.leaving or claim.volume in known:
        return False
    if not name_is_good(claim.volume):
        return False
    misfit = claim.misfit
    if not misfit and not volume_class.waits:
        misfit = "StorageClass {} needs volumeBindingMode WaitForFirstConsumer".format(claim.class_name)
    if misfit:
        decisions.misfits.append((claim, misfit))
        return False
    return bool(claim.node)


def _node(
    view: View,
    node: str,
    pending: Sequence[Claim],
    persistent: Sequence[Persistent],
    fresh: Set[str],
    decisions: Decisions,
) -> None:
    """Decide about one node. `fresh`: volumes that have a claim, though we have not seen them yet."""
    listed = view.lists.get(node, VolumeList())
    report = view.reports.get(node, VolumeReport())
    old = {volume.name: volume for volume in listed.volumes}
    new: Dict[str, Volume] = {}
    unused = []
    for volume in persistent:
        entry = old.get(volume.name)
        if volume.free_to_go and volume.retain:
            decisions.remove.append(volume)
        else:
            state = DELETE if volume.doomed or (entry and entry.state == DELETE) else KEEP
            wanted = Volume(volume.name, volume.base, volume.capacity, state, 0, volume.retain)
            new[volume.name] = entry = _since(wanted, entry)
            if _told(entry, report) and volume.name in report.failed:
                decisions.faults.append((volume, report.failed[volume.name]))
            if state == DELETE and volume.doomed and _told(entry, report) and volume.name in report.deleted:
                decisions.remove.append(volume)
    for claim in pending:
        entry = old.get(claim.volume)
        if entry is not None and entry.state != MAKE:
            # Being removed here: below. If that cannot be done, it need not wait for it.
            if _told(entry, report) and claim.volume in report.failed:
                decisions.move.append((claim, Refusal(report.failed[claim.volume])))
            continue
        if entry is None and len(new) >= MOST:
            said = "node {} has {} local volumes already".format(node, MOST)
            decisions.move.append((claim, Refusal(said)))
            continue
        volume_class = view.classes[claim.class_name]
        if entry is None:
            entry = Volume(claim.volume, volume_class.base, claim.capacity, MAKE, 0, volume_class.retain)
        new[claim.volume] = entry
        if _told(entry, report) and claim.volume in report.made:
            decisions.create.append(claim)
        elif _told(entry, report) and claim.volume in report.refused:
            decisions.move.append((claim, report.refused[claim.volume]))
    for name, entry in old.items():
        if name in new:
            continue
        if entry.state == DELETE:
            if not (_told(entry, report) and name in report.deleted):
                new[name] = entry
        elif name in fresh:
            new[name] = entry
        elif entry.state == MAKE and not (_told(entry, report) and name in report.refused):
            new[name] = replace(entry, state=DELETE, since=0)
            unused.append((node, name))
    volumes = tuple(new[name] for name in sorted(new))
    if volumes != listed.volumes:
        decisions.lists[node] = volumes
        decisions.unused.extend(unused)


def _since(wanted: Volume, entry: Optional[Volume]) -> Volume:
    """Return the wanted entry with the moment of the present one, if that says the same."""
    if entry is None:
        return wanted
    same = replace(wanted, since=entry.since)
    return same if same == entry else wanted


def _told(entry: Volume, report: VolumeReport) -> bool:
    """Say whether a report knows what this entry says: an older one may be about its former life."""
    return entry.since > 0 and report.generation >= entry.since
