"""The artifact service gives whole files and parts by digest, a few at a time, and nothing else of the machine."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest
from tests.support.served import Client, Served

from freehold_bootstrap.artifact_service.files_by_digest import RETRY_HEADER, FilesByDigest

CONTENT = bytes(range(256)) * 8192
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ABSENT = "0" * 64
COMING = "1" * 64
PATH = "/v1/artifacts/"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "sha256"
    directory.mkdir()
    (directory / DIGEST).write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(b"key")
    (directory / ("a" * 64)).symlink_to(tmp_path / "secret")
    (directory / ("b" * 64)).mkdir()
    return directory


@pytest.fixture
def asked(store: Path, serve: Callable[..., Served], client: Callable[..., Client]) -> Any:
    served = serve(FilesByDigest(str(store), [COMING, DIGEST]).answer, "freehold-artifacts", mutual=False)
    with client(served) as connection:
        yield connection.ask


def test_a_file_comes_whole(asked: Any) -> None:
    """GET gives every byte with its length, HEAD the same head without any."""
    answer = asked("GET", PATH + DIGEST)
    assert (answer.status, answer.body) == (200, CONTENT)
    head = asked("HEAD", PATH + DIGEST)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == answer.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-", (0, len(CONTENT))),
        ("bytes=1000-", (1000, len(CONTENT))),
        ("bytes=10-19", (10, 20)),
        ("bytes=-5", (len(CONTENT) - 5, len(CONTENT))),
        ("bytes=10-999999999999", (10, len(CONTENT))),
        ("bytes=9-3", (0, len(CONTENT))),
        ("bytes=0-1,5-6", (0, len(CONTENT))),
        ("lines=1-2", (0, len(CONTENT))),
    ],
)
def test_parts(asked: Any, wanted: str, expected: Tuple[int, int]) -> None:
    """A range gives exactly that part; one we do not follow gives the whole, as HTTP asks for."""
    first, end = expected
    answer = asked("GET", PATH + DIGEST, headers={"Range": wanted})
    assert answer.body == CONTENT[first:end]
    if (first, end) == (0, len(CONTENT)):
        assert answer.status == 200
    else:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == "bytes {}-{}/{}".format(first, end - 1, len(CONTENT))


@pytest.mark.parametrize("wanted", ["bytes={}-".format(len(CONTENT)), "bytes=-0"])
def test_parts_that_do_not_exist(asked: Any, wanted: str) -> None:
    """A range behind the end is 416 with the size, so that a client sees its file is complete or wrong."""
    answer = asked("GET", PATH + DIGEST, headers={"Range": wanted})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */{}".format(len(CONTENT))


def test_a_file_on_its_way_is_worth_coming_back(asked: Any, store: Path) -> None:
    """A digest of the release that is not there yet is 503 with a short wait; once there, it is given."""
    answer = asked("GET", PATH + COMING)
    assert answer.status == 503
    assert (answer.headers["Retry-After"], answer.headers[RETRY_HEADER]) == ("1", "50")
    (store / COMING).write_bytes(b"x")
    assert asked("GET", PATH + COMING).body == b"x"


@pytest.mark.parametrize(
    "path",
    [
        PATH + ABSENT,
        PATH + "a" * 64,
        PATH + "b" * 64,
        PATH + "../secret",
        PATH + "%2e%2e/secret",
        PATH + DIGEST.upper(),
        PATH + DIGEST + "/",
        PATH,
        "/",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_given(asked: Any, path: str) -> None:
    """No other name, no link, no directory and no path leads to a byte of this machine."""
    answer = asked("GET", path)
    assert answer.status == 404
    assert b"key" not in answer.body


def test_it_only_reads(asked: Any) -> None:
    """Other methods are refused, also for files that exist."""
    assert asked("POST", PATH + DIGEST, b"x").status == 405
    assert asked("PUT", PATH + DIGEST, b"x").status == 501


def test_health_is_answered(asked: Any) -> None:
    """Who probes it gets an answer without any file."""
    assert asked("GET", "/healthz").body == b"ok\n"


def test_when_all_transfers_are_taken_others_come_back(
    store: Path, serve: Callable[..., Served], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfers beyond the limit are told to wait; one source alone never takes all of them."""
    entered, release = threading.Event(), threading.Event()
    files = FilesByDigest(str(store), transfers=2)
    send = files._send

    def slow(*arguments: Any) -> None:
        entered.set()
        release.wait(10)
        send(*arguments)

    monkeypatch.setattr(files, "_send", slow)
    served = serve(files.answer, "freehold-artifacts", mutual=False)
    with client(served) as first, client(served) as second:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(first.ask("GET", PATH + DIGEST)))
        thread.start()
        assert entered.wait(10)
        busy = second.ask("GET", PATH + DIGEST)
        assert (busy.status, busy.reason, busy.headers[RETRY_HEADER]) == (503, "busy", "250")
        release.set()
        thread.join(10)
        assert answers[0].body == CONTENT
        # The first transfer has ended for its client a moment before it has for the service.
        while (later := second.ask("GET", PATH + DIGEST)).status == busy.status:
            pass
        assert later.body == CONTENT


def test_a_file_cut_short_breaks_the_connection(
    store: Path, serve: Callable[..., Served], client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client never takes a part for the whole."""
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    served = serve(FilesByDigest(str(store)).answer, "freehold-artifacts", mutual=False)
    with client(served) as connection, pytest.raises(Exception, match="IncompleteRead"):
        connection.ask("GET", PATH + DIGEST)
