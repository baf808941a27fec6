"""The approver writes the verdicts: under load, against races, and across leaders that die half way."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timezone
from threading import Event, Thread
from typing import Any, Dict, List, Optional

import pytest
from tests.support.a_request import a_request, key_digest
from tests.support.fake_kubernetes import FakeKubernetes, forbidden

from freehold_agent.machine.kubernetes_api import ApiError, Conflict
from freehold_bootstrap.identities import SPENT_ANNOTATION
from freehold_bootstrap.node_record import NodeRecord, record_path
from freehold_bootstrap.tokens import bootstrap_token_path, mint_bootstrap
from freehold_controller.approver.approver import REQUESTS, Approver, SteppedDownError
from freehold_controller.approver.audit import EVENTS
from freehold_controller.approver.cluster_reader import unix_time

CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING = "kubernetes.io/kubelet-serving"
CREATED = "2026-11-23T08:00:00Z"
NO_NODE = ("Denied", "NodeRemoved")
NOW = unix_time("2026-11-23T08:00:05Z") or 0.0


class Killed(BaseException):
    """The process died here."""


class DyingKubernetes(FakeKubernetes):
    """Dies at one call, before or after it took effect."""

    def __init__(self) -> None:
        super().__init__()
        self.left: Optional[int] = None
        self.after = False

    def _dies(self, call: Any, *arguments: Any) -> Any:
        if self.left is None:
            return call(*arguments)
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed()
        result = call(*arguments)
        if self.left == 0:
            raise Killed()
        return result

    def get(self, path: str) -> Dict[str, Any]:
        return self._dies(super().get, path)

    def replace(self, path: str, obj: Any) -> Dict[str, Any]:
        return self._dies(super().replace, path, obj)

    def create(self, path: str, obj: Any) -> Dict[str, Any]:
        return self._dies(super().create, path, obj)


def a_cluster(api: FakeKubernetes, nodes: tuple[str, ...] = ("w1",), live: bool = False) -> Dict[str, str]:
    """Admit nodes as admission does; return the id of each one's bootstrap token."""
    tokens = {}
    for number, name in enumerate(nodes):
        status = {"nodeInfo": {"kubeletVersion": "v1.37.2"}} if live else {}
        node = api.add("/api/v1/nodes/" + name, {"metadata": {"name": name}, "status": status})
        uid = node["metadata"]["uid"]
        token, secret = mint_bootstrap(name, uid, "join-" + name, datetime.fromtimestamp(NOW, timezone.utc))
        tokens[name] = token.split(".")[0]
        api.add(bootstrap_token_path(tokens[name]), secret)
        address = "10.1.{}.{}".format(number // 250, 1 + number % 250)
        api.add(record_path(name), NodeRecord(name, (address,), "join-" + name, uid).to_object())
    return tokens


def a_csr(name: str, pem: bytes, username: str, signer: str = CLIENT, usages: Any = None) -> Dict[str, Any]:
    groups = ["system:bootstrappers", "system:bootstrappers:freehold", "system:authenticated"]
    if username.startswith("system:node:"):
        groups = ["system:nodes", "system:authenticated"]
    default = ["digital signature", "client auth" if signer == CLIENT else "server auth"]
    return {
        "metadata": {"name": name, "creationTimestamp": CREATED},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "username": username,
            "groups": groups,
            "usages": usages or default,
        },
    }


def first_csr(token: str, node: str = "w1", key: int = 0, name: str = "") -> Dict[str, Any]:
    pem = a_request("system:node:" + node, key=key)
    return a_csr(name or "first-" + node, pem, "system:bootstrap:" + token)


def verdict(api: FakeKubernetes, name: str) -> tuple[str, str] | None:
    conditions = (api.objects[REQUESTS + "/" + name].get("status") or {}).get("conditions") or []
    assert len(conditions) <= 1
    return (conditions[0]["type"], conditions[0]["reason"]) if conditions else None


def an_approver(api: FakeKubernetes, stop: Optional[Event] = None, workers: int = 4) -> Approver:
    return Approver(api, "cp1", stop or Event(), workers=workers, now=lambda: NOW)


def test_the_token_is_spent_before_the_approval() -> None:
    """The swaps on Secret and record come first, then the approval, then the event, which names no secret."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    request = api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"]))
    an_approver(api).handle(request)
    writes = [path for verb, path in api.calls if verb in ("replace", "create", "merge")]
    secret = bootstrap_token_path(tokens["w1"])
    assert writes == [secret, record_path("w1"), REQUESTS + "/first-w1/approval", EVENTS]
    assert api.objects[secret]["metadata"]["annotations"][SPENT_ANNOTATION] == key_digest()
    assert verdict(api, "first-w1") == ("Approved", "NodeJoins")
    (event,) = [api.objects[path] for path in api.paths(EVENTS)]
    assert event["involvedObject"]["name"] == "first-w1"
    assert api.objects[secret]["data"]["token-secret"] not in json.dumps(event)


def test_two_keys_racing_for_one_token_give_one_certificate() -> None:
    """The key that loses the swap is judged again, and denied; the Secret names the winner."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    first = api.add(REQUESTS + "/a", first_csr(tokens["w1"], key=0, name="a"))
    second = api.add(REQUESTS + "/b", first_csr(tokens["w1"], key=1, name="b"))
    rival = an_approver(api)
    raced: List[str] = []
    original = api.replace

    def replace(path: str, obj: Any) -> Dict[str, Any]:
        if path == bootstrap_token_path(tokens["w1"]) and not raced:
            raced.append(path)
            rival.handle(second)
        return original(path, obj)

    api.replace = replace  # type: ignore[method-assign]
    an_approver(api).handle(first)
    assert verdict(api, "b") == ("Approved", "NodeJoins")
    assert verdict(api, "a") == ("Denied", "TokenSpent")


def test_the_same_key_passes_again() -> None:
    """A second request with the key that spent the token is approved without another swap."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    for name in ("a", "b"):
        an_approver(api).handle(api.add(REQUESTS + "/" + name, first_csr(tokens["w1"], name=name)))
    assert verdict(api, "a") == verdict(api, "b") == ("Approved", "NodeJoins")
    assert api.calls.count(("replace", bootstrap_token_path(tokens["w1"]))) == 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(1, 10))
def test_a_leader_killed_at_any_call_leaves_work_that_the_next_one_finishes(call: int, after: bool) -> None:
    """Wherever the first leader dies, the second comes to one approval of the key, and one swap."""
    api = DyingKubernetes()
    tokens = a_cluster(api)
    request = api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"]))
    api.left, api.after = call, after
    with pytest.raises(Killed):
        an_approver(api).handle(request)
    api.left = None
    an_approver(api).handle(api.get(REQUESTS + "/first-w1"))
    assert verdict(api, "first-w1") == ("Approved", "NodeJoins")
    secret = api.objects[bootstrap_token_path(tokens["w1"])]
    assert secret["metadata"]["annotations"][SPENT_ANNOTATION] == key_digest()
    other = api.add(REQUESTS + "/other", first_csr(tokens["w1"], key=1, name="other"))
    an_approver(api).handle(other)
    assert verdict(api, "other") == ("Denied", "TokenSpent")


def test_a_request_decided_by_another_leader_is_left_alone() -> None:
    """A conflict leads to a fresh look, which finds the verdict and adds none."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    stale = api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"]))
    an_approver(api).handle(stale)
    assert an_approver(api).handle(stale).verb == "ignore"
    assert verdict(api, "first-w1") == ("Approved", "NodeJoins")


def test_a_leader_that_stepped_down_writes_nothing() -> None:
    """After the term's end neither a token is spent nor a verdict written."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    stop = Event()
    stop.set()
    with pytest.raises(SteppedDownError):
        an_approver(api, stop).handle(api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"])))
    assert not [verb for verb, _ in api.calls if verb in ("replace", "create", "merge")]


def test_an_event_that_fails_changes_no_verdict() -> None:
    """Events are for people; nodes get their certificates without them."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    api.fail("create", EVENTS, forbidden())
    an_approver(api).handle(api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"])))
    assert verdict(api, "first-w1") == ("Approved", "NodeJoins")


def test_serving_names_are_compared_with_the_record() -> None:
    """The recorded address passes, the neighbour's is denied, and so is a name that would leave its URL."""
    api = FakeKubernetes()
    a_cluster(api, ("w1", "w2"), live=True)
    cases = {
        "good": (a_request(sans=("w1", "10.1.0.1")), "system:node:w1", ("Approved", "NodeServes")),
        "stolen": (a_request(sans=("w1", "10.1.0.2")), "system:node:w1", ("Denied", "NamesNotAllowed")),
        "path": (
            a_request("system:node:../w1", sans=("w1",)),
            "system:node:../w1",
            NO_NODE,
        ),
    }
    for name, (pem, username, expected) in cases.items():
        an_approver(api).handle(api.add(REQUESTS + "/" + name, a_csr(name, pem, username, SERVING)))
        assert verdict(api, name) == expected
    assert not [path for _, path in api.calls if ".." in path]


def two_hundred(tokens: Dict[str, str]) -> tuple[List[Dict[str, Any]], Dict[str, tuple[str, str]]]:
    """Return a good and a bad request for each of a hundred nodes, and the verdicts they deserve."""
    requests, expected = [], {}
    reasons = ["TokenForOtherNode", "RequestMalformed", "RequesterUnknown", "NamesNotAllowed"]
    for number, (node, token) in enumerate(tokens.items()):
        name, user, own = "bad-" + node, "system:bootstrap:" + token, "system:node:" + node
        bad = [
            first_csr(token, "elsewhere", name=name),
            a_csr(name, b"junk", user),
            a_csr(name, a_request(own), "kubernetes-admin"),
            a_csr(name, a_request(own, sans=("evil",)), own, SERVING),
        ][number % 4]
        requests += [first_csr(token, node), bad]
        expected["first-" + node] = ("Approved", "NodeJoins")
        expected[name] = ("Denied", reasons[number % 4])
    return requests, expected


@pytest.mark.parametrize("killed_after", [None, 60])
def test_two_hundred_requests_at_once_half_of_them_bad(killed_after: Optional[int]) -> None:
    """All get their verdict, once, through errors and a leader's end in the middle; foreign ones get none."""
    api = FakeKubernetes()
    requests, expected = two_hundred(a_cluster(api, tuple("n{}".format(number) for number in range(100))))
    for request in requests[:100]:
        api.add(REQUESTS + "/" + request["metadata"]["name"], request)
    api.add(REQUESTS + "/foreign", a_csr("foreign", b"junk", "someone", "example.com/mine"))
    for error in (
        ApiError(503, "x", "busy"),
        ConnectionError("cut"),
        Conflict(409, "x", "y"),
        TimeoutError(),
    ):
        api.fail("replace", REQUESTS, error)
    api.fail("get", "/api/v1/nodes", ConnectionResetError("cut"))
    api.fail("list", REQUESTS, ConnectionRefusedError("not up yet"))
    first_stop, second_stop = Event(), Event()
    complete, killed = Event(), Event()
    written: List[str] = []

    def counts(_: FakeKubernetes, path: str, __: Any) -> None:
        written.append(path)
        if len(written) == killed_after:
            first_stop.set()
            killed.set()
        if len(written) == len(expected):
            complete.set()

    api.on("replace", REQUESTS, counts)
    runners = [Thread(target=an_approver(api, first_stop).run, daemon=True)]
    runners[0].start()
    for request in requests[100:]:  # half of them exist before, the others arrive while it watches
        api.add(REQUESTS + "/" + request["metadata"]["name"], request)
    if killed_after:
        assert killed.wait(60)
        runners.append(Thread(target=an_approver(api, second_stop).run, daemon=True))
        runners[1].start()
    assert complete.wait(60)
    first_stop.set()
    second_stop.set()
    api.add(REQUESTS + "/last", a_csr("last", b"junk", "someone", "example.com/mine"))
    for runner in runners:
        runner.join(10)
    assert {name: verdict(api, name) for name in expected} == expected
    assert verdict(api, "foreign") is None
    assert len(written) == len(set(written)) == 200


def a_certificate(name: str) -> tuple[str, str]:
    """Return something that is a certificate as far as its fingerprint goes: (status.certificate, fingerprint)."""
    der = b"certificate of " + name.encode()
    pem = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n".format(
        base64.b64encode(der).decode()
    )
    return base64.b64encode(pem.encode()).decode(), hashlib.sha256(der).hexdigest()


def issue(api: FakeKubernetes, name: str) -> str:
    """Sign a request as the controller manager does; return the certificate's fingerprint."""
    certificate, fingerprint = a_certificate(name)
    api.objects[REQUESTS + "/" + name].setdefault("status", {})["certificate"] = certificate
    return fingerprint


def asks_with(credential: str, name: str, key: int = 5) -> Dict[str, Any]:
    """Return a renewal by whoever holds the certificate."""
    request = a_csr(name, a_request("system:node:w1", key=key), "system:node:w1")
    shown = ["X509SHA256=" + credential]
    request["spec"]["extra"] = {"authentication.kubernetes.io/credential-id": shown}
    return request


def test_a_certificate_is_bound_to_its_join() -> None:
    """What the join gave renews, and what that gave, too; what the name's earlier machine holds does not."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    approver = an_approver(api)
    approver.handle(api.add(REQUESTS + "/first", first_csr(tokens["w1"], name="first")))
    first = issue(api, "first")
    # The certificate is known as soon as it is asked with, whether or not its event has been seen.
    approver.handle(api.add(REQUESTS + "/second", asks_with(first, "second")))
    assert verdict(api, "second") == ("Approved", "NodeRenews")
    second = issue(api, "second")
    assert approver.handle(api.objects[REQUESTS + "/second"]).verb == "ignore"
    record = NodeRecord.from_object(api.get(record_path("w1")))
    assert record.credentials == (first, second)
    for name in [path for path in api.objects if path.startswith(REQUESTS)]:
        del api.objects[name]  # requests are kept for an hour
    approver.handle(api.add(REQUESTS + "/third", asks_with(second, "third")))
    assert verdict(api, "third") == ("Approved", "NodeRenews")
    stranger = a_certificate("an earlier join's")[1]
    approver.handle(api.add(REQUESTS + "/old", asks_with(stranger, "old")))
    assert verdict(api, "old") == ("Denied", "CertificateSuperseded")


def test_what_a_stranger_was_given_is_not_learned() -> None:
    """A certificate of another key than the join's, or asked for with an unknown one, never counts."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    approver = an_approver(api)
    approver.handle(api.add(REQUESTS + "/first", first_csr(tokens["w1"], name="first")))
    first = issue(api, "first")
    requests = {
        "earlier": first_csr("zzzzzz", key=7, name="earlier"),
        "renewed": asks_with("0" * 64, "renewed"),
        "junk": dict(first_csr(tokens["w1"], name="junk"), status={"certificate": "!"}),
    }
    for name, request in requests.items():
        stored = api.add(REQUESTS + "/" + name, request)
        if name != "junk":
            issue(api, name)
            stored = api.get(REQUESTS + "/" + name)
        assert approver.handle(stored).verb == "ignore"
    approver.handle(api.get(REQUESTS + "/first"))
    record = NodeRecord.from_object(api.get(record_path("w1")))
    assert record.credentials == (first,)


def test_a_request_waits_for_its_record_and_is_then_approved() -> None:
    """A Node without a record is looked at again; once the record stands there, the request passes."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    record = api.objects.pop(record_path("w1"))
    approver = an_approver(api)
    request = api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"]))
    assert approver.handle(request).verb == "wait"
    api.add(record_path("w1"), record)
    assert approver.handle(request).verb == "approve"


def test_an_unreadable_record_allows_nothing() -> None:
    """A record that holds something else is no record."""
    api = FakeKubernetes()
    tokens = a_cluster(api)
    api.objects[record_path("w1")]["data"] = {"record": "[]"}
    assert an_approver(api).handle(api.add(REQUESTS + "/first-w1", first_csr(tokens["w1"]))).verb == "wait"
