"""A cluster, its join service and a clock, for tests that speak to the service over TLS."""

import json
from datetime import datetime
from typing import Any, Callable, Dict, List

from tests.support.fake_kubernetes import FakeKubernetes, gives_pod_cidrs
from tests.support.served import Answer, Client, Served

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import Network
from freehold_bootstrap import tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.join_service.audit import EVENTS, Audit
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.failure_limit import FailureLimit
from freehold_bootstrap.join_service.joining import SETTINGS, Joining
from freehold_bootstrap.join_service.routes import Routes

NOW = datetime.fromisoformat("2026-11-23T08:00:00+00:00")
CLUSTER = ClusterSettings(
    cluster="lab",
    endpoints=("https://10.0.0.2:6443",),
    artifact_endpoints=("https://10.0.0.2:6445",),
    join_endpoints=("https://10.0.0.2:6444",),
    ca_pem="CA",
    network=Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local"),
    manifest=Manifest("1.37.2", "amd64", ()),
)
ADDRESS = "10.0.0.3"


class House:
    """A cluster, its join service, and a clock."""

    def __init__(self, serve: Callable[..., Served], client: Callable[..., Client]) -> None:
        self.now = NOW
        self.api = FakeKubernetes()
        self.api.on("create", "/api/v1/nodes", gives_pod_cidrs)
        self.api.add(SETTINGS, {"data": {"settings": json.dumps(CLUSTER.to_json())}})
        self.failures = FailureLimit()
        self.watch = DocumentWatch(self.api)
        self.joining = Joining(self.api, Audit(self.api), lambda: self.now, self.failures)
        self.served = serve(Routes(self.joining, self.watch).answer)
        self._client = client

    def token(self, node: str = "w1", **options: Any) -> str:
        options.setdefault("addresses", (ADDRESS,))
        token, record = tokens.mint(node, self.now, **options)
        self.api.create(tokens.JOIN_TOKENS, record.to_object())
        return token.reveal()

    def ask(self, method: str, path: str, body: Any = None, token: str = "", certificate: str = "") -> Answer:
        headers = {"Authorization": "Bearer " + token} if token else {}
        with self._client(self.served, certificate) as connection:
            return connection.ask(method, path, body, headers)

    def join(self, token: str, node: str = "w1", path: str = "/v1/join", **body: Any) -> Answer:
        return self.ask("POST", path, {"node": node, "claim": "machine-1", **body}, token)

    def events(self) -> List[Dict[str, Any]]:
        return [self.api.objects[path] for path in self.api.paths(EVENTS + "/")]

    def reasons(self) -> List[str]:
        return [event["reason"] for event in self.events()]
