"""The long poll: newer documents are offered at once, older ones never; failures are quiet, a removal is said."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_node import a_document

from freehold_agent.channel import REMOVED_PAUSE, TOLD_AFTER, Channel
from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.join_client import Reply
from freehold_agent.journal import ERROR, WARNING
from freehold_agent.standing import FOLLOWS, REMOVED, SILENT


class Service:
    """A join service that answers what a test says, one after the other."""

    def __init__(self) -> None:
        self.document = a_document(join_endpoints=("https://10.73.0.11:6444", "https://10.73.0.10:6444"))
        self.answers: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.certificates: set[str] = set()
        self.log: list[tuple[int, str]] = []
        self.woken = 0
        self.channel = Channel(
            lambda: self.document,
            self._wake,
            lambda level, text: self.log.append((level, text)),
            root="/root",
            ask=self._ask,
        )

    def _wake(self) -> None:
        self.woken += 1

    def _ask(self, server: str, ca_pem: str, method: str, path: str, **options: Any) -> Reply:
        assert (method, ca_pem) == ("GET", self.document.ca_pem)
        self.asked.append((server, path))
        self.certificates.add(options["certificate"])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, JoinDocument):
            return Reply(200, {}, answer.dumps())
        return answer if isinstance(answer, Reply) else Reply(answer, {}, b"")

    def poll(self, *answers: Any) -> list[float]:
        self.answers = list(answers)
        return [self.channel.poll() for _ in answers]

    def newer(self, **changes: Any) -> JoinDocument:
        return dataclasses.replace(self.document, **{"generation": 2, **changes})


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_newer_document_is_offered_at_once(service: Service) -> None:
    """It wakes the loop, and the next question is for what comes after it, even before it was taken."""
    newer = service.newer()
    assert service.poll(newer, 204) == [0.0, 0.0]
    assert service.channel.offered() == newer
    assert service.woken == 1
    assert [path.partition("generation=")[2].partition("&")[0] for _, path in service.asked] == ["1", "2"]
    assert service.asked[0][1].startswith("/v1/document/w1?")
    assert service.certificates == {"/root" + paths.KUBELET_CLIENT_CERTIFICATE}
    service.channel.taken(newer)
    assert service.channel.offered() is None


@pytest.mark.parametrize(
    "changes",
    [{"generation": 1}, {"generation": 0}, {"node_uid": "another"}, {"node": "w2"}],
)
def test_older_and_foreign_documents_are_never_offered(service: Service, changes: dict[str, Any]) -> None:
    """A generation never goes back, and a document of another join is not this node's."""
    (pause,) = service.poll(service.newer(**changes))
    assert pause > 0
    assert service.channel.offered() is None
    assert service.woken == 0


def test_another_join_counts_from_the_beginning(service: Service) -> None:
    """A machine that joined anew under a running agent follows its new documents, however new the former ones were."""
    assert service.poll(service.newer(generation=7)) == [0.0]
    service.document = service.newer(generation=1, node_uid="anew")
    assert service.poll(service.newer(generation=2)) == [0.0]
    assert service.channel.offered() == service.newer(generation=2)
    assert "generation=1&" in service.asked[-1][1]


def test_what_came_while_another_was_taken_stays_offered(service: Service) -> None:
    """Only the very document that was taken is forgotten."""
    former = service.newer(generation=7)
    service.poll(former)
    service.document = service.newer(generation=1, node_uid="anew")
    service.poll(service.newer(generation=2))
    service.channel.taken(former)
    assert service.channel.offered() == service.newer(generation=2)


def test_an_answer_to_a_question_of_before_is_not_acted_on(service: Service) -> None:
    """What comes after `start` or `stop` is for nobody: another thread asks for the same, and acts on it."""

    def ask(*_: Any, **_options: Any) -> Reply:
        service.channel.stop()
        return Reply(200, {}, service.newer().dumps())

    service.channel._ask = ask
    service.channel._thread = threading.current_thread()
    assert service.channel.poll() == 0.0
    assert (service.channel.offered(), service.woken) == (None, 0)


def test_a_document_of_a_later_version_changes_nothing(service: Service) -> None:
    """What this agent cannot read is said once, and the node goes on as it is."""
    service.poll(*[Reply(200, {}, b'{"version": 99}')] * (TOLD_AFTER + 2))
    assert service.channel.offered() is None
    (line,) = service.log
    assert line[0] == WARNING
    assert "the present one stays" in line[1]


def test_short_failures_are_silent_and_servers_take_turns(service: Service) -> None:
    """A control plane that restarts is no line in the journal; pauses grow, and every server is tried."""
    pauses = service.poll(OSError("no"), 503, 204)
    assert pauses == [1.0, 2.0, 0.0]
    assert [server for server, _ in service.asked] == [
        "https://10.73.0.11:6444",
        "https://10.73.0.10:6444",
        "https://10.73.0.11:6444",
    ]
    assert service.log == []
    assert max(service.poll(*[OSError("no")] * 12)) == 60.0
    assert len(service.log) == 1


def test_a_removed_node_says_so_once_and_asks_rarely(service: Service) -> None:
    """410 is one line; ten minutes later it is asked again, and an admission is noticed."""
    assert service.poll(410, 410) == [REMOVED_PAUSE, REMOVED_PAUSE]
    assert [level for level, _ in service.log] == [ERROR]
    assert "leave --yes" in service.log[0][1]
    assert service.channel.removed
    service.poll(204)
    assert not service.channel.removed


def test_a_certificate_of_before_is_not_a_removal(service: Service, tmp_path: Path) -> None:
    """A question that was open while the machine joined again (`renew`) ends with 410: it is asked anew, soon."""
    certificate = tmp_path / paths.KUBELET_CLIENT_CERTIFICATE[1:]
    certificate.parent.mkdir(parents=True)
    certificate.write_text("expired")

    def ask(*_: Any, **_options: Any) -> Reply:
        certificate.write_text("renewed")
        return Reply(410, {}, b"")

    told: list[str] = []
    channel = Channel(
        lambda: service.document,
        service._wake,
        lambda _level, text: told.append(text),
        root=str(tmp_path),
        ask=ask,
    )
    assert channel.poll() < TOLD_AFTER
    assert (channel.removed, told) == (False, [])
    assert channel.poll() == REMOVED_PAUSE, "now it is about this one"
    assert channel.removed


def test_a_channel_that_starts_again_leaves_the_old_question(service: Service) -> None:
    """A machine that has moved asks anew, and for an answer at once; how the question from before ends is no news."""
    asked: list[threading.Thread] = []
    waits: list[str] = []
    states: list[str] = []
    begun, over = threading.Semaphore(0), threading.Event()

    def ask(_server: str, _ca: str, _method: str, path: str, **_options: Any) -> Reply:
        waits.append(path.rpartition("wait=")[2])
        if len(waits) == 1:
            return Reply(204, {}, b"")
        asked.append(threading.current_thread())
        begun.release()
        over.wait(30)
        raise TimeoutError("no answer")

    channel = Channel(
        lambda: service.document,
        service._wake,
        lambda *_: None,
        ask=ask,
        stands=lambda state: states.append(state.state),
        sleep=lambda _: threading.Event().wait(),
    )
    for _ in range(2):
        channel.start()
        assert begun.acquire(timeout=30)
    first, second = asked[:2]
    assert first is not second
    assert (waits[0], waits[2], int(waits[1]) > 0) == ("0", "0", True)
    channel._thread = None  # so that the second ends, too
    over.set()
    for thread in (first, second):
        thread.join(30)
        assert not thread.is_alive()
    assert (states, channel._failures) == ([FOLLOWS], 0)


def test_without_a_document_nobody_is_asked(tmp_path: Path) -> None:
    """A machine that is no node keeps quiet; the loop says what is wrong."""

    def none() -> JoinDocument:
        raise FileNotFoundError("no document")

    channel = Channel(none, lambda: None, lambda _level, _text: None, root=str(tmp_path))
    assert channel.poll() > 0


def test_how_the_channel_stands_is_told_once(service: Service) -> None:
    """The first answer comes at once and says that we are heard, then questions wait; silence is told when it lasts."""
    told: list[tuple[str, str]] = []
    service.channel = Channel(
        lambda: service.document,
        service._wake,
        lambda _level, _text: None,
        stands=lambda state: told.append((state.state, state.server)),
        ask=service._ask,
    )
    service.poll(204, 204)
    waits = [int(path.partition("wait=")[2]) for _, path in service.asked]
    assert waits[0] == 0
    assert waits[1] > 100
    service.poll(*[OSError("away")] * 9)
    first, second = service.document.join_endpoints
    service.answers = []
    assert [state for state, _ in told] == [FOLLOWS, SILENT]
    service.poll(204, 410)
    assert [state for state, _ in told] == [FOLLOWS, SILENT, FOLLOWS, REMOVED]
    assert {server for _, server in told} <= {first, second}
