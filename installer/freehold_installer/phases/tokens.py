"""Join tokens, for machines that no SSH reaches: made, listed and revoked through the control plane's API.

The line to paste carries no secret; the token is shown beside it, once, and kept nowhere: the cluster has its hash.
"""

import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from freehold_agent.contract.artifacts import ArtifactEntry
from freehold_agent.contract.release import AGENT_ENTRY
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap import node_admission, node_identity, node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.identities import MANAGED_LABEL
from freehold_bootstrap.join_service.audit import EVENTS, token_event
from freehold_bootstrap.tokens import JOIN_TOKENS, JoinTokenRecord, join_token_name
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError, UnfitError
from freehold_installer.phases import paste_line
from freehold_installer.phases.leave import expel
from freehold_installer.phases.membership import admin_api, installer_api, settings_of, taint_text

SELECTOR = f"{MANAGED_LABEL}=join-token"
KEPT = timedelta(hours=1)
"""An expired token is kept so long: who comes late is told that it has expired."""


@dataclass(frozen=True)
class TokenRequest:
    """What a token is to be good for."""

    node: str
    lifetime: timedelta = tokens.DEFAULT_LIFETIME
    cidr: str = ""
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    replace: bool = False


def create(run: Run, request: TokenRequest) -> dict[str, Any]:
    """Make a token and return it with the line to paste, as JSON values. Raises FreeholdError."""
    if request.node in {host.name for host in run.inventory.control_planes}:
        raise InputError(f"{request.node} is a control plane; it joins by freehold apply")
    with installer_api(run) as api:
        return create_with(run, api, request)


def create_with(run: Run, api: KubernetesApi, request: TokenRequest) -> dict[str, Any]:
    """As `create`, through an API client that is open. Raises FreeholdError, BootstrapError, ApiError, OSError."""
    settings = settings_of(api)
    agent = _agent(settings)
    _check_node(api, request, settings)
    plane = run.machines[run.inventory.control_planes[0].name]
    now = datetime.fromtimestamp(int(plane.run(["date", "+%s"]).text), UTC)
    _forget_old(run, api, now)
    token, record = tokens.mint(
        request.node,
        now,
        lifetime=request.lifetime,
        cidr=request.cidr,
        addresses=request.addresses,
        labels=request.labels,
        taints=request.taints,
        replace=request.replace,
    )
    api.create(JOIN_TOKENS, record.to_object())
    _note(run, api, record, "TokenCreated", "join token made")
    line = paste_line.line(
        artifact_url=f"{settings.artifact_endpoints[0]}/v1/artifacts/{agent.sha256}",
        sha256=agent.sha256,
        servers=settings.join_endpoints,
        ca_der=ssl.PEM_cert_to_DER_cert(settings.ca_pem),
        node=request.node,
        made=int(now.timestamp()),
    )
    return {**_row(record, now), "token": token.reveal(), "line": line}


def listing(run: Run) -> list[dict[str, Any]]:
    """Return the tokens that the cluster knows, newest last, without their secrets. Raises FreeholdError."""
    with installer_api(run) as api:
        return rows(api)


def rows(api: KubernetesApi) -> list[dict[str, Any]]:
    """As `listing`, through an API client that is open. Raises ApiError, OSError."""
    now = datetime.now(UTC)
    return [_row(record, now) for record in _records(api)]


def revoke(run: Run, token_id: str) -> dict[str, Any]:
    """Delete a token; a Node that it made and that no kubelet has taken up goes with it. Raises FreeholdError."""
    if "." in token_id:
        raise InputError(
            "a token is revoked by its id, the part between the dots",
            hint="the token itself is now in your shell's history; this is why ids exist: freehold token list",
        )
    with installer_api(run) as api:
        records = {record.id: record for record in _records(api)}
        record = records.get(token_id)
        if record is None:
            raise InputError(
                f"there is no join token {token_id}", hint="it has: " + (", ".join(records) or "none")
            )
        removed = _remove(run, api, record)
        _note(run, api, record, "TokenRevoked", "join token revoked")
    return {"id": record.id, "node": record.node, "nodeRemoved": removed}


def delete_of_node(api: KubernetesApi, node: str) -> list[str]:
    """Delete every token for a node; return their ids. Raises ApiError, OSError."""
    gone = [record.id for record in _records(api) if record.node == node]
    for token_id in gone:
        _delete(api, token_id)
    return gone


def _check_node(api: KubernetesApi, request: TokenRequest, settings: ClusterSettings) -> None:
    """Refuse now what the join service would refuse later. Raises BootstrapError, InputError."""
    node_identity.check_name(request.node)
    if request.addresses:
        node_identity.check_addresses(request.node, request.addresses, settings, False)
        node_identity.check_free(api, request.node, request.addresses)
    with contextlib.suppress(NotFound):
        node = api.get(f"{node_admission.NODES}/{request.node}")
        if node_admission.is_live(node) and not request.replace:
            raise InputError(
                f"there is a node {request.node} already",
                hint="choose another name, or --replace if the machine takes its place (or its certificate expired)",
            )


def _agent(settings: ClusterSettings) -> ArtifactEntry:
    try:
        return settings.manifest.entry(AGENT_ENTRY)
    except KeyError:
        raise UnfitError("the release on the control plane holds no agent", hint="freehold apply") from None


def _records(api: KubernetesApi) -> Sequence[JoinTokenRecord]:
    found = []
    for obj in api.list(JOIN_TOKENS, labelSelector=SELECTOR)["items"]:
        with contextlib.suppress(ValueError):
            found.append(JoinTokenRecord.from_object(obj))
    return sorted(found, key=lambda record: (record.expires, record.id))


def _forget_old(run: Run, api: KubernetesApi, now: datetime) -> None:
    """Remove tokens that expired a while ago, with what was begun with them and never taken up."""
    for record in _records(api):
        if record.expired(now - KEPT):
            _remove(run, api, record)


def _remove(run: Run, api: KubernetesApi, record: JoinTokenRecord) -> bool:
    """Delete a token, and its Node if nobody took it up; say whether there was one."""
    _delete(api, record.id)
    if not record.claim:
        return False
    known = node_record.read(api, record.node)
    if known is None or known.join_uid != record.join_uid:
        return False
    with contextlib.suppress(NotFound):
        if node_admission.is_live(api.get(f"{node_admission.NODES}/{record.node}")):
            return False
    with admin_api(run) as admin:
        expel(admin, record.node)
    return True


def _delete(api: KubernetesApi, token_id: str) -> None:
    with contextlib.suppress(NotFound):
        api.delete(f"{JOIN_TOKENS}/{join_token_name(token_id)}")


def _note(run: Run, api: KubernetesApi, record: JoinTokenRecord, reason: str, message: str) -> None:
    """Write the audit event; one that cannot be written stops nothing."""
    try:
        api.create(EVENTS, token_event(record, reason, message, "freehold"))
    except (ApiError, OSError) as error:
        run.note(f"the event was not written: {error}", "warning")


def _row(record: JoinTokenRecord, now: datetime) -> dict[str, Any]:
    state = (
        "expired" if record.expired(now) else f"used by {record.claimed_from}" if record.claim else "unused"
    )
    return {
        "id": record.id,
        "node": record.node,
        "state": state,
        "expires": record.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "addresses": list(record.addresses),
        "cidr": record.cidr,
        "labels": dict(record.labels),
        "taints": [taint_text(taint) for taint in record.taints],
        "replace": record.replace,
    }
