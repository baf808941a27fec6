"""Tell people what was decided: an Event on the request and a line in the journal, neither with a secret."""

import hashlib
from typing import Any, Mapping

from freehold_agent.contract import moments
from freehold_agent.machine.kubernetes_api import ApiError, Conflict, KubernetesApi
from freehold_bootstrap import journal
from freehold_controller.approver.approval_rules import APPROVE, Decision

# Events of objects without a namespace belong to `default`; the API server insists on it.
EVENTS = "/api/v1/namespaces/default/events"


def record(
    api: KubernetesApi, identity: str, request: Mapping[str, Any], decision: Decision, now: float
) -> None:
    """Write the verdict down. Never raises: Events that fail must not stop nodes; the journal has it.

    The Event's name follows from request and verdict, so a second leader that repeats one adds nothing.
    """
    metadata = request["metadata"]
    approved = decision.verb == APPROVE
    spec = request.get("spec") or {}
    (journal.info if approved else journal.notice)(
        "certificate request approved" if approved else "certificate request denied",
        request=metadata["name"],
        node=decision.node,
        signer=spec.get("signerName"),
        requester=spec.get("username"),
        reason=decision.reason,
        detail=decision.message,
    )
    uid = str(metadata.get("uid") or "")
    name = hashlib.sha256("{} {} {}".format(uid, decision.verb, decision.reason).encode()).hexdigest()[:16]
    moment = moments.written(now)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "{}.{}".format(metadata["name"], name), "namespace": "default"},
        "involvedObject": {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "name": metadata["name"],
            "uid": uid,
        },
        "type": "Normal" if approved else "Warning",
        "reason": decision.reason,
        "action": "Approve" if approved else "Deny",
        "message": decision.message,
        "source": {"component": "freehold-controller"},
        "reportingComponent": "freehold.io/controller",
        "reportingInstance": identity,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
    try:
        api.create(EVENTS, event)
    except Conflict:
        pass
    except (ApiError, OSError) as error:
        journal.warning("event not written", request=metadata["name"], error=str(error))
