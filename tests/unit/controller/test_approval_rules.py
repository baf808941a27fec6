"""The decision table of the approver: who gets which certificate, and why others do not."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from freehold_bootstrap.node_record import NodeRecord
from freehold_bootstrap.tokens import BootstrapBinding
from freehold_controller.approver.approval_rules import (
    CLIENT_SIGNER,
    SERVING_SIGNER,
    WAIT_SECONDS,
    CertificateRequestView,
    ClusterView,
    Decision,
    NodeView,
    Spend,
    judge,
)
from freehold_controller.approver.request_parser import Parsed, RequestError

CLIENT = ("client auth", "digital signature")
SERVING = ("server auth", "digital signature")
BOOTSTRAP_GROUPS = ("system:bootstrappers", "system:bootstrappers:freehold", "system:authenticated")
NODE_GROUPS = ("system:nodes", "system:authenticated")

CONTENT = Parsed("system:node:w1", ("system:nodes",), "k1")
SERVING_CONTENT = replace(CONTENT, dns_names=("w1",), addresses=("10.0.0.7", "fd00::7"))

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SOON = NOW + timedelta(minutes=3)
TOKEN = BootstrapBinding("abcdef", "w1", "j1", "u1", SOON, spent_by="", resource_version="77")
RECORD = NodeRecord("w1", ("10.0.0.7", "FD00:0::7", "w1.example"), "j1", "u1")
CLUSTER = ClusterView(
    NOW,
    {"abcdef": TOKEN},
    {"w1": NodeView("u1", live=False), "w2": NodeView("u2", live=True)},
    {"w1": RECORD, "w2": NodeRecord("w2", ("10.0.0.8",), "j2", "u2")},
)
LIVE = replace(CLUSTER, nodes={"w1": NodeView("u1", live=True)})

FIRST = CertificateRequestView(
    "csr-1", CLIENT_SIGNER, "system:bootstrap:abcdef", BOOTSTRAP_GROUPS, CLIENT, CONTENT
)
RENEWAL = CertificateRequestView("csr-2", CLIENT_SIGNER, "system:node:w1", NODE_GROUPS, CLIENT, CONTENT, "c1")
SERVE = CertificateRequestView(
    "csr-3", SERVING_SIGNER, "system:node:w1", NODE_GROUPS, SERVING, SERVING_CONTENT, "c1"
)


def _token(**changes: Any) -> ClusterView:
    return replace(CLUSTER, tokens={"abcdef": replace(TOKEN, **changes)})


def _node(cluster: ClusterView = LIVE, **changes: Any) -> ClusterView:
    return replace(cluster, nodes={"w1": replace(cluster.nodes["w1"], **changes)})


def _record(cluster: ClusterView = CLUSTER, **changes: Any) -> ClusterView:
    return replace(cluster, records={"w1": replace(RECORD, **changes)})


def _asks(request: CertificateRequestView, **changes: Any) -> CertificateRequestView:
    assert isinstance(request.content, Parsed)
    return replace(request, content=replace(request.content, **changes))


WITH_ENCIPHERMENT = ("key encipherment", "digital signature", "client auth")

APPROVED = {
    "first certificate": (FIRST, CLUSTER, "NodeJoins"),
    "first certificate, RSA usages": (replace(FIRST, usages=WITH_ENCIPHERMENT), CLUSTER, "NodeJoins"),
    "first certificate, same key again": (FIRST, _token(spent_by="k1"), "NodeJoins"),
    "first certificate, a former kubelet reports": (FIRST, _record(LIVE, credentials=()), "NodeJoins"),
    "first certificate, live node replaced": (FIRST, _record(LIVE, replace=True), "NodeJoins"),
    "first certificate, kubeadm's group": (
        replace(FIRST, groups=("system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token")),
        CLUSTER,
        "NodeJoins",
    ),
    "renewal": (RENEWAL, LIVE, "NodeRenews"),
    "first certificate, same key as the join's": (FIRST, _record(key="k1"), "NodeJoins"),
    "renewal, known certificate": (RENEWAL, _record(LIVE, credentials=("c0", "c1")), "NodeRenews"),
    "serving, known certificate": (SERVE, _record(LIVE, credentials=("c1",)), "NodeServes"),
    "renewal before the first status": (RENEWAL, CLUSTER, "NodeRenews"),
    "serving": (SERVE, LIVE, "NodeServes"),
    "serving before the first status": (SERVE, CLUSTER, "NodeServes"),
    "serving, name alone": (_asks(SERVE, addresses=()), LIVE, "NodeServes"),
    "serving, address alone": (_asks(SERVE, dns_names=()), LIVE, "NodeServes"),
    "serving, recorded DNS name": (_asks(SERVE, dns_names=("w1.example",)), LIVE, "NodeServes"),
    "serving, RSA usages": (replace(SERVE, usages=(*SERVING, "key encipherment")), LIVE, "NodeServes"),
}

DENIED = {
    "malformed": (replace(FIRST, content=RequestError("bytes follow")), CLUSTER, "RequestMalformed"),
    "malformed serving": (replace(SERVE, content=RequestError("x")), LIVE, "RequestMalformed"),
    "admin's own request": (
        replace(RENEWAL, username="kubernetes-admin", groups=("system:masters", "system:authenticated")),
        LIVE,
        "RequesterUnknown",
    ),
    "service account": (
        replace(SERVE, username="system:serviceaccount:a:b", groups=("system:serviceaccounts",)),
        LIVE,
        "RequesterUnknown",
    ),
    "node without the group": (replace(RENEWAL, groups=("system:authenticated",)), LIVE, "RequesterUnknown"),
    "node without a name": (replace(RENEWAL, username="system:node:"), LIVE, "RequesterUnknown"),
    "serving without the group": (replace(SERVE, groups=()), LIVE, "RequesterUnknown"),
    "serving by bootstrap token": (
        replace(SERVE, username="system:bootstrap:abcdef", groups=BOOTSTRAP_GROUPS),
        CLUSTER,
        "RequesterUnknown",
    ),
    "bootstrap without group": (
        replace(FIRST, groups=("system:authenticated",)),
        CLUSTER,
        "RequesterUnknown",
    ),
    "bootstrap with more groups": (
        replace(FIRST, groups=(*BOOTSTRAP_GROUPS, "system:masters")),
        CLUSTER,
        "RequesterUnknown",
    ),
    "token unknown": (replace(FIRST, username="system:bootstrap:zzzzzz"), CLUSTER, "TokenUnknown"),
    "token of nobody": (FIRST, _token(node=""), "TokenUnknown"),
    "token of no join": (FIRST, _record(_token(join_uid=""), join_uid=""), "TokenUnknown"),
    "token expired": (FIRST, _token(expires=NOW), "TokenExpired"),
    "token that never expires": (FIRST, _token(expires=None), "TokenExpired"),
    "token for an earlier Node": (FIRST, _token(node_uid="u0"), "TokenSuperseded"),
    "token spent": (FIRST, _token(spent_by="k0"), "TokenSpent"),
    "token spent, node replaced": (FIRST, _record(_token(spent_by="k0"), replace=True), "TokenSpent"),
    "join spent for another key": (FIRST, _record(key="k0"), "TokenSpent"),
    "join spent for another key, replaced": (FIRST, _record(LIVE, key="k0", replace=True), "TokenSpent"),
    "token of an earlier join": (FIRST, _record(join_uid="j0"), "TokenSuperseded"),
    "token for another node": (_asks(FIRST, common_name="system:node:w2"), CLUSTER, "TokenForOtherNode"),
    "token for an admin": (
        _asks(FIRST, common_name="kubernetes-admin"),
        CLUSTER,
        "TokenForOtherNode",
    ),
    "first with masters": (_asks(FIRST, organizations=("system:masters",)), CLUSTER, "SubjectNotAllowed"),
    "first with both": (
        _asks(FIRST, organizations=("system:nodes", "system:masters")),
        CLUSTER,
        "SubjectNotAllowed",
    ),
    "first without O": (_asks(FIRST, organizations=()), CLUSTER, "SubjectNotAllowed"),
    "first with DNS name": (_asks(FIRST, dns_names=("w1",)), CLUSTER, "NamesNotAllowed"),
    "first with address": (_asks(FIRST, addresses=("10.0.0.7",)), CLUSTER, "NamesNotAllowed"),
    "first with mail": (_asks(FIRST, other_names=("rfc822Name",)), CLUSTER, "NamesNotAllowed"),
    "first with extension": (_asks(FIRST, other_extensions=("2.5.29.19",)), CLUSTER, "ExtensionsNotAllowed"),
    "first with server auth": (replace(FIRST, usages=(*CLIENT, "server auth")), CLUSTER, "UsagesNotAllowed"),
    "first with too few usages": (replace(FIRST, usages=("client auth",)), CLUSTER, "UsagesNotAllowed"),
    "first with cert sign": (replace(FIRST, usages=(*CLIENT, "cert sign")), CLUSTER, "UsagesNotAllowed"),
    "first without usages": (replace(FIRST, usages=()), CLUSTER, "UsagesNotAllowed"),
    "first for a live node": (FIRST, LIVE, "NodeLive"),
    "first for a node with a certificate": (FIRST, _record(LIVE, credentials=("c1",)), "NodeLive"),
    "first for a live node, same key": (
        FIRST,
        replace(LIVE, tokens=_token(spent_by="k1").tokens),
        "NodeLive",
    ),
    "first for no Node": (FIRST, replace(CLUSTER, nodes={}), "NodeRemoved"),
    "first for a leaving Node": (FIRST, _node(CLUSTER, leaving=True), "NodeRemoved"),
    "first for a namesake": (FIRST, _node(CLUSTER, uid="u9"), "NodeRemoved"),
    "renewal for another": (_asks(RENEWAL, common_name="system:node:w2"), LIVE, "NameOfOtherNode"),
    "renewal with masters": (_asks(RENEWAL, organizations=("system:masters",)), LIVE, "SubjectNotAllowed"),
    "renewal with names": (_asks(RENEWAL, dns_names=("kubernetes.default",)), LIVE, "NamesNotAllowed"),
    "renewal with serving usages": (replace(RENEWAL, usages=SERVING), LIVE, "UsagesNotAllowed"),
    "renewal after removal": (RENEWAL, replace(LIVE, nodes={}), "NodeRemoved"),
    "renewal while leaving": (RENEWAL, _node(leaving=True), "NodeRemoved"),
    "renewal, made again by someone": (RENEWAL, _node(uid="u9"), "NodeRemoved"),
    "renewal by an earlier machine": (RENEWAL, _record(LIVE, credentials=("c2",)), "CertificateSuperseded"),
    "renewal before any certificate": (RENEWAL, _record(LIVE, credentials=()), "CertificateSuperseded"),
    "renewal without a certificate": (
        replace(RENEWAL, credential=""),
        _record(LIVE, credentials=("c1",)),
        "CertificateSuperseded",
    ),
    "serving by an earlier machine": (SERVE, _record(LIVE, credentials=("c2",)), "CertificateSuperseded"),
    "renewal, record without uid": (RENEWAL, _record(LIVE, node_uid=""), "NodeRemoved"),
    "serving for another": (_asks(SERVE, common_name="system:node:w2"), LIVE, "NameOfOtherNode"),
    "serving, another's address": (_asks(SERVE, addresses=("10.0.0.7", "10.0.0.8")), LIVE, "NamesNotAllowed"),
    "serving, mapped address": (_asks(SERVE, addresses=("::ffff:10.0.0.7",)), LIVE, "NamesNotAllowed"),
    "serving, another's name": (_asks(SERVE, dns_names=("w1", "w2")), LIVE, "NamesNotAllowed"),
    "serving, wildcard": (_asks(SERVE, dns_names=("*",)), LIVE, "NamesNotAllowed"),
    "serving, loopback": (_asks(SERVE, addresses=("127.0.0.1",)), LIVE, "NamesNotAllowed"),
    "serving, URI": (_asks(SERVE, other_names=("uniformResourceIdentifier",)), LIVE, "NamesNotAllowed"),
    "serving, no names": (_asks(SERVE, dns_names=(), addresses=()), LIVE, "NamesMissing"),
    "serving, client usages": (replace(SERVE, usages=CLIENT), LIVE, "UsagesNotAllowed"),
    "serving, both usages": (replace(SERVE, usages=(*SERVING, "client auth")), LIVE, "UsagesNotAllowed"),
    "serving, extension": (_asks(SERVE, other_extensions=("2.5.29.19",)), LIVE, "ExtensionsNotAllowed"),
    "serving, O": (_asks(SERVE, organizations=("system:nodes", "x")), LIVE, "SubjectNotAllowed"),
    "serving after removal": (SERVE, replace(LIVE, nodes={}), "NodeRemoved"),
    "serving, namesake": (SERVE, _node(uid="u9"), "NodeRemoved"),
    "never recorded": (replace(SERVE, age=WAIT_SECONDS), replace(LIVE, records={}), "NodeNotRecorded"),
}

IGNORED = {
    "client signer": replace(FIRST, signer="kubernetes.io/kube-apiserver-client"),
    "legacy signer": replace(FIRST, signer="kubernetes.io/legacy-unknown"),
    "own signer": replace(SERVE, signer="example.com/mine"),
    "decided": replace(FIRST, decided=True),
    "malformed, other signer": replace(FIRST, signer="example.com/mine", content=RequestError("x")),
}


@pytest.mark.parametrize(("request_view", "cluster", "reason"), APPROVED.values(), ids=APPROVED.keys())
def test_approves(request_view: CertificateRequestView, cluster: ClusterView, reason: str) -> None:
    """What a node may ask for is approved, with a reason for the audit trail."""
    decision = judge(request_view, cluster)
    assert (decision.verb, decision.reason, decision.node) == ("approve", reason, "w1"), decision.message


@pytest.mark.parametrize(("request_view", "cluster", "reason"), DENIED.values(), ids=DENIED.keys())
def test_denies(request_view: CertificateRequestView, cluster: ClusterView, reason: str) -> None:
    """Anything else of the two signers is denied, with the rule as its reason, and spends no token."""
    decision = judge(request_view, cluster)
    assert (decision.verb, decision.reason) == ("deny", reason), decision.message
    assert decision.message
    assert decision.spend is None


@pytest.mark.parametrize("request_view", IGNORED.values(), ids=IGNORED.keys())
def test_leaves_alone(request_view: CertificateRequestView) -> None:
    """Other signers' requests and decided ones get no verdict."""
    assert judge(request_view, CLUSTER) == Decision("ignore")


def test_a_token_is_spent_before_the_first_approval() -> None:
    """The first approval carries the swap to perform: token, key and the version that was judged."""
    assert judge(FIRST, CLUSTER).spend == Spend("abcdef", "k1", "77", "w1", "j1")


def test_a_retry_with_the_same_key_spends_nothing() -> None:
    """A token and a join that this key has spent need no second swap; a leader may have died between the two."""
    assert judge(FIRST, _record(_token(spent_by="k1"), key="k1")).spend is None
    assert judge(FIRST, _token(spent_by="k1")).spend == Spend("abcdef", "k1", "", "w1", "j1")
    assert judge(FIRST, _record(key="k1")).spend == Spend("abcdef", "k1", "77", "w1", "j1")


@pytest.mark.parametrize("request_view", [FIRST, RENEWAL, SERVE])
def test_waits_for_a_record_that_is_still_written(request_view: CertificateRequestView) -> None:
    """A Node whose record does not exist yet gets a little time, not a verdict."""
    assert judge(request_view, replace(CLUSTER, records={})).verb == "wait"
