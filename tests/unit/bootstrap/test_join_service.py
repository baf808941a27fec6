"""The join service: one token, one machine, one node; refusals that say why."""

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, List

import pytest
from tests.support.fake_kubernetes import forbidden, goes_live
from tests.support.join_house import ADDRESS, House
from tests.support.served import Answer, Client, Served

from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.machine.kubernetes_api import Conflict
from freehold_bootstrap import node_record, tokens
from freehold_bootstrap.errors import Refused
from freehold_bootstrap.join_service.audit import EVENTS
from freehold_bootstrap.join_service.failure_limit import FAILURES
from freehold_bootstrap.join_service.joining import SETTINGS, JoinRequest
from freehold_bootstrap.join_service.known_tokens import KnownTokens


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
        b'{"node": "w1", "facts": {"addresses": ["here"]}}',
        b'{"node": "w1", "facts": {"addresses": 7}}',
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


def test_a_replayed_join(house: House) -> None:
    """Who knows token and claim, but comes from elsewhere, is another machine."""
    token = house.token()
    request = JoinRequest("w1", (), "machine-1")
    house.joining.join(token, request, "10.0.0.3")
    with pytest.raises(Refused, match="another machine"):
        house.joining.join(token, request, "10.0.0.9")
    house.joining.join(token, request, "10.0.0.3")


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
