"""The resident loop: look at this node every minute, and put back what differs from its document. A newer document
(`channel`) is taken at once.

Nothing is written while nothing differs. It never fights another run: whoever changes the machine holds its lock,
and this loop comes again later. Logs go to the journal by level prefix, one line per change or failure.
"""

import contextlib
import os
import random
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from freehold_agent.channel import ERROR, NOTICE, Channel, Log
from freehold_agent.contract import fitness, paths
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.contract.resources import Artifact, Change
from freehold_agent.converge import Deliverer, Summary, converge
from freehold_agent.desired import ROLE, desired_node
from freehold_agent.desired.machine import interface_of
from freehold_agent.errors import AgentError, DeliveryFailed, Locked
from freehold_agent.facts import gather
from freehold_agent.fetch import Fetcher
from freehold_agent.health import Health
from freehold_agent.machine import files
from freehold_agent.machine.lock import LockBusyError, converge_lock
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import SystemdError, notify
from freehold_agent.records import Record
from freehold_agent.store import HashCache
from freehold_agent.volume_channel import JoinService, VolumeChannel
from freehold_agent.volumes import VolumeKeeper

INTERVAL = 60.0
"""Seconds between two looks, jittered by a fifth: a thousand agents must not look at once."""
BUSY_PAUSE = 5.0
"""Seconds until the next try while another run changes the machine."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Seconds to wait after a failure: doubled from the first to the longest."""
SLICE = 60.0
"""Seconds between two signs of life while waiting."""
POD_INTERFACES = ("cni", "flannel", "veth")
STATUS = paths.RUN + "/agent.json"
REMOVED = (
    "this node was removed from the cluster; freehold-agent leave --yes takes everything off this machine"
)


class NotJoinedError(AgentError):
    """The machine has no document or no certificate: there is nothing to keep."""

    kind = "input"


class BehindError(AgentError):
    """The machine was given a newer release than this node's document names: an apply is on its way, or ended there."""

    kind = "locked"


class ElsewhereError(AgentError):
    """The machine has another address than the cluster knows."""

    kind = "unfit"


def to_journal(level: int, message: str) -> None:
    """Write one line to the journal (stderr of a service)."""
    sys.stderr.write("<{}>{}\n".format(level, message.replace("\n", " ")))
    sys.stderr.flush()


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


class Keeper:
    """One node, kept."""

    def __init__(self, host: Optional[Host] = None, log: Log = to_journal) -> None:
        self._host = host or Host()
        self._log = log
        self._channel: Optional[Channel] = None
        self._failures = 0
        self._trouble = ""
        """What is wrong beside the resources, as it was said last."""
        self._outcome: Dict[str, Any] = {}

    def follow(self, wake: Callable[[], None]) -> None:
        """Ask for newer documents and volumes from now on; `wake` is called when a look is due."""
        root = self._host.root
        volumes = VolumeChannel(JoinService(lambda: read_document(root), root), VolumeKeeper(root), self._log)
        volumes.start()
        self._channel = Channel(lambda: read_document(root), wake, self._log, volumes=volumes, root=root)
        self._channel.start()

    def round(self) -> float:
        """Look once and put back what differs; return the seconds until the next look. Never raises."""
        offered = self._channel.offered() if self._channel else None
        self._look_at_health()
        try:
            changes = repair(self._host, self._tell, offered)
        except (Locked, LockBusyError):
            return BUSY_PAUSE
        except BehindError as error:
            if self._outcome.get("state") != "waiting":
                self._log(NOTICE, str(error))
            self._remember("waiting", str(error), [])
            return BUSY_PAUSE
        except (AgentError, SystemdError, ProgramFailed, DocumentError, OSError) as error:
            hint = getattr(error, "hint", "")
            message = "{}{}".format(error, " ({})".format(hint) if hint else "")
            if (
                isinstance(error, ElsewhereError)
                and self._channel
                and message != self._outcome.get("message")
            ):
                # What it asks comes from an address that is gone; the new one is to be told there.
                self._channel.start()
            return self._failed(message)
        except Exception as error:  # noqa: BLE001  the loop outlives every mistake of ours
            return self._failed("internal error: {}: {}".format(type(error).__name__, error))
        if self._failures:
            self._log(NOTICE, "this node is as its document says again")
        self._failures = 0
        if self._channel is not None and offered is not None:
            self._channel.taken(offered)
        if self._channel is not None and self._channel.removed:
            self._remember("removed", REMOVED, changes)
        elif self._trouble:
            self._remember("failed", self._trouble, changes)
        else:
            self._remember("converged", "", changes)
        return INTERVAL * random.uniform(0.8, 1.2)  # noqa: S311  no secret

    def _look_at_health(self) -> None:
        """Say what is wrong beside the resources, once; a repair would reset the counts that tell it."""
        trouble = ""
        with contextlib.suppress(AgentError, DocumentError, OSError):
            trouble = self._host.health(read_document(self._host.root).node, self._host.now())
        if trouble and trouble != self._trouble:
            self._log(ERROR, trouble)
        self._trouble = trouble

    def _failed(self, message: str) -> float:
        self._log(ERROR, message)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._remember("failed", message, [])
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  no secret

    def _tell(self, event: Dict[str, Any]) -> None:
        self._host.notify("WATCHDOG=1")
        if event.get("event") == "change" and event.get("state") == "done":
            self._log(NOTICE, "{}: {}".format(event.get("action"), event.get("title") or event.get("key")))

    def _remember(self, state: str, message: str, changes: List[Change]) -> None:
        """Keep the outcome for `status`, only when it is another one: a quiet node writes nothing."""
        self._host.notify("STATUS=" + (message.replace("\n", " ") or state))
        outcome: Dict[str, Any] = {"state": state, "message": message}
        if changes:
            outcome["repaired"] = [change.key for change in changes]
        elif self._outcome.get("state") == state and "repaired" in self._outcome:
            outcome["repaired"] = self._outcome["repaired"]
        if all(self._outcome.get(name) == value for name, value in outcome.items()) and self._outcome:
            return
        self._outcome = {**outcome, "since": self._host.now()}
        with contextlib.suppress(OSError):
            files.write_json(self._host.root + STATUS, self._outcome, 0o644)


def repair(
    host: Host, progress: Callable[[Dict[str, Any]], None], offered: Optional[JoinDocument] = None
) -> List[Change]:
    """Bring this node to what its document says, once, and return what changed.

    A document that is `offered` is taken when it is a newer one of the same join: generations never go back.
    Raises NotJoinedError on a machine that is no node, LockBusyError at once while another run changes it,
    BehindError while this node's document is older than the machine, and what `converge` raises.
    """
    with host.lock(timeout=0):
        document = read_document(host.root)
        if offered is not None and offered.node_uid == document.node_uid:
            document = max(document, offered, key=lambda one: one.generation)
        if not os.path.exists(host.root + paths.KUBELET_CLIENT_CERTIFICATE):
            raise NotJoinedError(
                "this node has no certificate yet", hint="run freehold apply on the operator's machine"
            )
        # A join that was killed may have left it; it is of no use once the certificate is there.
        files.remove(host.root + paths.BOOTSTRAP_KUBECONFIG)
        facts = host.facts()
        _refuse_the_way_back(host, document, facts)
        _refuse_elsewhere(document, facts)
        resources = desired_node(document, facts)
        with _fetching(document) as deliver:
            changes = list(host.converge(resources, ROLE, deliver, progress).changes)
        # An apply that was killed may have left bytes that are not durable yet; mostly there are none.
        HashCache(host.root + paths.HASHES).settle()
        return changes


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


def read_document(root: str = "") -> JoinDocument:
    """Return the document this machine was joined with. Raises NotJoinedError, DocumentError, OSError."""
    try:
        with open(root + paths.JOIN_DOCUMENT, "rb") as stream:
            return JoinDocument.loads(stream.read())
    except FileNotFoundError:
        raise NotJoinedError("this machine is no node: it has no " + paths.JOIN_DOCUMENT) from None


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


def run(keeper: Optional[Keeper] = None) -> int:
    """Keep this node until SIGTERM; SIGHUP looks at once. Return the exit status."""
    keeper = keeper or Keeper()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        # At once, even in the middle of a repair: a restart of this very unit is a step of a repair, and a converge
        # that ends anywhere is taken up by the next.
        signal.signal(number, _stop)
    # Before the first look: whoever started us may still hold the lock that the look needs.
    notify("READY=1")
    keeper.follow(lambda: _poke(writer))
    while True:
        _wait(reader, keeper.round())


def _poke(writer: int) -> None:
    with contextlib.suppress(BlockingIOError):  # full: a look is due anyway
        os.write(writer, b"x")


def _stop(*_: object) -> None:
    notify("STOPPING=1")
    raise SystemExit(0)


def _wait(reader: int, seconds: float) -> None:
    """Wait, or less when a signal comes; tell systemd that we live."""
    deadline = time.monotonic() + seconds
    while True:
        notify("WATCHDOG=1")
        left = deadline - time.monotonic()
        if left <= 0:
            return
        if select.select([reader], [], [], min(left, SLICE))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 64)
            return
