"""What happened to tokens, for people who look later: a line in the journal and a Kubernetes Event, no secrets.

An Event that cannot be written never stops a join: the journal has it.
"""

from datetime import datetime, timezone
from typing import Any, Dict

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import journal
from freehold_bootstrap.identities import NAMESPACE
from freehold_bootstrap.tokens import JoinTokenRecord, join_token_name

EVENTS = "/api/v1/namespaces/" + NAMESPACE + "/events"


class Audit:
    """Writes through the API, and always to the journal."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def about_token(self, record: JoinTokenRecord, reason: str, message: str, source: str) -> None:
        """Note what was done with a known token; `reason` is one CamelCase word."""
        journal.notice(message, reason=reason, token=record.id, node=record.node, source=source)
        try:
            self._api.create(EVENTS, _event(record, reason, "{} (from {})".format(message, source)))
        except (ApiError, OSError) as error:
            journal.warning("event not written", error=str(error))

    def about_stranger(self, reason: str, source: str) -> None:
        """Note a refusal without a known token: to the journal only, or floods would fill the cluster."""
        journal.notice("join refused", reason=reason, source=source)


def _event(record: JoinTokenRecord, reason: str, message: str) -> Dict[str, Any]:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = join_token_name(record.id)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": name + ".", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Secret", "name": name, "namespace": NAMESPACE},
        "reason": reason,
        "message": message,
        "type": "Warning" if reason == "JoinRefused" else "Normal",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "freehold-join"},
    }
