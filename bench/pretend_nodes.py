"""Nodes without machines: admitted as every node, then reported ready and kept alive by their leases only.

    python -m bench.pretend_nodes SERVER CA-FILE PAIR-FILE COUNT

keeps the leases until its standard input ends, then prints what became of them: a process of its own, because the
measuring one has enough to do.
"""

import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound

NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
EVERY = 10.0
"""Seconds between two renewals of one lease: a kubelet's habit."""
PARTS = 10
HANDS = 4
"""Threads that renew."""
CONDITIONS = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}


class Leases:
    """Keeps the leases of COUNT nodes in a process of its own from construction to `stop`."""

    def __init__(self, server: str, ca: str, pair: str, count: int) -> None:
        """`ca` and `pair` are paths."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.pretend_nodes", server, ca, pair, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[str, float]:
        """Return how many were renewed and missed, and the seconds that the slowest round took."""
        told, _ = self._process.communicate()
        result: dict[str, float] = json.loads(told)
        return result


class Keeper:
    """What that process does."""

    def __init__(self, server: str, ca: str, pair: str, count: int) -> None:
        self._names = [name(number) for number in range(count)]
        # One connection for each thread.
        self._api = KubernetesApi(server, ca_pem=Path(ca).read_text(), client_certificate=pair, timeout=30)
        self.renewed = self.missed = 0
        self.slowest = 0.0

    def run(self, stop: threading.Event) -> None:
        """Renew evenly, a tenth of them at a time."""
        parts = [self._names[start::PARTS] for start in range(PARTS)]
        begun = due = time.monotonic()
        with ThreadPoolExecutor(HANDS, "pretend") as hands:
            for turn in itertools.count(1):
                results = list(hands.map(self._renew, parts[turn % PARTS]))
                self.renewed += sum(results)
                self.missed += len(results) - sum(results)
                if turn % PARTS == 0:
                    self.slowest = max(self.slowest, time.monotonic() - begun)
                    begun = time.monotonic()
                due = max(due + EVERY / PARTS, time.monotonic())
                if stop.wait(due - time.monotonic()):
                    return

    def _renew(self, node: str) -> bool:
        try:
            self._api.merge(f"{LEASES}/{node}", {"spec": {"renewTime": _now()}})
        except NotFound:
            return True  # it is being made
        except (ApiError, OSError):
            return False
        return True


def name(number: int) -> str:
    """Return a pretended node's name."""
    return f"pretend-{number}"


def report_ready(api: KubernetesApi, node: str) -> None:
    """Say of a Node what a kubelet says once it is up. Raises ApiError, OSError."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {
            "type": kind, "status": status, "reason": "Pretended", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }
        for kind, status in CONDITIONS.items()
    ]  # fmt: skip
    room = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "50Gi"}
    status = {"capacity": room, "allocatable": room, "conditions": conditions}
    api.merge(f"{NODES}/{node}", {"status": status}, "status")
    api.apply(f"{LEASES}/{node}", lease_object(node))


def lease_object(node: str) -> dict[str, Any]:
    """Return a node's lease, renewed now."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": 40,
            "renewTime": _now(),
        },
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main() -> int:
    """Keep leases until standard input ends."""
    server, ca, pair, count = sys.argv[1:]
    keeper, stop = Keeper(server, ca, pair, int(count)), threading.Event()
    working = threading.Thread(target=keeper.run, args=(stop,))
    working.start()
    sys.stdin.read()
    stop.set()
    working.join()
    print(json.dumps({"renewed": keeper.renewed, "missed": keeper.missed, "slowest": keeper.slowest}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
