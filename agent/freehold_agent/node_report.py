"""What this node tells the cluster about itself: the condition `FreeholdDrift` of its Node, and Events about repairs.

With the kubelet's certificate, whose own rights are enough: a node patches the status of its own Node and creates
Events. A thread of its own sends, so that a control plane that is away holds nothing up; only the last condition and
few Events wait for it. While nothing changes nothing is sent.
"""

import collections
import contextlib
import hashlib
import random
import threading
import time
from typing import Any, Callable, Deque, Dict, Optional, Tuple

from freehold_agent.contract import moments, paths
from freehold_agent.contract.conditions import DRIFT
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.journal import INFO, Log
from freehold_agent.machine.kubernetes_api import Conflict, KubernetesApi

MANAGER = "freehold-agent"
NOTHING = "AsDocumented"
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds until the next try after a failure: doubled from the first to the longest."""
WAITING = 20
"""Events that wait for the control plane; older ones go, the journal has them."""
SAME = 600.0
"""Seconds in which the same words are one Event: somebody who fights the agent does not fill the cluster."""
LONGEST = 900
"""Characters of a message: the API server takes 1024 in an Event."""


class NodeReport:
    """Thread-safe; `condition` and `event` return at once."""

    def __init__(
        self,
        document: Callable[[], JoinDocument],
        log: Log,
        *,
        connect: Optional[Callable[[], KubernetesApi]] = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._document = document
        self._log = log
        self._connect = connect or (lambda: KubernetesApi.from_kubeconfig(paths.NODE_KUBECONFIG))
        self._now = now
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._wanted: Optional[Tuple[str, str, str]] = None
        self._sent: Optional[Tuple[str, str, str]] = None
        self._events: Deque[Tuple[str, str, str, float]] = collections.deque(maxlen=WAITING)
        self._said: Dict[str, float] = {}

    def start(self) -> None:
        """Send in a thread of its own, until the process ends."""
        threading.Thread(target=self._run, name="node-report", daemon=True).start()

    def condition(self, drifts: bool, reason: str, message: str) -> None:
        """Have the Node say this from now on."""
        wanted = ("True" if drifts else "False", reason, shortened(message))
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
        self._changed.set()

    def event(self, kind: str, reason: str, message: str) -> None:
        """Say what happened, once in a while for the same words; `kind` is Normal or Warning."""
        now = self._now()
        words = "\0".join((kind, reason, message))
        with self._lock:
            self._said = {text: when for text, when in self._said.items() if now - when < SAME}
            if words in self._said:
                return
            self._said[words] = now
            self._events.append((kind, reason, shortened(message), now))
        self._changed.set()

    def _run(self) -> None:
        failures = 0
        while True:
            self._changed.wait()
            self._changed.clear()
            try:
                self.send()
                failures = 0
            except Exception as error:  # noqa: BLE001  the thread outlives every mistake of ours
                if not failures:
                    self._log(INFO, "the cluster cannot be told about this node now: {}".format(error))
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
                failures += 1
                time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  no secret
                self._changed.set()

    def send(self) -> None:
        """Send what waits. Raises ApiError, OSError, ValueError; what was not sent still waits."""
        document = self._document()
        api = self._connect()
        try:
            self._send_condition(api, document.node)
            while True:
                with self._lock:
                    if not self._events:
                        return
                    event = self._events[0]
                with contextlib.suppress(Conflict):
                    api.create("/api/v1/namespaces/default/events", node_event(document, *event))
                with self._lock:
                    if self._events and self._events[0] == event:
                        self._events.popleft()
        finally:
            # Hours may pass until there is news again: no connection is kept for it.
            api.close()

    def _send_condition(self, api: KubernetesApi, node: str) -> None:
        with self._lock:
            wanted = self._wanted
        if wanted is None or wanted == self._sent:
            return
        path = "/api/v1/nodes/" + node
        known = _condition_in(api.get(path))
        if (known.get("status"), known.get("reason"), known.get("message")) != wanted:
            when = moments.written(self._now())
            same = known.get("status") == wanted[0]
            condition = {
                "type": DRIFT,
                "status": wanted[0],
                "reason": wanted[1],
                "message": wanted[2],
                "lastTransitionTime": known.get("lastTransitionTime", when) if same else when,
                "lastHeartbeatTime": when,
            }
            status = {"conditions": [condition]}
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": status}
            api.apply(path + "/status", body, field_manager=MANAGER)
        self._sent = wanted


def node_event(document: JoinDocument, kind: str, reason: str, message: str, moment: float) -> Dict[str, Any]:
    """Return an Event about the Node, as `kubectl describe node` finds it; told again it is the same one."""
    when = moments.written(moment)
    digest = hashlib.sha256("\0".join((reason, message, when)).encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # Events of objects without a namespace belong to `default`; the API server insists on it.
        "metadata": {"name": "{}.{}".format(document.node, digest), "namespace": "default"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Node",
            "name": document.node,
            "uid": document.node_uid or document.node,
        },
        "type": kind,
        "reason": reason,
        "action": "Repair",
        "message": message,
        "source": {"component": MANAGER, "host": document.node},
        "reportingComponent": "freehold.io/agent",
        "reportingInstance": document.node,
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }


def shortened(message: str) -> str:
    """Return a message that fits."""
    return message if len(message) <= LONGEST else message[: LONGEST - 3] + "..."


def _condition_in(node: Dict[str, Any]) -> Dict[str, Any]:
    conditions = node.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == DRIFT), {})
