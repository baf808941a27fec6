"""A machine becomes a node: everything in place first, the credential last, then what needs it.

Both ways in (over SSH and with a join token) call `join`; they differ only in where the document, the
bootstrap credential and the artifacts come from. It can be run again at any time: with a valid certificate of
the same node no credential is asked for, and only what differs is done.
"""

import contextlib
import glob
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Optional

from freehold_agent.certificate import read_certificate
from freehold_agent.contract import fitness, paths
from freehold_agent.contract.join_document import BootstrapCredential, DocumentError, JoinDocument
from freehold_agent.contract.resources import Change, Resource, key_of
from freehold_agent.converge import Deliverer, Progress, Summary, converge
from freehold_agent.desired import KUBELET_UNIT, ROLE, addon_keys, desired_node
from freehold_agent.desired.credential import bootstrap_kubeconfig
from freehold_agent.desired.machine import interface_of
from freehold_agent.errors import AgentError, BadRequest, Locked, StepFailed, Unfit
from freehold_agent.facts import gather
from freehold_agent.fetch import Fetcher, Waiter
from freehold_agent.machine import files
from freehold_agent.machine.lock import LockBusyError, converge_lock
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import Systemd, SystemdError
from freehold_agent.store import HashCache

CredentialSource = Callable[[], Optional[BootstrapCredential]]
"""Asked once, when all else is in place; over SSH it asks the installer."""

LONGEST_LINE = 1 << 16
POLL = 0.02
"""Seconds between two looks for the kubelet's certificate."""
CERTIFICATE_TIMEOUT = 120.0
"""Seconds until a join without a certificate has failed."""
STATE_CHECK = 2.0
"""Seconds between two looks whether the kubelet keeps dying."""
DEATHS = 3
"""Restarts of the kubelet after which waiting for its certificate makes no sense."""
LOCK_TIMEOUT = 300.0
"""Seconds to wait for another run: a control plane's own may still be receiving its programs."""
MARGIN = 60.0
"""Seconds that a certificate must still be valid to count as one."""


@dataclass(frozen=True)
class Host:
    """What a join does to the machine beside `converge`; tests put their own in its place."""

    facts: Callable[[], Dict[str, Any]] = gather
    converge: Callable[..., Summary] = converge
    systemd: Systemd = field(default_factory=Systemd)
    root: str = ""
    """Put before the paths of credentials and document."""
    owner: str = "root"
    lock: Callable[..., Any] = converge_lock
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def join(
    document: JoinDocument,
    credential_source: CredentialSource,
    deliver: Deliverer,
    progress: Progress,
    *,
    host: Optional[Host] = None,
) -> Summary:
    """Make this machine the node that the document describes, and return what changed.

    Raises BadRequest for a document it cannot act on, Unfit when the machine is not the one meant, StepFailed
    and DeliveryFailed of `converge`, Locked while another run changes the machine.
    """
    host = host or Host()
    return _alone(host, lambda: _Join(document, deliver, progress, host).run(credential_source))


def prepare(
    document: JoinDocument,
    deliver: Deliverer,
    progress: Progress,
    *,
    host: Optional[Host] = None,
) -> Summary:
    """Bring everything onto the machine that needs no admission: files, programs, containerd, images.

    The document may lack the Node's UID and pod CIDRs; it is not kept. Raises what `join` raises.
    """
    host = host or Host()
    return _alone(host, lambda: _Join(document, deliver, progress, host).prepare())


def settle(
    document: JoinDocument,
    deliver: Deliverer,
    progress: Progress,
    *,
    host: Optional[Host] = None,
) -> Summary:
    """Bring a joined node to all that its document says. Raises what `join` raises."""
    host = host or Host()
    return _alone(host, lambda: _Join(document, deliver, progress, host).settle())


def _alone(host: Host, work: Callable[[], List[Change]]) -> Summary:
    begun = time.monotonic()
    try:
        with host.lock(timeout=LOCK_TIMEOUT):
            changes = work()
    except LockBusyError as error:
        raise Locked(str(error), hint="wait for it and try again") from error
    return Summary(tuple(changes), time.monotonic() - begun)


def join_over_stream(request: Mapping[str, Any], stream: BinaryIO, tell: Progress) -> Dict[str, Any]:
    """Join for a caller at the other end of a stream: the credential is asked for there, as one JSON line."""
    document = JoinDocument.from_json(request["document"])

    def ask() -> Optional[BootstrapCredential]:
        tell({"event": "need-credential"})
        line = stream.readline(LONGEST_LINE)
        try:
            return BootstrapCredential.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            # The line may hold the credential: it is not quoted, and the cause is not chained.
            raise BadRequest("the caller's answer is no bootstrap credential") from None

    with _deliverer(request, document, tell) as deliver:
        return join(document, ask, deliver, tell).to_json()


def prepare_over_stream(request: Mapping[str, Any], _stream: BinaryIO, tell: Progress) -> Dict[str, Any]:
    """Prepare for a caller at the other end of a stream."""
    document = JoinDocument.from_json(request["document"])
    with _deliverer(request, document, tell) as deliver:
        return prepare(document, deliver, tell).to_json()


def settle_over_stream(request: Mapping[str, Any], _stream: BinaryIO, tell: Progress) -> Dict[str, Any]:
    """Settle for a caller at the other end of a stream: the kept document says what, and every byte is durable after.

    On a machine that is no node only the bytes are settled.
    """
    summary = Summary((), 0.0)
    with contextlib.suppress(FileNotFoundError):
        with open(paths.JOIN_DOCUMENT, "rb") as stream:
            document = JoinDocument.loads(stream.read())
        with _deliverer(request, document, tell) as deliver:
            summary = settle(document, deliver, tell)
    HashCache().settle()
    return summary.to_json()


@contextlib.contextmanager
def _deliverer(request: Mapping[str, Any], document: JoinDocument, tell: Progress) -> Iterator[Deliverer]:
    """Yield how artifacts come: `wait` for the installer's stream, or `fetch` from the artifact services."""
    kind = request.get("deliver", "wait" if document.control_plane else "fetch")
    if kind == "wait":
        yield Waiter(alive=lambda: tell({"event": "waiting"}))
        return
    if kind != "fetch":
        raise BadRequest("artifacts can be waited for or fetched, not {!r}".format(kind))
    fetcher = Fetcher(document.artifact_endpoints, document.ca_pem)
    try:
        yield fetcher
    finally:
        fetcher.close()


class _Join:
    def __init__(self, document: JoinDocument, deliver: Deliverer, progress: Progress, host: Host) -> None:
        self._document = document
        self._deliver = deliver
        self._progress = progress
        self._host = host
        self._facts = host.facts()

    def prepare(self) -> List[Change]:
        """Do all that needs neither admission nor credential."""
        check_machine(self._document, self._facts)
        resources = desired_node(self._document, self._facts, credential_ready=False)
        later = {"unit:" + KUBELET_UNIT, "file:" + paths.JOIN_DOCUMENT}
        if not self._document.network.node_pod_cidrs:
            later.add("file:" + paths.CNI_CONFLIST)
        return self._converge(resources, [key for key in map(key_of, resources) if key not in later])

    def run(self, credential_source: CredentialSource) -> List[Change]:
        check_machine(self._document, self._facts)
        check_document(self._document)
        changes: List[Change] = []
        if not self._has_credential():
            # A kubelet that a join left running when it was killed may get its certificate at this very moment.
            self._stop_kubelet()
        if not self._has_credential():
            self._forget_credential()
            resources = desired_node(self._document, self._facts, credential_ready=False)
            kubelet = "unit:" + KUBELET_UNIT
            changes += self._converge(resources, [key for key in map(key_of, resources) if key != kubelet])
            try:
                self._bootstrap(credential_source)
                changes += self._converge(resources, [kubelet])
                self._await_certificate()
            except AgentError:
                # It would ask for ever, without a credential, and fill the API with requests.
                with contextlib.suppress(SystemdError, ProgramFailed):
                    self._host.systemd.stop(KUBELET_UNIT)
                raise
            finally:
                # It is used up, or will be asked for anew: no credential outlives the join.
                files.remove(self._host.root + paths.BOOTSTRAP_KUBECONFIG)
        files.remove(self._host.root + paths.BOOTSTRAP_KUBECONFIG)
        resources = desired_node(self._document, self._facts)
        later = addon_keys(self._document)
        return changes + self._converge(
            resources, [key for key in map(key_of, resources) if key not in later]
        )

    def settle(self) -> List[Change]:
        """Do what a Ready node was not kept waiting for: images of add-ons, and removal of what is not needed."""
        return self._converge(desired_node(self._document, self._facts), None)

    def _converge(self, resources: List[Resource], only: Optional[List[str]]) -> List[Change]:
        summary = self._host.converge(resources, ROLE, self._deliver, self._progress, only)
        return list(summary.changes)

    def _bootstrap(self, credential_source: CredentialSource) -> None:
        self._progress({"event": "step", "title": "bootstrap credential"})
        credential = credential_source()
        if credential is None or not credential.token:
            raise BadRequest("the node needs a bootstrap credential and was given none")
        content = bootstrap_kubeconfig(self._document, credential.token)
        owner = self._host.owner
        files.write_atomic(self._host.root + paths.BOOTSTRAP_KUBECONFIG, content, 0o600, owner, owner)

    def _await_certificate(self) -> None:
        self._progress({"event": "step", "title": "certificate"})
        begun = time.monotonic()
        checked = begun
        while not os.path.exists(self._host.root + paths.KUBELET_CLIENT_CERTIFICATE):
            elapsed = time.monotonic() - begun
            if elapsed > CERTIFICATE_TIMEOUT:
                raise self._failed(
                    "the kubelet got no client certificate within {:g} s".format(CERTIFICATE_TIMEOUT),
                    "is the API server {} reachable from this machine, and does freehold-controller "
                    "approve requests?".format(self._document.endpoints[0]),
                )
            if time.monotonic() - checked > STATE_CHECK:
                checked = time.monotonic()
                self._look_at_kubelet()
            self._host.sleep(POLL)

    def _look_at_kubelet(self) -> None:
        """Raise StepFailed when the kubelet keeps dying: its journal says more than a timeout."""
        state = self._host.systemd.show([KUBELET_UNIT], ("ActiveState", "NRestarts")).get(KUBELET_UNIT, {})
        if int(state.get("NRestarts", "0") or "0") >= DEATHS:
            raise self._failed("the kubelet does not stay up", "journalctl -u kubelet -u containerd")

    def _failed(self, message: str, hint: str) -> AgentError:
        detail = self._host.systemd.journal(KUBELET_UNIT)
        return StepFailed("unit:" + KUBELET_UNIT, message, hint=hint, detail=detail)

    def _has_credential(self) -> bool:
        return credential_valid(self._document, self._host.now(), self._host.root)

    def _stop_kubelet(self) -> None:
        try:
            state = self._host.systemd.show([KUBELET_UNIT], ("ActiveState",)).get(KUBELET_UNIT, {})
            if state.get("ActiveState", "inactive") not in ("inactive", "failed"):
                self._host.systemd.stop(KUBELET_UNIT)
        except SystemdError as error:
            raise StepFailed("unit:" + KUBELET_UNIT, str(error), detail=error.journal) from error

    def _forget_credential(self) -> None:
        """Remove what a former node or an expired certificate left; a kubelet would go on using it."""
        directory = self._host.root + os.path.dirname(paths.KUBELET_CLIENT_CERTIFICATE)
        for kind in ("kubelet-client-", "kubelet-server-"):
            for path in sorted(glob.glob(directory + "/" + kind + "*.pem")):
                files.remove(path)
        files.remove(self._host.root + paths.KUBELET_KUBECONFIG)


def check_document(document: JoinDocument) -> None:
    """Raise BadRequest for a document that admission has not completed."""
    if not document.node_uid:
        raise BadRequest("the join document of {} names no Node object".format(document.node))
    if document.network.flannel and not document.network.node_pod_cidrs:
        raise BadRequest("the join document of {} has no pod CIDR of the node yet".format(document.node))


def check_machine(document: JoinDocument, facts: Mapping[str, Any]) -> None:
    """Raise BadRequest for a document that names no place, Unfit when it is not for this machine."""
    if not document.addresses or not document.endpoints:
        raise BadRequest("the join document of {} names no address or no API server".format(document.node))
    if interface_of(document.addresses[0], facts) is None:
        raise Unfit(
            "no interface of this machine has the address {}".format(document.addresses[0]),
            hint="name one of its own, {}: internalAddress in the inventory, or freehold token create --address".format(
                ", ".join(fitness.addresses(facts)) or "none known"
            ),
        )
    architecture = facts.get("architecture", "")
    if document.manifest.architecture != architecture:
        raise Unfit(
            "the bundle is for {}, this machine is {}".format(document.manifest.architecture, architecture),
            hint="build or fetch the bundle of this architecture",
        )


def credential_valid(document: JoinDocument, now: float, root: str = "") -> bool:
    """Say whether the kubelet's certificate is this very node's and valid for a while yet.

    The document kept on the machine witnesses for which cluster and Node the certificate was given.
    """
    try:
        with open(root + paths.JOIN_DOCUMENT, "rb") as stream:
            kept = JoinDocument.loads(stream.read())
        with open(root + paths.KUBELET_CLIENT_CERTIFICATE, "rb") as stream:
            certificate = read_certificate(stream.read())
    except (OSError, DocumentError, ValueError):
        return False
    same = (kept.ca_pem, kept.node, kept.node_uid) == (document.ca_pem, document.node, document.node_uid)
    mine = certificate.common_name == "system:node:" + document.node
    return same and mine and certificate.not_before <= now < certificate.not_after - MARGIN
