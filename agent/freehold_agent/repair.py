"""One repair: bring this node to what its document says, under the machine's lock, once.

Whoever calls it decides when, and what to do with a failure.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set

from freehold_agent import bridge
from freehold_agent.contract import fitness, paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import Artifact, Change, Resource, Unit, key_of
from freehold_agent.converge import Deliverer, Summary, converge
from freehold_agent.desired import ROLE, desired_node
from freehold_agent.desired.machine import interface_of
from freehold_agent.desired.network import BRIDGE
from freehold_agent.document import read_document
from freehold_agent.errors import AgentError, DeliveryFailed, NotJoinedError, StepFailed, in_words
from freehold_agent.facts import gather
from freehold_agent.fetch import Fetcher
from freehold_agent.health import RENEW, Health
from freehold_agent.machine import files
from freehold_agent.machine.lock import converge_lock
from freehold_agent.machine.systemd import notify
from freehold_agent.records import Record
from freehold_agent.store import HashCache

MOST_STEPS_PUT_OFF = 8
"""Steps of one repair that may fail while the others are made."""
POD_INTERFACES = ("cni", "flannel", "veth")
Prepare = Callable[[JoinDocument, List[Resource]], Mapping[str, List[str]]]
"""Called ahead of a look; returns units to be started anew, with the reasons."""


class BehindError(AgentError):
    """The machine was given a newer release than this node's document names: an apply is on its way, or ended there."""

    kind = "locked"


class ElsewhereError(AgentError):
    """The machine has another address than the cluster knows."""

    kind = "unfit"


@dataclass(frozen=True)
class Host:
    """What keeping needs of the machine; tests put their own in its place."""

    facts: Callable[[], Dict[str, Any]] = gather
    converge: Callable[..., Summary] = converge
    lock: Callable[..., Any] = converge_lock
    notify: Callable[[str], bool] = notify
    now: Callable[[], float] = time.time
    health: Callable[..., str] = field(default_factory=lambda: Health().look)
    root: str = ""


def repair(
    host: Host,
    progress: Callable[[Dict[str, Any]], None],
    offered: Optional[JoinDocument] = None,
    prepare: Optional[Prepare] = None,
) -> List[Change]:
    """Bring this node to what its document says, once, and return what changed.

    A document that is `offered` is taken when it is a newer one of the same join: generations never go back.
    Raises NotJoinedError on a machine that is no node, LockBusyError at once while another run changes it,
    BehindError while this node's document is older than the machine, ElsewhereError while the machine has not the
    node's address, and what `converge` raises.
    """
    with host.lock(timeout=0):
        document = read_document(host.root)
        if offered is not None and offered.node_uid == document.node_uid:
            document = max(document, offered, key=lambda one: one.generation)
        if not os.path.exists(host.root + paths.KUBELET_CLIENT_CERTIFICATE):
            raise NotJoinedError(
                "this node has no certificate, {}".format(paths.KUBELET_CLIENT_CERTIFICATE),
                hint="on the operator's machine: freehold apply, for a machine of the inventory; for any other "
                "freehold node rejoin {}, then here: {}".format(document.node, RENEW),
            )
        # A join that was killed may have left it; it is of no use once the certificate is there.
        files.remove(host.root + paths.BOOTSTRAP_KUBECONFIG)
        facts = host.facts()
        _refuse_the_way_back(host, document, facts)
        _refuse_elsewhere(document, facts)
        resources = desired_node(document, facts)
        if prepare is not None:
            _mark_stale(host, resources, prepare(document, resources))
        try:
            with _fetching(document) as deliver:
                changes = _converge_what_can_be(host, resources, deliver, progress)
        finally:
            # Also when a step failed: a pod without the bridge reaches nobody.
            joined = _join_pods_again(host, document, progress)
        return changes + joined


def _join_pods_again(
    host: Host, document: JoinDocument, progress: Callable[[Dict[str, Any]], None]
) -> List[Change]:
    """Put back the bridge of the pods, which is no resource: it comes with the first of them."""
    links = bridge.join_pods_again(root=host.root) if document.network.flannel else []
    if not links:
        return []
    change = Change(bridge.KEY, "update", None, {"links": links}, "{} for {} pods".format(BRIDGE, len(links)))
    progress({"event": "change", **change.to_json(), "state": "done"})
    return [change]


def _mark_stale(host: Host, resources: Sequence[Resource], units: Mapping[str, List[str]]) -> None:
    """Have the next look find units not `current`, as after a file that they read was put right (docs/adr/0007)."""
    known = [
        key_of(resource) for resource in resources if isinstance(resource, Unit) and resource.name in units
    ]
    if known:
        record = Record(ROLE, host.root + paths.RECORDS)
        for key in known:
            record.mark_stale(key)
        record.save()


def _converge_what_can_be(
    host: Host, resources: Sequence[Resource], deliver: Deliverer, progress: Callable[[Dict[str, Any]], None]
) -> List[Change]:
    """Converge; a step that fails does not keep the others from being made. Raises all failures as one at the end."""
    failed: Set[str] = set()
    failures: List[AgentError] = []
    changes: List[Change] = []

    def follow(event: Dict[str, Any]) -> None:
        if event.get("state") == "failed":
            failed.add(str(event.get("key")))
        progress(event)

    for _ in range(MOST_STEPS_PUT_OFF):
        known = len(failed)
        only = (
            [key_of(resource) for resource in resources if key_of(resource) not in failed] if failed else None
        )
        try:
            changes += host.converge(resources, ROLE, deliver, follow, only).changes
            break
        except (StepFailed, DeliveryFailed) as error:
            failures.append(error)
            if len(failed) == known:  # it failed outside of any step
                break
    else:
        failures.append(AgentError("after so many failures no other step was tried"))
    try:
        # An apply that was killed may have left bytes that are not durable yet; mostly there are none.
        HashCache(host.root + paths.HASHES).settle()
    except OSError as error:
        failures.append(AgentError("files of the store cannot be made durable: {}".format(error)))
    if failures:
        raise _as_one(failures)
    return changes


def _as_one(failures: Sequence[AgentError]) -> AgentError:
    """Return one error that says each of them once."""
    if len(failures) == 1:
        return failures[0]
    details = [failure.detail for failure in failures if failure.detail]
    return AgentError("; ".join(dict.fromkeys(map(in_words, failures))), detail="\n".join(details))


def _refuse_the_way_back(host: Host, document: JoinDocument, facts: Mapping[str, Any]) -> None:
    """Raise BehindError where putting back would put old programs under a new control plane.

    An apply moves a control plane's release first, and writes the document of the node on it seconds later.
    """
    used = facts.get("release", "")
    if used not in ("", document.manifest.directory) and Record("control", host.root + paths.RECORDS).keys:
        raise BehindError(
            "the control plane here runs {} and this node's document names {}: waiting for a newer document".format(
                used, document.manifest.directory
            ),
            hint="if no freehold apply is running, run one",
        )


def _refuse_elsewhere(document: JoinDocument, facts: Mapping[str, Any]) -> None:
    """Raise ElsewhereError when no interface has the node's address: programs told to use it would not start."""
    if document.addresses and interface_of(document.addresses[0], facts) is None:
        present = [
            address
            for address, interface in fitness.addresses(facts).items()
            if not interface.startswith(POD_INTERFACES) and not address.startswith("fe80:")
        ]
        raise ElsewhereError(
            "no interface of this machine has the address of node {}, {}; it has {}".format(
                document.node, document.addresses[0], ", ".join(present) or "none"
            ),
            hint="if that is to stay so, on the operator's machine: freehold node set-address {} {}".format(
                document.node, present[0] if present else "ADDRESS"
            ),
        )


@contextlib.contextmanager
def _fetching(document: JoinDocument) -> Iterator[Deliverer]:
    if not document.artifact_endpoints:
        yield _no_source
        return
    fetcher = Fetcher(document.artifact_endpoints, document.ca_pem)
    try:
        yield fetcher
    finally:
        fetcher.close()


def _no_source(artifact: Artifact) -> None:
    raise DeliveryFailed("the document names no place to fetch {} from".format(artifact.title))
