"""The Kubernetes API asked from a machine, with a credential that lies there or with none."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.cluster import Cluster

from freehold_agent.contract import paths


@dataclass(frozen=True)
class Said:
    """An answer of the API server."""

    status: int
    """HTTP status."""
    body: Any

    @property
    def message(self) -> str:
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else str(self.body)


@dataclass(frozen=True)
class ApiFromMachine:
    """`api.get(path)`, `api("POST", path, object)`: with the kubelet's own certificate, or anonymous."""

    cluster: Cluster
    machine: str
    credential: str = paths.KUBELET_CLIENT_CERTIFICATE
    """File on the machine with certificate and key; empty for none."""

    def __call__(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Said:
        """Send one request; return whatever came back."""
        command = [*self._command, "--request", method, "--write-out", "\n%{http_code}", self._server + path]
        if body is not None:
            command += ["--header", f"Content-Type: {kind}", "--data-binary", "@-"]
        sent = "" if body is None else json.dumps(body)
        said, _, status = self.cluster.run(self.machine, shlex.join(command), stdin=sent).rpartition("\n")
        try:
            return Said(int(status), json.loads(said))
        except ValueError:
            return Said(int(status), said)

    def get(self, path: str) -> Said:
        return self("GET", path)

    def statuses(self, paths_: Sequence[str]) -> dict[str, int]:
        """Return the HTTP status of a GET of each path, all asked in one go."""
        config = "".join(f'url = "{self._server}{path}"\noutput = "/dev/null"\n' for path in paths_)
        command = [*self._command, "--write-out", "%{http_code}\\n", "--config", "-"]
        said = self.cluster.run(self.machine, shlex.join(command), stdin=config)
        return dict(zip(paths_, map(int, said.split()), strict=True))

    @property
    def _server(self) -> str:
        return f"https://{self.cluster.address(self.cluster.control_plane)}:6443"

    @property
    def _command(self) -> list[str]:
        command = ["curl", "--silent", "--show-error", "--max-time", "10", "--cacert", paths.CLUSTER_CA]
        return command + (["--cert", self.credential, "--key", self.credential] if self.credential else [])

    def merge(self, path: str, patch: Any) -> Said:
        """Send a merge patch."""
        return self("PATCH", path, patch, "application/merge-patch+json")
