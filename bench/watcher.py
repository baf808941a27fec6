"""An onlooker who is no part of freehold: when does the API answer, when is it ready, when are all Nodes Ready?

It asks the API server from the operator's side of the network with the administrator's certificate, as `kubectl`
would. Its questions are cheap (one a 50 ms), and its clock is the benchmark's.
"""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi

INTERVAL = 0.05
PORT = 6443


class Watcher:
    """Use it as a context manager around a run; `seen` holds Unix seconds by what was seen."""

    def __init__(self, address: str, nodes: Sequence[str], pki: Path, timeout: float = 180.0) -> None:
        """`pki` is where the certificates are, or will be once the run has made them."""
        self.seen: dict[str, float] = {}
        self._address = address
        self._nodes = set(nodes)
        self._pki = pki
        self._deadline = time.monotonic() + timeout
        self._stopped = threading.Event()
        self._kept: KubernetesApi | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._thread.join(5)
        self._stopped.set()
        self._thread.join()

    def since(self, begun: float) -> dict[str, float]:
        """Return seconds after `begun` (Unix seconds) by what was seen."""
        return {name: round(when - begun, 3) for name, when in self.seen.items()}

    def _run(self) -> None:
        steps = (("listens", self._listens), ("readyz", self._ready), ("nodes", self._look_at_nodes))
        for name, look in steps:
            while not look():
                if self._stopped.wait(INTERVAL) or time.monotonic() > self._deadline:
                    return
            self.seen[name] = time.time()

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self._address, PORT), 1):
                return True
        except OSError:
            return False

    def _ready(self) -> bool:
        try:
            return self._api().healthy()
        except (OSError, ssl.SSLError, ApiError):
            return False

    def _look_at_nodes(self) -> bool:
        try:
            nodes = self._api().list("/api/v1/nodes")["items"]
        except (OSError, ApiError):
            return False
        ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
        now = time.time()
        for name in sorted(ready & self._nodes):
            self.seen.setdefault(f"node {name}", now)
        return ready >= self._nodes

    def _api(self) -> KubernetesApi:
        """Return the one connection: a handshake for every question would be work for the API server."""
        if self._kept is None:
            self._kept = self._connected()
        return self._kept

    def _connected(self) -> KubernetesApi:
        return KubernetesApi(
            f"https://{self._address}:{PORT}",
            ca_pem=(self._pki / "ca.crt").read_text(),
            client_certificate=str(self._pki / "admin.crt"),
            client_key=str(self._pki / "admin.key"),
            timeout=5,
        )


def is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
