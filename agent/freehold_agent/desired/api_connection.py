"""How soon a node's programs notice that the API server behind an open connection is gone.

A machine that loses power closes no connection: a watch on it stays silent until the client asks. Kubernetes' clients
ask after 30 s without traffic and wait 15 s for the answer (k8s.io/apimachinery, pkg/util/net/http.go, which names
both variables); a control plane is back within 10 s.
"""

from typing import List


def environment() -> List[str]:
    """Return what is set for each program that watches the API, as systemd's `Environment` takes it."""
    return ["HTTP2_READ_IDLE_TIMEOUT_SECONDS=8", "HTTP2_PING_TIMEOUT_SECONDS=4"]
