"""What the resident agent says of itself, for `freehold-agent status` and for people, root or not.

What changes rarely is a file below /run, written only when it is another: a quiet node writes nothing. What changes
with each look is one line that systemd keeps in memory (`systemctl status freehold-agent`), to be read back.
"""

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

from freehold_agent.certificate import read_certificate
from freehold_agent.contract import moments, paths
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.machine import files

FILE = paths.RUN + "/agent.json"
FOLLOWS, SILENT, REMOVED, BEGINS = "following", "silent", "removed", "beginning"
"""How the channel stands: answers come; none comes; the cluster does not know this node; none came yet."""
MOST_NAMED = 20
"""Repaired things that the file names; of a hundred the first tell enough."""

_MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_LINE = re.compile(
    r"(?P<state>[a-z]+); looked (?P<looked>{0})"
    r"(?:; channel (?P<channel>[a-z]+) (?P<server>\S+) since (?P<since>{0}))?"
    r"(?:; certificate until (?P<until>{0}))?(?:; (?P<message>.*))?".format(_MOMENT)
)


@dataclass(frozen=True)
class ChannelState:
    state: str = BEGINS
    server: str = "-"
    since: float = 0.0
    """Seconds since the epoch."""


def identity_of(document: JoinDocument) -> Dict[str, Any]:
    """Return what a node is, as its document says; none of it is a secret."""
    return {
        "node": document.node,
        "cluster": document.cluster,
        "addresses": list(document.addresses),
        "generation": document.generation,
        "release": document.manifest.release,
    }


def compose(
    state: str,
    looked: float,
    *,
    channel: Optional[ChannelState] = None,
    certificate_until: float = 0.0,
    message: str = "",
) -> str:
    """Return the line for systemd; times in seconds since the epoch."""
    parts = ["{}; looked {}".format(state, moments.written(looked))]
    if channel is not None:
        parts.append(
            "channel {} {} since {}".format(channel.state, channel.server, moments.written(channel.since))
        )
    if certificate_until:
        parts.append("certificate until " + moments.written(certificate_until))
    if message:
        parts.append(" ".join(message.split()))
    return "; ".join(parts)


def parse(line: str) -> Dict[str, Any]:
    """Return what `compose` put in, as JSON values: state, looked, channel, certificate_until, message; {} if it is
    another line.
    """
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return {}
    channel = None
    if found["channel"]:
        channel = {
            "state": found["channel"],
            "server": found["server"],
            "since": moments.read(found["since"]),
        }
    return {
        "state": found["state"],
        "looked": moments.read(found["looked"]),
        "channel": channel,
        "certificate_until": moments.read(found["until"]) if found["until"] else None,
        "message": found["message"] or "",
    }


class Standing:
    """Told by the loop after each look and on other drift, by the channel's thread whenever that stands otherwise."""

    def __init__(self, notify: Callable[[str], bool], now: Callable[[], float], root: str = "") -> None:
        self._notify = notify
        self._now = now
        self._root = root
        self._lock = threading.Lock()
        self._channel: Optional[ChannelState] = None
        self._looked = 0.0
        self._outcome: Dict[str, Any] = {}
        self._unwritten = False
        """The outcome at hand is not in the file: /run was full."""
        self._drift: List[str] = []
        self._identity: Tuple[Any, Dict[str, Any]] = (None, {})
        """Which state of the document's file was read last, and what it said: a quiet look parses nothing."""
        self._until: Tuple[Any, float] = (None, 0.0)
        """The same of the certificate: its end in seconds since the epoch."""
        # What was healed before a restart of the agent is news still.
        kept: Any = None
        with contextlib.suppress(OSError, ValueError):
            kept = files.read_json(root + FILE)
        self._healed = (
            {name: kept[name] for name in ("repaired", "repaired_at") if name in kept}
            if isinstance(kept, dict)
            else {}
        )

    @property
    def state(self) -> str:
        """The outcome that was told last, empty before the first."""
        return str(self._outcome.get("state", ""))

    @property
    def message(self) -> str:
        """What was said with it."""
        return str(self._outcome.get("message", ""))

    def channel(self, state: ChannelState) -> None:
        """The channel stands otherwise now."""
        with self._lock:
            self._channel = state
            if self._outcome:
                self._say()

    def drifts(self, drift: List[str]) -> None:
        """What others changed is this now, in words; between two looks it is written at once."""
        with self._lock:
            self._drift = list(drift)
            if self._outcome:
                self._keep({**self._outcome, "drift": self._drift})

    def looked(self, state: str, message: str, repaired: List[str]) -> None:
        """A look ended: what it found, and the keys of what it put back."""
        with self._lock:
            self._looked = self._now()
            if repaired:
                more = len(repaired) - MOST_NAMED
                named = repaired[:MOST_NAMED] + (["and {} more".format(more)] if more > 0 else [])
                self._healed = {"repaired": named, "repaired_at": self._looked}
            same = self._outcome.get("state") == state and self._outcome.get("message") == message
            self._keep(
                {
                    "state": state,
                    "message": message,
                    "drift": self._drift,
                    **self._healed,
                    "node": self._known_identity(),
                    "since": self._outcome["since"] if same else self._looked,
                }
            )
            self._say()

    def _keep(self, outcome: Dict[str, Any]) -> None:
        """Write an outcome that is another one, or that could not be written when it was."""
        if outcome == self._outcome and not self._unwritten:
            return
        self._outcome = outcome
        self._unwritten = True
        with contextlib.suppress(OSError):
            files.write_json(self._root + FILE, self._outcome, 0o644)
            self._unwritten = False

    def _say(self) -> None:
        line = compose(
            str(self._outcome.get("state")),
            self._looked,
            channel=self._channel,
            certificate_until=self._known_end(),
            message=str(self._outcome.get("message", "")),
        )
        self._notify("STATUS=" + line)

    def _known_identity(self) -> Dict[str, Any]:
        path = self._root + paths.JOIN_DOCUMENT
        with contextlib.suppress(OSError, DocumentError):
            stamp = _stamp(path)
            if stamp != self._identity[0]:
                with open(path, "rb") as stream:
                    self._identity = (stamp, identity_of(JoinDocument.loads(stream.read())))
        return self._identity[1]

    def _known_end(self) -> float:
        path = self._root + paths.KUBELET_CLIENT_CERTIFICATE
        try:
            stamp = _stamp(path)
            if stamp != self._until[0]:
                with open(path, "rb") as stream:
                    self._until = (stamp, read_certificate(stream.read()).not_after)
        except (OSError, ValueError):
            self._until = (None, 0.0)  # it is gone, or damaged: how long it was valid is not told any more
        return self._until[1]


def _stamp(path: str) -> Tuple[int, int, int]:
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns
