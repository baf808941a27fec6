"""The join service: one token, one machine, one node; refusals that say why; documents for nodes that exist."""

import dataclasses
import json
import threading
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List, Optional

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, forbidden, gives_pod_cidrs, goes_live
from tests.support.served import Answer, Client, Served

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import JoinDocument, Network
from freehold_agent.machine.kubernetes_api import Conflict
from freehold_bootstrap import documents, node_record, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import Refused
from freehold_bootstrap.join_service.audit import EVENTS, Audit
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.failure_limit import FAILURES, FailureLimit
from freehold_bootstrap.join_service.joining import SETTINGS, Joining, JoinRequest
from freehold_bootstrap.join_service.known_tokens import KnownTokens
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


@pytest.fixture
def house(serve: Callable[..., Served], client: Callable[..., Client]) -> House:
    return House(serve, client)


def test_a_token_becomes_a_node(house: House) -> None:
    """One token: a document with the pod network, then a bootstrap credential for that very node."""
    token = house.token(labels={"zone": "a"})
    answer = house.join(token)
    assert answer.status == 200
    document = JoinDocument.loads(answer.body)
    assert (document.node, document.addresses) == ("w1", (ADDRESS,))
    assert document.network.node_pod_cidrs
    assert house.api.get("/api/v1/nodes/w1")["metadata"]["labels"]["zone"] == "a"
    given = house.join(token, path="/v1/credential")
    assert given.status == 200
    (path,) = house.api.paths(tokens.BOOTSTRAP_TOKENS + "/bootstrap-token-")
    assert tokens.BootstrapBinding.from_object(house.api.get(path)).node == "w1"
    assert given.json["token"].split(".")[0] == path.rpartition("-")[2]
    assert sorted(house.reasons()) == ["CredentialIssued", "TokenUsed"]


def test_a_lost_answer_may_be_asked_for_again(house: House) -> None:
    """The same machine gets the same document again; no second Node, no new generation."""
    token = house.token()
    first = house.join(token)
    again = house.join(token)
    assert again.body == first.body
    assert house.reasons() == ["TokenUsed"]


def refused(house: House, answer: Answer, status: int, reason: str) -> None:
    assert (answer.status, answer.reason) == (status, reason)
    assert house.api.paths("/api/v1/nodes/") == []


def test_a_wrong_secret_and_an_unknown_id_look_alike(house: House) -> None:
    """Nobody learns from the answer whether a token of that id exists."""
    version, token_id, _ = house.token().split(".")
    wrong = house.join(".".join([version, token_id, "a" * 52]))
    unknown = house.join(".".join([version, "b" * 10, "a" * 52]))
    refused(house, wrong, 401, "wrong-token")
    assert (unknown.status, unknown.body) == (wrong.status, wrong.body)
    assert house.events() == []


def test_no_token_or_a_mistyped_one(house: House) -> None:
    """What is not even a token is said to be none."""
    refused(house, house.ask("POST", "/v1/join", {"node": "w1"}), 401, "no-credential")
    refused(house, house.join("fh1.short"), 401, "bad-token")


def test_a_token_in_the_url_or_body_counts_for_nothing(house: House) -> None:
    """Only the Authorization header is read: other places end in logs."""
    token = house.token()
    refused(
        house,
        house.ask("POST", "/v1/join?token=" + token, {"node": "w1", "token": token}),
        401,
        "no-credential",
    )


def test_expired(house: House) -> None:
    """A second after its end a token is worth nothing."""
    token = house.token()
    house.now += timedelta(minutes=10)
    refused(house, house.join(token), 403, "expired")
    assert house.reasons() == ["JoinRefused"]


def test_for_another_node(house: House) -> None:
    """A token joins the node it was made for, whatever the machine calls itself."""
    refused(house, house.join(house.token("w2"), node="w1"), 403, "other-node")


def test_from_another_network(house: House) -> None:
    """A token with a network is refused from outside it, before anything else is said about it."""
    token = house.token(cidr="192.0.2.0/24")
    house.now += timedelta(days=1)
    refused(house, house.join(token), 403, "source-not-allowed")


def test_used_by_another_machine(house: House) -> None:
    """The first machine owns the token; a thief who comes later gets nothing, also no credential."""
    token = house.token()
    assert house.join(token).status == 200
    for path in ("/v1/join", "/v1/credential"):
        answer = house.join(token, claim="machine-2", path=path)
        assert (answer.status, answer.reason) == (403, "used")
    assert house.api.paths(tokens.BOOTSTRAP_TOKENS + "/bootstrap-token-") == []


def test_of_two_machines_at_once_one_wins(house: House) -> None:
    """The token is bound by compare-and-swap: whoever writes second sees the first."""
    token = house.token()

    stored = house.api.get(tokens.JOIN_TOKENS + "/join-token-" + token.split(".")[1])
    record = tokens.JoinTokenRecord.from_object(stored)
    replace = house.api.replace
    calls: List[str] = []

    def outrun(path: str, obj: Any) -> Any:
        if not calls:
            calls.append(path)
            replace(path, record.claimed("someone else", "10.9.9.9").to_object())
        return replace(path, obj)

    house.api.replace = outrun  # type: ignore[method-assign]
    refused(house, house.join(token), 403, "used")


def test_a_live_node_is_not_joined_again(house: House) -> None:
    """After the node is live its token gives no credential any more, and a new token no document."""
    token = house.token()
    house.join(token)
    goes_live(house.api, "w1")
    stored = node_record.read_object(house.api, "w1")
    assert stored is not None
    record = dataclasses.replace(node_record.NodeRecord.from_object(stored), key="k")
    node_record.write(house.api, record, stored)
    assert house.join(token, path="/v1/credential").reason == "node-exists"
    assert (house.join(house.token()).status, house.join(house.token()).reason) == (409, "node-exists")


def test_a_kubelet_that_had_the_name_before_ends_no_join(house: House) -> None:
    """Its old certificate lets it report from the new Node; the join that has given none yet goes on, no other."""
    token = house.token()
    house.join(token)
    goes_live(house.api, "w1")
    assert house.join(token, path="/v1/credential").status == 200
    assert house.join(house.token(), path="/v1/credential").reason == "node-exists"


def test_a_token_is_good_for_its_own_join_only(house: House) -> None:
    """A machine that was admitted once gets no credential for the join that took its place."""
    first = house.token()
    house.join(first)
    second = house.token()
    assert house.join(second).status == 200
    assert house.join(second, path="/v1/credential").status == 200
    assert house.join(first, path="/v1/credential").reason == "not-admitted"


def test_addresses(house: House) -> None:
    """A node has the addresses of its token, else the one it comes from; it cannot choose another."""
    refused(house, house.join(house.token(), addresses=["10.0.0.99"]), 403, "address-not-allowed")
    refused(house, house.join(house.token(addresses=()), addresses=["10.0.0.99"]), 403, "address-not-allowed")
    assert house.join(house.token(), addresses=[ADDRESS]).status == 200
    # From loopback the observed address is one that no node can have: said as such.
    assert house.join(house.token("w2", addresses=()), node="w2").reason == "bad-address"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"node": 1}',
        b'{"node": "w1", "addresses": 5}',
        b'{"node": "w1", "addresses": [1]}',
        b'{"node": "w1", "addresses": {"a": 1}}' * 2,
        b'{"node": "w1", "facts": 3}',
        b'{"node": "w1", "claim": {"a": 1}}',
        b'{"node": "w1", "claim": "\\ud800"}',
        b'{"node": "w1", "claim": "a\\u0000b"}',
        b"\xff\xfe",
        b"[" * 30000,
        json.dumps({"node": "w" * 600}).encode(),
        json.dumps({"node": "w1", "addresses": ["10.0.0.3"] * 17}).encode(),
    ],
)
def test_bad_bodies_are_400(house: House, body: bytes) -> None:
    """Whatever the body is, the answer is one sentence and no fault of ours."""
    refused(house, house.ask("POST", "/v1/join", body, house.token()), 400, "bad-request")
    assert house.served.listener.counters["faults"] == 0


def test_bad_node_names_never_reach_the_api(house: House) -> None:
    """A token for a name that is none (made by hand) is refused by admission."""
    token = house.token("w1/../x")
    refused(house, house.join(token, node="w1/../x"), 400, "bad-name")


def test_guessing_is_slowed_down(house: House) -> None:
    """After too many wrong tokens an address waits, and the API server is left alone."""
    wrong = "fh1.{}.{}".format("a" * 10, "b" * 52)
    for _ in range(FAILURES):
        assert house.join(wrong).status == 401
    assert house.join(wrong).status == 429
    calls = len(house.api.calls)
    answers = [house.join(wrong) for _ in range(10)]
    assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(429, "1")}
    assert house.join("nothing like a token").status == 429
    assert house.api.calls[calls:].count(("list", tokens.JOIN_TOKENS)) <= 1
    assert not [call for call in house.api.calls[calls:] if call[0] == "get"]


def test_beside_a_thief_an_honest_machine_joins(house: House) -> None:
    """Who comes with a token there is may join, though its address guessed too often: a site may stand behind it."""
    for _ in range(FAILURES):
        house.join("fh1.{}.{}".format("a" * 10, "b" * 52))
    token = house.token()
    assert house.join(token).status == 200
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    assert house.join(wrong).status == 401, "a known id alone is worth nothing"


def test_ids_of_tokens_are_read_once_a_second(house: House) -> None:
    """However many guess, the list is read at most once a second; a token made meanwhile is known after that."""
    now = [0.0]
    known = KnownTokens(house.api, lambda: now[0])
    first = house.token().split(".")[1]
    assert [known.has(first), known.has("other"), known.has(first)] == [True, False, True]
    second = house.token().split(".")[1]
    assert not known.has(second)
    assert house.api.calls.count(("list", tokens.JOIN_TOKENS)) == 1
    now[0] += 1.0
    assert known.has(second)


def test_a_thief_does_not_fill_the_cluster(house: House) -> None:
    """The same refusal of the same token is one Event."""
    token = house.token()
    house.join(token)
    for _ in range(5):
        assert house.join(token, claim="thief").reason == "used"
    assert house.reasons().count("JoinRefused") == 1


def test_when_the_api_server_fails_it_is_503_and_says_nothing_of_it(house: House) -> None:
    """What the API server says is for our journal, not for strangers; the same token works a moment later."""
    token = house.token()
    house.api.fail("get", tokens.JOIN_TOKENS, forbidden("inner secret"))
    answer = house.join(token)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert b"inner" not in answer.body
    house.api.fail("get", SETTINGS, OSError("down"))
    assert house.join(token).status == 503
    assert house.join(token).status == 200


def test_settings_that_are_not_there_yet(house: House) -> None:
    """Between API server and installer's next step a join is told to come back."""
    del house.api.objects[SETTINGS]
    answer = house.join(house.token())
    assert (answer.status, answer.reason) == (503, "not-ready")


def test_an_event_that_cannot_be_written_stops_nothing(house: House) -> None:
    """Audit goes to the journal at least."""
    house.api.fail("create", EVENTS, forbidden())
    assert house.join(house.token()).status == 200


def test_no_secret_in_events_or_journal(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither token nor credential stands in what is written down about them."""
    token = house.token()
    house.join(token)
    credential = house.join(token, path="/v1/credential").json["token"]
    house.join(token, claim="machine-2")
    written = json.dumps(house.events()) + capfd.readouterr().err
    assert "JoinRefused" in written
    for secret in (token, token.split(".")[2], credential, credential.split(".")[1]):
        assert secret not in written


@pytest.fixture
def joined(house: House) -> House:
    """A house whose node w1 has joined and whose documents are followed."""
    token = house.token()
    house.join(token)
    house.join(token, path="/v1/credential")
    knows(house, None)
    house.watch.start()
    return house


def knows(house: House, credentials: Any) -> None:
    """Let the record of w1 know these certificates; None: any."""
    stored = node_record.read_object(house.api, "w1")
    assert stored is not None
    record = node_record.NodeRecord.from_object(stored)
    node_record.write(house.api, dataclasses.replace(record, credentials=credentials), stored)


def document(
    house: House, certificate: str, query: str = "?generation=0&wait=10", node: str = "w1"
) -> Answer:
    return house.ask("GET", "/v1/document/" + node + query, certificate=certificate)


def test_a_node_reads_its_own_document(joined: House, node_certificate: Any) -> None:
    """With the kubelet's certificate a node gets its document, and nothing while it is up to date."""
    certificate = node_certificate("system:node:w1")
    answer = document(joined, certificate)
    assert JoinDocument.loads(answer.body).node == "w1"
    assert document(joined, certificate, "?generation=1").status == 204
    assert document(joined, certificate, "?generation=x").status == 400
    # Not a number that time could ever reach: it would be waited for without a pause.
    assert document(joined, certificate, "?generation=1&wait=nan").status == 400


def test_a_new_document_ends_the_long_poll(joined: House, node_certificate: Any) -> None:
    """Whoever waits gets the next generation when it is written, not at the next poll."""
    certificate = node_certificate("system:node:w1")
    current = JoinDocument.loads(document(joined, certificate).body)
    answers: List[Answer] = []
    poll = threading.Thread(
        target=lambda: answers.append(document(joined, certificate, "?generation=1&wait=60"))
    )
    poll.start()
    documents.publish(joined.api, dataclasses.replace(current, endpoints=("https://10.0.0.9:6443",)))
    poll.join(20)
    assert JoinDocument.loads(answers[0].body).generation == 2


@pytest.mark.parametrize(
    ("subject", "usage", "group", "reason"),
    [
        ("system:node:w2", "client", "system:nodes", "other-node"),
        ("system:node:w1", "client", "freehold:admins", "not-a-node"),
        ("w1", "client", "system:nodes", "not-a-node"),
        ("kubernetes-admin", "client", "freehold:admins", "not-a-node"),
    ],
)
def test_no_other_certificate_reads_it(
    joined: House, node_certificate: Any, subject: str, usage: str, group: str, reason: str
) -> None:
    """Another node, or anybody who is no node, is refused."""
    answer = document(joined, node_certificate(subject, usage, group))
    assert (answer.status, answer.reason) == (403, reason)


@pytest.mark.parametrize(("usage", "authority"), [("server", "ca"), ("client", "etcd/ca")])
def test_a_certificate_that_does_not_verify_ends_the_handshake(
    joined: House, node_certificate: Any, usage: str, authority: str
) -> None:
    """A kubelet's *serving* certificate has the same subject and is no credential; nor is another CA's."""
    certificate = node_certificate("system:node:w1", usage, authority=authority)
    with pytest.raises(OSError, match=r"(?i)ssl|reset|broken|closed|EOF"):
        document(joined, certificate)


def test_without_certificate_no_document(joined: House) -> None:
    """Neither anonymously nor with a join token."""
    assert document(joined, "").status == 401
    assert joined.ask("GET", "/v1/document/w1", token=joined.token()).status == 401
    assert joined.ask("POST", "/v1/finish", b"").status == 401


def test_a_removed_node_gets_nothing_though_its_certificate_lives(
    joined: House, node_certificate: Any
) -> None:
    """From the moment its Node is gone the document, too, is out of reach."""
    certificate = node_certificate("system:node:w1")
    assert document(joined, certificate).status == 200
    joined.api.delete("/api/v1/nodes/w1")
    assert (document(joined, certificate).status, document(joined, certificate).reason) == (
        410,
        "node-removed",
    )
    assert joined.ask("POST", "/v1/finish", b"", certificate=certificate).status == 410


def test_the_certificate_of_an_earlier_machine(joined: House, node_certificate: Any) -> None:
    """A name that joined again was somebody else's: that one's certificate reads nothing; a new one is waited for."""
    certificate = node_certificate("system:node:w1")
    knows(joined, ("another",))
    assert (document(joined, certificate).status, document(joined, certificate).reason) == (503, "not-ready")
    assert not joined.joining.is_member("w1", "old", fresh=False)
    assert joined.joining.is_member("w1", "another", fresh=False)
    joined.api.delete("/api/v1/nodes/w1")
    joined.api.add("/api/v1/nodes/w1", {"metadata": {"name": "w1"}})
    assert not joined.joining.is_member("w1", "another", fresh=True), "a namesake that nobody admitted"


def test_a_watch_that_breaks_off_in_the_middle_of_a_line(house: House) -> None:
    """Whatever ends the watch of documents, it begins anew: nodes go on getting theirs."""
    token = house.token()
    house.join(token)
    calls: List[int] = []
    watch = house.api.watch

    def broken(*arguments: Any, **query: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("Unterminated string")
        return watch(*arguments, **query)

    house.api.watch = broken  # type: ignore[method-assign]
    house.watch.start()
    assert house.watch.wait("w1", 0, 10) is not None
    current = JoinDocument.loads(house.join(token).body)
    documents.publish(house.api, dataclasses.replace(current, endpoints=("https://10.0.0.9:6443",)))
    assert house.watch.wait("w1", 1, 10) is not None


def test_a_replayed_join(house: House) -> None:
    """Who knows token and claim, but comes from elsewhere, is another machine."""
    token = house.token()
    request = JoinRequest("w1", (), "machine-1")
    house.joining.join(token, request, "10.0.0.3")
    with pytest.raises(Refused, match="another machine"):
        house.joining.join(token, request, "10.0.0.9")
    house.joining.join(token, request, "10.0.0.3")


def test_a_node_closes_its_join(joined: House, node_certificate: Any) -> None:
    """Once it has its certificate, the node has the bootstrap token removed."""
    certificate = node_certificate("system:node:w1")
    assert joined.ask("POST", "/v1/finish", b"", certificate=certificate).status == 200
    assert joined.api.paths(tokens.BOOTSTRAP_TOKENS + "/bootstrap-token-") == []
    record: Optional[node_record.NodeRecord] = node_record.read(joined.api, "w1")
    assert record is not None
    assert record.bootstrap_id == ""


def test_documents_not_read_yet(house: House, node_certificate: Any) -> None:
    """Before the first list a node is told to come back, not that there is nothing new."""
    house.join(house.token())
    answer = document(house, node_certificate("system:node:w1"), "?generation=0")
    assert (answer.status, answer.reason) == (503, "not-ready")


def test_a_deleted_document_is_forgotten(house: House) -> None:
    """The watch follows deletions and begins anew when it ends."""
    house.join(house.token())
    listed = house.api.list(node_record.RECORDS)["metadata"]["resourceVersion"]
    house.api.delete(documents.document_path("w1"))
    events = list(house.api.watch(node_record.RECORDS, listed, timeout=0))
    assert [kind for kind, _ in events] == ["DELETED"]
    house.api.watch = lambda *_, **__: iter(events)  # type: ignore[method-assign]
    house.watch.follow()
    assert house.watch.wait("w1", 0, 0) is None


def test_unknown_routes(house: House) -> None:
    """There is nothing else here, and health needs no credential."""
    assert house.ask("GET", "/").status == 404
    assert house.ask("GET", "/v1/join").status == 404
    assert house.ask("GET", "/healthz").body == b"ok\n"


def test_conflicts_that_never_end_are_503(house: House) -> None:
    """If others keep winning, the machine is told to come back."""
    token = house.token()
    for _ in range(10):
        house.api.fail("replace", tokens.JOIN_TOKENS, Conflict(409, "Conflict", "again"))
    assert house.join(token).status == 503


def test_one_clock(house: House) -> None:
    """Without another clock the service judges by the current time."""
    token, record = tokens.mint("w1", datetime.now(timezone.utc), addresses=(ADDRESS,))
    house.api.create(tokens.JOIN_TOKENS, record.to_object())
    house.now = record.expires - timedelta(seconds=1)
    assert house.join(token.reveal()).status == 200
