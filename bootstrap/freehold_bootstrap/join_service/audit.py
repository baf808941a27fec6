"""What happened to tokens, for people who look later: a line in the journal and a Kubernetes Event, no secrets.

An Event that cannot be written never stops a join: the journal has it.
"""

import hashlib
from datetime import datetime, timezone
from typing import Any, Dict

from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi
from freehold_bootstrap import journal
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.tokens import JoinTokenRecord, join_token_name

EVENTS = "/api/v1/namespaces/" + NAMESPACE + "/events"
REFUSED = "JoinRefused"


class Audit:
    """Writes through the API, and always to the journal."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def about_token(self, record: JoinTokenRecord, reason: str, message: str, source: str) -> None:
        """Note what was done with a known token; `reason` is one CamelCase word."""
        journal.notice(message, reason=reason, token=record.id, node=record.node, source=source)
        try:
            self._api.create(EVENTS, token_event(record, reason, "{} (from {})".format(message, source)))
        except Conflict:
            pass
        except (ApiError, OSError) as error:
            journal.warning("event not written", error=str(error))

    def about_stranger(self, reason: str, source: str) -> None:
        """Note a refusal without a known token: to the journal only, or floods would fill the cluster."""
        journal.notice("join refused", reason=reason, source=source)


def token_event(
    record: JoinTokenRecord, reason: str, message: str, component: str = "freehold-join"
) -> Dict[str, Any]:
    """Return the Event that says what `component` did with a token."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = join_token_name(record.id)
    metadata = {"generateName": name + ".", "namespace": NAMESPACE}
    if reason == REFUSED:
        # The same refusal again is the same Event: a thief may not fill the cluster with them.
        digest = hashlib.sha256(message.encode()).hexdigest()[:16]
        metadata = {"name": "{}.{}".format(name, digest), "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": metadata,
        "involvedObject": {"apiVersion": "v1", "kind": "Secret", "name": name, "namespace": NAMESPACE},
        "reason": reason,
        "message": message,
        "type": "Warning" if reason == REFUSED else "Normal",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": component},
    }
