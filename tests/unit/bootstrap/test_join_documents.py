"""The join service: documents for nodes that exist, by their certificates and by long poll."""

import dataclasses
import threading
from typing import Any, Callable, List, Optional

import pytest
from tests.support.join_house import ADDRESS, House
from tests.support.served import Answer, Client, Served

from freehold_agent.contract.join_document import JoinDocument
from freehold_bootstrap import documents, node_record, tokens


@pytest.fixture
def house(serve: Callable[..., Served], client: Callable[..., Client]) -> House:
    return House(serve, client)


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
    assert not joined.joining.is_member("w1", "old", fresh=False, source=ADDRESS)
    assert joined.joining.is_member("w1", "another", fresh=False, source=ADDRESS)
    joined.api.delete("/api/v1/nodes/w1")
    joined.api.add("/api/v1/nodes/w1", {"metadata": {"name": "w1"}})
    assert not joined.joining.is_member("w1", "another", fresh=True, source=ADDRESS), (
        "a namesake that nobody admitted"
    )


def test_where_a_node_comes_from_is_written_down(joined: House, node_certificate: Any) -> None:
    """Another address than its own is noted once, and forgotten when it comes from its own; a stranger's is not."""
    certificate = node_certificate("system:node:w1")

    def noted() -> str:
        record = node_record.read(joined.api, "w1")
        assert record is not None
        return record.source

    assert document(joined, node_certificate("system:node:w1", group="freehold:admins")).status == 403
    assert noted() == ""
    assert document(joined, certificate).status == 200
    assert noted() == "127.0.0.1"
    writes = [call for call in joined.api.calls if call[0] == "replace"]
    assert document(joined, certificate).status == 200
    assert [call for call in joined.api.calls if call[0] == "replace"] == writes
    assert joined.joining.is_member("w1", "any", fresh=False, source=ADDRESS)
    assert noted() == ""


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
