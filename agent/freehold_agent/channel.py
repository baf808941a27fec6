"""The node's one channel after its join: a long poll for what is newer, with the kubelet's certificate.

A thread asks. What comes is a document, and the resident loop decides what to do with it, or the list of this node's
volumes, which `volume_channel` acts on. What is on disk is the truth until a newer one has been taken: without any
control plane a node goes on as it is. Knows nothing of resources.
"""

import http.client
import json
import random
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, Optional, Tuple, Union

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import DocumentError, JoinDocument
from freehold_agent.contract.volumes import KIND
from freehold_agent.join_client import Reply, ask
from freehold_agent.journal import ERROR, INFO, NOTICE, WARNING, Log
from freehold_agent.standing import FOLLOWS, REMOVED, SILENT, ChannelState
from freehold_agent.volume_channel import VolumeChannel

WAIT = 240.0
"""Seconds of one poll; jittered, so that a thousand agents do not ask again at the same moment."""
WAIT_WITHOUT_VOLUMES = 10.0
"""Seconds of a poll that asks for the document only, because the list of volumes could not be acted on."""
MARGIN = 15.0
"""Seconds that an answer may take beyond that."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until the next try after a failure: doubled from the first to the longest."""
REMOVED_PAUSE = 600.0
"""Seconds between two questions of a node that was removed: it may be admitted again."""
TOLD_AFTER = 3
"""Failures in a row until they are worth a line: a control plane that restarts is none."""


class Channel:
    """Follows the document of one node; `offered` is what the loop has not taken yet."""

    def __init__(
        self,
        current: Callable[[], JoinDocument],
        wake: Callable[[], None],
        log: Log,
        *,
        volumes: Optional[VolumeChannel] = None,
        stands: Callable[[ChannelState], None] = lambda _state: None,
        root: str = "",
        wait: float = WAIT,
        ask: Callable[..., Reply] = ask,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`current` reads the document on disk, `wake` makes the loop look at once; None follows no volumes.

        `stands` is told whenever the channel stands otherwise.
        """
        self._current = current
        self._wake = wake
        self._log = log
        self._volumes = volumes
        self._stands = stands
        self._state = ChannelState()
        self._certificate = root + paths.KUBELET_CLIENT_CERTIFICATE
        self._wait = wait
        self._ask = ask
        self._sleep = sleep
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._offered: Optional[JoinDocument] = None
        self._seen = ("", 0)
        """UID of the Node and the newest generation that came for it, taken or not."""
        self._failures = 0
        self._server = 0
        self.removed = False
        """The cluster does not know this node any more."""

    def start(self) -> None:
        """Follow in a thread of its own, until `stop`, the end of the process, or `start` again.

        That is for a machine that has moved: a question asked from an address that is gone would stay open for minutes.
        """
        self._state = ChannelState()  # so that it is heard at once whether anybody answers there
        self._thread = threading.Thread(target=self._run, name="channel", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no further question; an answer to the present one is not acted on."""
        self._thread = None

    def offered(self) -> Optional[JoinDocument]:
        """Return the newest document that came, None when nothing newer than the one on disk has."""
        with self._lock:
            return self._offered

    def taken(self, document: JoinDocument) -> None:
        """Forget what is offered, if it is this very one: another may have come meanwhile."""
        with self._lock:
            if self._offered == document:
                self._offered = None

    def _run(self) -> None:
        while self._thread is threading.current_thread():
            try:
                pause = self.poll()
            except Exception as error:  # noqa: BLE001  the thread outlives every mistake of ours
                self._log(ERROR, "internal error of the channel: {}: {}".format(type(error).__name__, error))
                pause = LONGEST_PAUSE
            if pause and self._thread is threading.current_thread():
                self._sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  no secret

    def poll(self) -> float:
        """Ask once; return the seconds until the next question."""
        try:
            document = self._current()
        except Exception:  # noqa: BLE001  the loop says what is wrong with it
            return LONGEST_PAUSE
        if not document.join_endpoints:
            return LONGEST_PAUSE
        path, wait = self._question(document)
        server = document.join_endpoints[self._server % len(document.join_endpoints)]
        shown, asking = self._certificate_now(), self._thread
        try:
            reply: Union[Reply, Exception] = self._ask(
                server,
                document.ca_pem,
                "GET",
                path,
                certificate=self._certificate,
                timeout=wait + MARGIN,
            )
        except (OSError, http.client.HTTPException) as error:
            reply = error
        if asking is not self._thread:
            return 0.0  # another thread asks now, from the address that counts: two must not act on answers
        if isinstance(reply, Exception):
            return self._unheard(server, "{} cannot be asked for a newer document: {}".format(server, reply))
        if reply.status == 410 and shown != self._certificate_now():
            # It is about the certificate of before: this machine joined again (`renew`) while the question was open.
            return FIRST_PAUSE
        return self._judge(reply, document, server)

    def _question(self, document: JoinDocument) -> Tuple[str, float]:
        """Return the path to ask for, and the seconds that an answer may wait for news."""
        query = {"generation": self._newest(document)}
        longest = self._wait
        if self._volumes is not None:
            listed = self._volumes.ready()
            if listed is None:
                longest = min(longest, WAIT_WITHOUT_VOLUMES)
            else:
                query["volumes"] = listed
        # The first answer comes at once: a node that has nothing to wait for must know as well that it is heard.
        following = self._state.state == FOLLOWS
        wait = longest * random.uniform(0.8, 1.0) if following else 0.0  # noqa: S311  no secret
        query["wait"] = round(wait)
        path = "/v1/document/{}?{}".format(
            urllib.parse.quote(document.node, safe=""), urllib.parse.urlencode(query)
        )
        return path, wait

    def _newest(self, document: JoinDocument) -> int:
        """Return the newest generation of this very join: another one counts from the beginning."""
        uid, generation = self._seen
        return max(document.generation, generation) if uid == document.node_uid else document.generation

    def _certificate_now(self) -> bytes:
        """Return what the certificate's file holds, empty when there is none."""
        try:
            with open(self._certificate, "rb") as stream:
                return stream.read()
        except OSError:
            return b""

    def _judge(self, reply: Reply, document: JoinDocument, server: str) -> float:
        if reply.status == 410:
            if not self.removed:
                self.removed = True
                self._log(
                    ERROR,
                    "node {} was removed from the cluster; to take everything off this machine: "
                    "freehold-agent leave --yes".format(document.node),
                )
                self._wake()
            self._note_state(REMOVED, server)
            return REMOVED_PAUSE
        if reply.status not in (200, 204):
            return self._unheard(server, "{} answered {}".format(server, reply.status))
        self._note_state(FOLLOWS, server)
        if self.removed:
            self.removed = False
            self._log(NOTICE, "node {} is known to the cluster again".format(document.node))
        pause = self._consider(reply.body, document) if reply.status == 200 else 0.0
        if not pause:
            if self._failures >= TOLD_AFTER:
                self._log(NOTICE, "{} answers as it should again".format(server))
            self._failures = 0
        return pause

    def _consider(self, text: bytes, document: JoinDocument) -> float:
        """Offer a newer document of this very node; anything else is said once and never taken."""
        volumes = _list_in(text)
        if volumes is not None and self._volumes is not None:
            self._volumes.receive(volumes)
            return 0.0
        try:
            newer = JoinDocument.loads(text)
        except DocumentError as error:
            return self._failed("the newest document cannot be used, the present one stays: {}".format(error))
        if (newer.node, newer.node_uid) != (document.node, document.node_uid):
            return self._failed(
                "the newest document is for another join of {}; join this machine again".format(newer.node)
            )
        if newer.generation <= self._newest(document):
            return self._failed("generation {} came after {}".format(newer.generation, document.generation))
        self._seen = (newer.node_uid, newer.generation)
        with self._lock:
            self._offered = newer
        self._log(INFO, "document generation {} came".format(newer.generation))
        self._wake()
        return 0.0

    def _note_state(self, state: str, server: str) -> None:
        silent = state == self._state.state == SILENT  # whichever of them was asked last
        if (state, server) != (self._state.state, self._state.server) and not silent:
            self._state = ChannelState(state, server, time.time())
            self._stands(self._state)

    def _unheard(self, server: str, message: str) -> float:
        pause = self._failed(message)
        if self._failures >= TOLD_AFTER:
            self._note_state(SILENT, server)
        return pause

    def _failed(self, message: str) -> float:
        """Try the next server; a line in the journal only when it lasts."""
        self._failures += 1
        self._server += 1
        if self._failures == TOLD_AFTER:
            self._log(WARNING, message)
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))


def _list_in(text: bytes) -> Optional[Dict[str, Any]]:
    """Return an answer that is a list of volumes, None for any other."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("kind") == KIND else None
