"""The resident loop: put back what differs from this node's document. A newer document (`channel`) is taken at once.

Every ten seconds a glance of some milliseconds, which runs no program; a whole look when it saw something change, and
every minute. Nothing is written while nothing differs. It never fights another run: whoever changes the machine holds
its lock, and this loop comes again later. Logs go to the journal by level prefix, one line per change or failure.
"""

import contextlib
import faulthandler
import os
import random
import select
import signal
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from freehold_agent import bridge
from freehold_agent.channel import Channel
from freehold_agent.contract import paths
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.contract.resources import Resource
from freehold_agent.desired import ROLE
from freehold_agent.desired.agent_unit import WATCHDOG
from freehold_agent.document import read_document
from freehold_agent.errors import AgentError, Locked, in_words
from freehold_agent.journal import ERROR, NOTICE, WARNING, Log, to_journal
from freehold_agent.machine.lock import LockBusyError
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import SystemdError, notify
from freehold_agent.node_report import NOTHING, NodeReport
from freehold_agent.records import Record
from freehold_agent.repair import BehindError, ElsewhereError, Host, repair
from freehold_agent.standing import Standing
from freehold_agent.volume_channel import JoinService, VolumeChannel
from freehold_agent.volumes import VolumeKeeper
from freehold_agent.watch import Watch

INTERVAL = 60.0
"""Seconds between two looks, jittered by a fifth: a thousand agents must not look at once."""
GLANCE = 10.0
"""Seconds between two glances and signs of life, jittered likewise: systemd waits several times as long."""
BUSY_PAUSE = 5.0
"""Seconds until the next try while another run changes the machine."""
LONGEST_RUN = 600.0
"""Seconds that another run may take without a word of it: one that hangs keeps everything from being put back."""
KEPT_OUT = (
    "another run of freehold has held this machine for ten minutes and more: nothing is put back until it ends "
    "(lslocks names its process, beside /run/systemd/system)"
)
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Seconds to wait after a failure: doubled from the first to the longest."""
LONGEST_LOOK = 600.0
"""Seconds that a look with its repair may take without a sign of life."""
REPAIR_EVENT, FAILURE_EVENT, DRIFT_EVENT = "FreeholdRepaired", "FreeholdRepairFailed", "FreeholdDrift"
TROUBLE_EVENT = "FreeholdTrouble"
"""Reasons of Events on the Node."""
REMOVED = (
    "this node was removed from the cluster; freehold-agent leave --yes takes everything off this machine"
)


class Keeper:
    """One node, kept."""

    def __init__(self, host: Optional[Host] = None, log: Log = to_journal) -> None:
        self._host = host or Host()
        self._log = log
        self._channel: Optional[Channel] = None
        self._failures = 0
        self._trouble = ""
        """What is wrong beside the resources, as it was said last."""
        self._standing = Standing(self._host.notify, self._host.now, self._host.root)
        self._busy_since = 0.0
        """Since when another run holds the machine, in seconds since the epoch; 0: none does."""
        self._done: Dict[str, str] = {}
        """What the last look put back, in words by key; not what this node gets for the first time."""
        self._taking = False
        """Whether the last look took a newer document: what that changes is no repair."""
        self._known: Set[str] = set()
        self._watch = Watch(self._host.root)
        self._watched = False
        """Whether the last look came as far as noting what glances compare with."""
        self._drift: List[str] = []
        self._report: Optional[NodeReport] = None

    def follow(self, wake: Callable[[], None]) -> None:
        """Ask for newer documents and volumes from now on; `wake` is called when a look is due."""
        root = self._host.root
        self._report = NodeReport(lambda: read_document(root), self._log)
        self._report.start()
        volumes = VolumeChannel(JoinService(lambda: read_document(root), root), VolumeKeeper(root), self._log)
        volumes.start()
        self._channel = Channel(
            lambda: read_document(root),
            wake,
            self._log,
            volumes=volumes,
            stands=self._standing.channel,
            root=root,
        )
        self._channel.start()

    def round(self) -> float:
        """Look once and put back what differs; return the seconds until the next look. Never raises."""
        self._host.notify("WATCHDOG=1\nWATCHDOG_USEC={:.0f}".format(LONGEST_LOOK * 1e6))
        try:
            return self._round()
        except Exception as error:  # noqa: BLE001  the loop outlives every mistake of ours
            return self._failed("internal error: {}: {}".format(type(error).__name__, error))
        finally:
            self._host.notify("WATCHDOG=1\nWATCHDOG_USEC={:.0f}".format(WATCHDOG * 1e6))

    def _round(self) -> float:
        offered = self._channel.offered() if self._channel else None
        self._done, self._taking = {}, offered is not None
        self._watched = False
        busy_since, self._busy_since = self._busy_since, 0.0
        self._look_at_health()
        try:
            repair(self._host, self._tell, offered, self._prepare)
        except (Locked, LockBusyError):
            self._busy_since = busy_since or self._host.now()
            if self._host.now() - self._busy_since >= LONGEST_RUN:
                self._waits(WARNING, KEPT_OUT)
            return BUSY_PAUSE
        except BehindError as error:
            self._waits(NOTICE, str(error))
            return BUSY_PAUSE
        except (AgentError, SystemdError, ProgramFailed, DocumentError, OSError) as error:
            message = in_words(error)
            if isinstance(error, ElsewhereError) and self._channel and message != self._standing.message:
                # What it asks comes from an address that is gone; the new one is to be told there.
                self._channel.start()
            return self._failed(message)
        if self._failures or self._standing.state == "waiting":
            self._log(NOTICE, "this node is as its document says again")
        self._failures = 0
        self._report_repair()
        if self._channel is not None and offered is not None:
            self._channel.taken(offered)
        self._notice_drift(always=True)
        if self._channel is not None and self._channel.removed:
            self._remember("removed", REMOVED)
        elif self._trouble:
            self._remember("failed", self._trouble)
        else:
            self._remember("converged", "")
        return INTERVAL * random.uniform(0.8, 1.2)  # noqa: S311  no secret

    def glance(self) -> bool:
        """Look without running a program; say whether a whole look is due now. Never raises."""
        try:
            due = self._watch.changed()
        except Exception as error:  # noqa: BLE001  the loop outlives every mistake of ours
            self._log(ERROR, "internal error of a glance: {}: {}".format(type(error).__name__, error))
            return False
        self._notice_drift()
        # A look that ended before it noted anything would be called for by the same thing again and again.
        return due and self._watched

    def _look_at_health(self) -> None:
        """Say once what is wrong beside the resources, and when it is over. Ahead of a repair: that resets counts."""
        try:
            trouble = self._host.health(read_document(self._host.root).node, self._host.now())
        except (AgentError, DocumentError, OSError):
            return  # no document that can be read: the repair says so
        except Exception as error:  # noqa: BLE001  a mistake of ours here must not keep anything from being put back
            trouble = "internal error of health: {}: {}".format(type(error).__name__, error)
        if trouble and trouble != self._trouble:
            self._log(ERROR, trouble)
            self._say("Warning", TROUBLE_EVENT, trouble)
        elif self._trouble and not trouble:
            self._log(NOTICE, "gone again: " + self._trouble)
        self._trouble = trouble

    def _prepare(self, document: JoinDocument, resources: List[Resource]) -> Mapping[str, List[str]]:
        self._known = {bridge.KEY, *Record(ROLE, self._host.root + paths.RECORDS).keys}
        lost = self._watch.begin(document, resources)
        self._watched = True
        for unit, things in lost.items():
            self._log(WARNING, "{} lost {}: it is started anew".format(unit, ", ".join(things)))
        if self._report is not None:
            self._report.follow(document.node_uid)
        return lost

    def _notice_drift(self, always: bool = False) -> None:
        """Tell about what others changed, when it is news; the condition also after a repair that failed before."""
        drift = [str(one) for one in self._watch.drift]
        news = drift != self._drift
        if not (news or always):
            return
        for one in drift:
            if one not in self._drift:
                self._log(WARNING, "not freehold's to put back: " + one)
                self._say("Warning", DRIFT_EVENT, one)
        for one in self._drift:
            if one not in drift:
                self._log(NOTICE, "gone again: " + one)
        self._drift = drift
        self._standing.drifts(drift)
        if self._report is not None and not self._failures:
            # Files and settings may all be right while a program dies: that is no node as its document says either.
            wrong = ([self._trouble] if self._trouble else []) + drift
            if wrong:
                reason = "Trouble" if self._trouble else "ForeignSettings"
                self._report.condition(True, reason, "; ".join(wrong))
            else:
                self._report.condition(False, NOTHING, "this node is as its document says")

    def _report_repair(self) -> None:
        if self._done:
            self._say("Normal", REPAIR_EVENT, "put back: " + ", ".join(dict.fromkeys(self._done.values())))

    def _say(self, kind: str, reason: str, message: str) -> None:
        if self._report is not None:
            self._report.event(kind, reason, message)

    def _failed(self, message: str) -> float:
        self._log(ERROR, message)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._report_repair()
        self._say("Warning", FAILURE_EVENT, message)
        if self._report is not None:
            self._report.condition(True, "RepairFailed", message)
        self._remember("failed", message)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  no secret

    def _tell(self, event: Dict[str, Any]) -> None:
        self._host.notify("WATCHDOG=1")
        if event.get("event") == "change" and event.get("state") == "done":
            key = str(event.get("key"))
            name = str(event.get("title") or key)
            if key in self._known and not self._taking:
                self._done[key] = name
            self._log(NOTICE, "{}: {}".format(event.get("action"), name))

    def _waits(self, level: int, message: str) -> None:
        """Say once why nothing is put back for now."""
        if message != self._standing.message:
            self._log(level, message)
        self._remember("waiting", message)

    def _remember(self, state: str, message: str) -> None:
        """Keep the outcome for `status`."""
        self._standing.looked(state, message, list(self._done))


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
    # A hang ends with SIGABRT: the journal then shows where each thread was.
    faulthandler.enable()
    # Before the first look: whoever started us may still hold the lock that the look needs.
    notify("READY=1")
    keeper.follow(lambda: _poke(writer))
    while True:
        _wait(reader, keeper.round(), keeper.glance)


def _poke(writer: int) -> None:
    with contextlib.suppress(BlockingIOError):  # full: a look is due anyway
        os.write(writer, b"x")


def _stop(*_: object) -> None:
    notify("STOPPING=1")
    raise SystemExit(0)


def _wait(reader: int, seconds: float, glance: Callable[[], bool] = lambda: False) -> None:
    """Wait, or less when a signal comes or a glance says so; tell systemd that we live."""
    deadline = time.monotonic() + seconds
    while True:
        notify("WATCHDOG=1")
        left = deadline - time.monotonic()
        if left <= 0:
            return
        pause = GLANCE * random.uniform(0.8, 1.2)  # noqa: S311  no secret
        if select.select([reader], [], [], min(left, pause))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 64)
            return
        if glance():
            return
