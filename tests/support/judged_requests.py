"""Requests for certificates whose right verdict is known: good ones, and every kind of bad one that can be made."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.support.a_request import a_request
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.pretend_machine import (
    SERVING_USAGES,
    Machine,
    as_token,
    create_request,
    next_key,
    now,
    serving_request,
)

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import node_admission, node_record, tokens
from freehold_bootstrap.identities import BOOTSTRAPPERS_GROUP, NODE_USER_PREFIX, NODES_GROUP
from freehold_bootstrap.node_admission import NODES, NodeRequest
from freehold_controller.approver.approval_rules import (
    BOOTSTRAP_GROUP,
    BOOTSTRAP_USER,
    CLIENT_SIGNER,
    SERVING_SIGNER,
)

APPROVED, DENIED = "Approved", "Denied"
REFUSED = ("Refused", "Forbidden")
"""The API server's own NodeRestriction does not let it be asked for."""


@dataclass(frozen=True)
class Case:
    what: str
    expected: tuple[str, str]
    """(`Approved` or `Denied`, reason or reasons with `|` between them), or REFUSED."""
    ask: Callable[[], str]

    def met(self, seen: dict[str, str]) -> bool:
        """Tell whether these conditions (type -> reason) are the one that was expected."""
        kind, reasons = self.expected
        return list(seen) == [kind] and seen[kind] in reasons.split("|")

    def send(self) -> str:
        """Create the request; return its name, empty when it was refused."""
        try:
            return self.ask()
        except ApiError as error:
            if (error.status, self.expected) == (403, REFUSED):
                return ""
            raise AssertionError(f"{self.what}: {error}") from error


def admitted(plane: ControlPlane, name: str = "admitted", **options: Any) -> Machine:
    """Return a machine that was admitted over SSH: there is a Node, and it has a bootstrap token."""
    machine = Machine(plane, plane.name(name), address=plane.node_address())
    request = NodeRequest(machine.node, (machine.address,), **options)
    node_admission.admit(plane.installer, request, plane.settings, timeout=120)
    machine.bootstrap = node_admission.bootstrap_credential(plane.installer, machine.node).token
    plane.secrets.append(machine.bootstrap.split(".")[1])
    return machine


def with_certificate(plane: ControlPlane, name: str = "member") -> Machine:
    """Return a machine that has its first certificate."""
    machine = admitted(plane, name)
    key = next_key()
    machine.certified(machine.first_request(key), key)
    return machine


def good_first(machine: Machine) -> Case:
    key = next_key()
    return Case("first certificate", (APPROVED, "NodeJoins"), lambda: machine.first_request(key))


def good_of_member(machine: Machine) -> list[Case]:
    """Return a renewal and serving certificates that a node may have."""

    def renewal() -> str:
        return create_request(machine.api(), machine.client_pem(next_key()))

    def serving(*names: str) -> Case:
        return Case(
            "serves " + ", ".join(names), (APPROVED, "NodeServes"), lambda: serving_request(machine, *names)
        )

    return [
        Case("renewal", (APPROVED, "NodeRenews"), renewal),
        serving(machine.node, machine.address),
        serving(machine.address),
        serving(machine.node),
    ]


def bad_firsts(plane: ControlPlane) -> list[Case]:
    """Return what is wrong with a first certificate, one machine and token for each."""
    names = ("other", "masters", "both", "sans", "usages", "authority", "unit", "twice", "live", "namesake", "removed",
             "expired", "superseded", "spent")  # fmt: skip
    machines = dict(zip(names, plane.many(lambda name: admitted(plane, name), names), strict=True))
    _spoil(plane, machines)
    other = machines["masters"].node

    def first(name: str, reason: str, pem: Callable[[Machine], bytes], **changes: Any) -> Case:
        machine = machines[name]
        return Case(
            name, (DENIED, reason), lambda: as_token(plane, machine.bootstrap, pem(machine), **changes)
        )

    def plain(machine: Machine) -> bytes:
        return machine.client_pem(next_key())

    def subject(*organizations: str, **more: Any) -> Callable[[Machine], bytes]:
        return lambda machine: a_request(
            NODE_USER_PREFIX + machine.node, organizations or (NODES_GROUP,), key=next_key(), **more
        )

    def with_certificate_of_token(machine: Machine) -> str:
        """Ask as a token that the API server itself would not accept any more."""
        user = BOOTSTRAP_USER + machine.bootstrap.split(".")[0]
        pair = plane.certificate(user, BOOTSTRAP_GROUP, BOOTSTRAPPERS_GROUP)
        return create_request(plane.api(pair), plain(machine))

    everything = x509.BasicConstraints(ca=True, path_length=None)
    return [
        first("other", "TokenForOtherNode", lambda _: a_request(NODE_USER_PREFIX + other, key=next_key())),
        first("masters", "SubjectNotAllowed", subject("system:masters")),
        first("both", "SubjectNotAllowed", subject(NODES_GROUP, "system:masters")),
        first("sans", "NamesNotAllowed", lambda m: m.serving_pem(next_key())),
        first(
            "usages", "UsagesNotAllowed", plain, usages=("digital signature", "client auth", "server auth")
        ),
        first("authority", "ExtensionsNotAllowed", subject(extensions=(everything,))),
        first("unit", "RequestMalformed", subject(more_subject=((NameOID.ORGANIZATIONAL_UNIT_NAME, "x"),))),
        first("twice", "RequestMalformed", subject(more_subject=((NameOID.COMMON_NAME, "admin"),))),
        first("live", "NodeLive", plain),
        first("namesake", "NodeRemoved", plain),
        first("removed", "NodeRemoved", plain),
        first("superseded", "TokenSuperseded", plain),
        first("spent", "TokenSpent", plain),
        # The token cleaner may have been faster.
        Case(
            "expired",
            (DENIED, "TokenExpired|TokenUnknown"),
            lambda: with_certificate_of_token(machines["expired"]),
        ),
        Case(
            "serving with token", (DENIED, "RequesterUnknown"), lambda: _serving_with_token(machines["other"])
        ),
        *_bad_requesters(plane, machines["other"]),
    ]


def bad_of_member(machine: Machine, other: Machine) -> list[Case]:
    """Return what a node may not have: everything of others, names that are not its own, other uses."""
    plane = machine.plane

    def client(what: str, reason: str, pem: bytes, **changes: Any) -> Case:
        return Case(what, (DENIED, reason), lambda: create_request(machine.api(), pem, **changes))

    def refused(what: str, pem: bytes, **changes: Any) -> Case:
        return Case(what, REFUSED, lambda: create_request(machine.api(), pem, **changes))

    def serving(what: str, reason: str, *names: Any, pem: bytes = b"") -> Case:
        own = NODE_USER_PREFIX + machine.node
        content = pem or a_request(own, (NODES_GROUP,), names, key=next_key())
        return Case(what, (DENIED, reason), lambda: serving_request(machine, pem=content))

    strange = [
        x509.RFC822Name("a@example.com"),
        x509.UniformResourceIdentifier("https://" + plane.address),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, machine.node)])),
    ]
    foreign = (
        other.node, other.address, "cp1", "kubernetes", "kubernetes.default.svc", "localhost", "127.0.0.1",
        plane.address, "10.96.0.1", "169.254.200.1", "::1", "*", "*." + machine.node, machine.node + ".",
        machine.node.upper(), "metrics-server.kube-system.svc",
    )  # fmt: skip
    both = (*SERVING_USAGES, "client auth")
    extended = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),)
    return [
        refused("other's name", other.client_pem(next_key())),
        refused("admin's name", a_request("kubernetes-admin", ("freehold:admins",), key=next_key())),
        refused(
            "serves as other", other.serving_pem(next_key()), signer=SERVING_SIGNER, usages=SERVING_USAGES
        ),
        client("names in a client's", "NamesNotAllowed", machine.serving_pem(next_key())),
        client("any purpose", "UsagesNotAllowed", machine.client_pem(next_key()), usages=("any",)),
        client(
            "client of serving signer",
            "UsagesNotAllowed",
            machine.serving_pem(next_key()),
            signer=SERVING_SIGNER,
        ),
        client(
            "both uses",
            "UsagesNotAllowed",
            machine.serving_pem(next_key()),
            signer=SERVING_SIGNER,
            usages=both,
        ),
        client("no certificate at all", "RequestMalformed", _trailing(machine)),
        *(serving("serves " + name, "NamesNotAllowed", machine.node, name) for name in foreign),
        *(serving("serves other kind", "NamesNotAllowed", machine.node, name) for name in strange),
        serving("serves nothing", "NamesMissing"),
        serving(
            "asks for extended usage",
            "ExtensionsNotAllowed",
            pem=a_request(
                NODE_USER_PREFIX + machine.node, sans=(machine.node,), key=next_key(), extensions=extended
            ),
        ),
    ]


def _serving_with_token(machine: Machine) -> str:
    pem = machine.serving_pem(next_key())
    return as_token(machine.plane, machine.bootstrap, pem, signer=SERVING_SIGNER, usages=SERVING_USAGES)


def _trailing(machine: Machine) -> bytes:
    """Return two requests in one: Go reads the first, others might read the second."""
    return machine.client_pem(next_key()) + a_request("kubernetes-admin", ("system:masters",), key=next_key())


def _bad_requesters(plane: ControlPlane, machine: Machine) -> list[Case]:
    """Return requests for a node by those who are neither that node nor its token."""

    def admin(signer: str, usages: Sequence[str], pem: Callable[[int], bytes]) -> Callable[[], str]:
        return lambda: create_request(plane.admin, pem(next_key()), signer=signer, usages=usages)

    def foreign_token(*groups: str) -> str:
        """Ask with a bootstrap token that an administrator made for something else."""
        token, secret = tokens.mint_bootstrap(machine.node, "", "", now())
        del secret["metadata"]["annotations"]
        plane.secrets.append(token.split(".")[1])
        plane.admin.create(tokens.BOOTSTRAP_TOKENS, secret)
        return Machine(plane, machine.node, bootstrap=token).first_request(next_key())

    def more_groups() -> str:
        """Ask as the right token that is in one group more than tokens are."""
        user = BOOTSTRAP_USER + machine.bootstrap.split(".")[0]
        pair = plane.certificate(user, BOOTSTRAP_GROUP, BOOTSTRAPPERS_GROUP, "freehold:admins")
        return create_request(plane.api(pair), machine.client_pem(next_key()))

    def namesake() -> str:
        """Ask as somebody who is called like the node and is in no group of nodes."""
        pair = plane.certificate(NODE_USER_PREFIX + machine.node, "freehold:admins")
        return create_request(plane.api(pair), machine.client_pem(next_key()))

    usages = ("digital signature", "client auth")
    unknown = (DENIED, "RequesterUnknown")
    return [
        Case("admin's for a node", unknown, admin(CLIENT_SIGNER, usages, machine.client_pem)),
        Case("admin's serving", unknown, admin(SERVING_SIGNER, SERVING_USAGES, machine.serving_pem)),
        Case("foreign token", (DENIED, "TokenUnknown"), foreign_token),
        Case("token in more groups", unknown, more_groups),
        Case("namesake of a node", unknown, namesake),
    ]


def _spoil(plane: ControlPlane, machines: dict[str, Machine]) -> None:
    """Let happen to some nodes what makes their tokens worthless."""
    api = plane.admin
    live = {"status": {"nodeInfo": {"kubeletVersion": "v1.37.2"}}}
    api.merge(f"{NODES}/{machines['live'].node}", live, "status")
    _change_record(api, machines["live"], credentials=("f" * 64,))
    api.delete(f"{NODES}/{machines['removed'].node}")
    namesake = machines["namesake"].node
    api.delete(f"{NODES}/{namesake}")
    api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namesake}})
    spent = machines["spent"]
    assert spent.first_request(next_key())
    assert spendings(plane, spent)
    past = base64.b64encode((now() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()).decode()
    api.merge(tokens.BOOTSTRAP_TOKENS + "/" + _secret(machines["expired"]), {"data": {"expiration": past}})
    _change_record(api, machines["superseded"], join_uid=tokens.new_join_uid())


def _change_record(api: KubernetesApi, machine: Machine, **changes: Any) -> None:
    stored = node_record.read_object(api, machine.node)
    assert stored is not None
    node_record.write(api, replace(node_record.NodeRecord.from_object(stored), **changes), stored)


def _secret(machine: Machine) -> str:
    return tokens.bootstrap_token_name(machine.bootstrap.split(".")[0])


def _binding(secret: dict[str, Any]) -> tokens.BootstrapBinding:
    return tokens.BootstrapBinding.from_object(secret)


def spendings(plane: ControlPlane, machine: Machine) -> list[str]:
    """Return the keys a machine's bootstrap token was spent for, each change once, as seen by a watch.

    Waits for the first: this watch may be behind the one of requests.
    """
    follower, name = plane.bootstrap_tokens, _secret(machine)
    follower.wait(lambda _: any(_binding(secret).spent_by for _, secret in follower.of(name)))
    seen: list[str] = []
    for kind, secret in plane.bootstrap_tokens.of(_secret(machine)):
        spent = _binding(secret).spent_by
        if kind != "DELETED" and spent and (not seen or seen[-1] != spent):
            seen.append(spent)
    return seen


def certificates_seen(plane: ControlPlane, request: str) -> set[str]:
    """Return every certificate that ever stood in a request."""
    states = [obj.get("status") or {} for _, obj in plane.requests.of(request)]
    return {json.dumps(state["certificate"]) for state in states if state.get("certificate")}
