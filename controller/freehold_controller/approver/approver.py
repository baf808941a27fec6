"""Watch requests for certificates and write the verdicts of `approval_rules`, a few at a time.

A token is spent by one compare-and-swap before its request is approved. So a leader may die between any two
calls: the next one reads the same facts, finds the token spent for the same key, and judges the same.
Rights: see `freehold_controller.controller`.
"""

import time
from threading import Event, Lock, Thread
from typing import Any, Callable, Dict

from freehold_agent.contract import moments
from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi, NotFound
from freehold_bootstrap import journal
from freehold_controller.approver import audit, request_parser
from freehold_controller.approver.approval_rules import APPROVE, IGNORE, SIGNERS, WAIT, Decision, judge
from freehold_controller.approver.cluster_reader import ClusterReader, view
from freehold_controller.approver.issued_certificates import is_issued, learn
from freehold_controller.approver.work_queue import WorkQueue
from freehold_controller.backoff import Backoff

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
WORKERS = 4
_TRIES = 8
"""Compare-and-swap rounds before the request goes back into the queue."""
_WATCH_SECONDS = 60.0
"""A connection that died without a word is noticed within this time."""
_LONGEST_PAUSE = 30.0


class SteppedDownError(Exception):
    """We no longer lead: leave the rest to the next one."""


class Approver:
    """One term's approver. `run` blocks until `stop` is set."""

    def __init__(
        self,
        api: KubernetesApi,
        identity: str,
        stop: Event,
        *,
        workers: int = WORKERS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._identity = identity
        self._stop = stop
        self._workers = workers
        self._now = now
        self._reader = ClusterReader(api, now)
        self._queue = WorkQueue()
        self._lock = Lock()
        self._requests: Dict[str, Dict[str, Any]] = {}
        self._failures: Dict[str, int] = {}

    def run(self) -> None:
        """Judge requests until stopped."""
        threads = [
            Thread(target=self._work, name="approver-{}".format(number), daemon=True)
            for number in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        Thread(target=self._close_at_stop, name="approver-stop", daemon=True).start()
        request_parser.load()
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            try:
                self._follow(backoff)
            except (ApiError, OSError) as error:
                if getattr(error, "status", 0) != 410:
                    journal.warning("watch of certificate requests ended", error=str(error))
                backoff.pause()

    def offer(self, request: Dict[str, Any]) -> None:
        """Queue a request if it is ours to judge and has no verdict yet, or has just got a certificate."""
        status = request.get("status") or {}
        if (request.get("spec") or {}).get("signerName") not in SIGNERS:
            return
        if (status.get("certificate") or status.get("conditions")) and not is_issued(request):
            return
        name = request["metadata"]["name"]
        with self._lock:
            self._requests[name] = request
        self._queue.add(name)

    def idle(self) -> bool:
        """Say whether every request offered so far has its verdict."""
        return self._queue.idle()

    def handle(self, request: Dict[str, Any]) -> Decision:
        """Judge one request and write the verdict. Raises ApiError, OSError, SteppedDownError."""
        name = request["metadata"]["name"]
        if is_issued(request):
            self._check_term()
            learn(self._api, request)
            return Decision(IGNORE)
        for _ in range(_TRIES):
            seen = view(request, self._now())
            if seen.decided:
                return Decision(IGNORE)
            decision = judge(seen, self._reader.snapshot(seen))
            if decision.verb in (IGNORE, WAIT):
                return decision
            try:
                if decision.spend is not None:
                    self._check_term()
                    self._reader.spend(decision.spend)
            except (Conflict, NotFound):
                continue  # another key was faster, or the token is gone: judge again by what is there now
            self._check_term()
            try:
                self._write(request, decision)
            except Conflict:
                request = self._api.get(REQUESTS + "/" + name)
                continue
            audit.record(self._api, self._identity, request, decision, self._now())
            return decision
        raise ConnectionError("request {} keeps changing".format(name))

    def _check_term(self) -> None:
        if self._stop.is_set():
            raise SteppedDownError()

    def _write(self, request: Dict[str, Any], decision: Decision) -> None:
        moment = moments.written(self._now())
        condition = {
            "type": "Approved" if decision.verb == APPROVE else "Denied",
            "status": "True",
            "reason": decision.reason,
            "message": decision.message,
            "lastUpdateTime": moment,
        }
        status = dict(request.get("status") or {})
        status["conditions"] = [*(status.get("conditions") or []), condition]
        body = dict(
            request, status=status, apiVersion="certificates.k8s.io/v1", kind="CertificateSigningRequest"
        )
        self._api.replace("{}/{}/approval".format(REQUESTS, request["metadata"]["name"]), body)

    def _follow(self, backoff: Backoff) -> None:
        """List, then watch for as long as the server keeps up. Raises ApiError, OSError."""
        listing = self._api.list(REQUESTS)
        for request in listing.get("items") or ():
            self.offer(request)
        version = str(listing["metadata"]["resourceVersion"])
        while not self._stop.is_set():
            for kind, request in self._api.watch(REQUESTS, version, timeout=_WATCH_SECONDS):
                version = str(request["metadata"]["resourceVersion"])
                backoff.reset()
                if self._stop.is_set():
                    return
                if kind in ("ADDED", "MODIFIED"):
                    self.offer(request)

    def _close_at_stop(self) -> None:
        self._stop.wait()
        self._queue.close()

    def _work(self) -> None:
        while True:
            name = self._queue.take()
            if name is None:
                return
            try:
                self._once(name)
            except SteppedDownError:
                return
            finally:
                self._queue.done(name)

    def _once(self, name: str) -> None:
        with self._lock:
            request = self._requests.get(name)
        if request is None:
            return
        try:
            decision = self.handle(request)
        except NotFound:
            decision = Decision(IGNORE)  # deleted meanwhile
        except SteppedDownError:
            raise
        except Exception as error:  # noqa: BLE001 - one odd object must not end the approver for all nodes
            self._again(name, "{}: {}".format(type(error).__name__, error))
            return
        if decision.verb == WAIT:
            self._again(name, decision.message)
            return
        with self._lock:
            self._failures.pop(name, None)
            if self._requests.get(name) is request:
                del self._requests[name]

    def _again(self, name: str, why: str) -> None:
        with self._lock:
            self._failures[name] = count = self._failures.get(name, 0) + 1
        pause = min(_LONGEST_PAUSE, 0.1 * 2 ** min(count - 1, 10))
        journal.warning(
            "certificate request is tried again", request=name, seconds=round(pause, 1), error=why
        )
        self._queue.add(name, pause)
