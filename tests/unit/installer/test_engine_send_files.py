"""Sending files to a machine: a damaged store is said by the name people know, and nobody waits for bytes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from freehold_installer.engine.conversation import SubprocessConversation
from freehold_installer.engine.remote_program import Program, send_files
from freehold_installer.errors import BundleError, FreeholdError, StepError

GOOD, BAD = b"good bytes", b"other bytes"


class Machine:
    """The far end of a stream: asks for files, and says what it thinks of them once no more is to come."""

    errors = b""

    def __init__(self, missing: Sequence[str], verdict: dict[str, Any], needs_end: bool = True) -> None:
        import gevent.event

        self._lines = [json.dumps({"event": "missing", "artifacts": list(missing)}), json.dumps(verdict)]
        self._ended = gevent.event.Event()
        self._needs_end = needs_end
        self.received = b""
        self.closed = False

    def send(self, data: bytes | memoryview) -> None:
        self.received += bytes(data)

    def end(self) -> None:
        self._ended.set()

    def read(self) -> bytes:
        import gevent

        if not self._lines:
            return b""
        if len(self._lines) == 1:
            if self._needs_end:
                assert self._ended.wait(5), "nobody told the machine that no more bytes come"
            else:
                gevent.sleep(0.01)
        return (self._lines.pop(0) + "\n").encode()

    def finish(self) -> int:
        return 1

    def close(self) -> None:
        self.closed = True


def a_file(directory: Path, name: str, content: bytes) -> tuple[Path, str, int]:
    path = directory / name
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest(), len(content)


def receive(machine: Machine, files: list[tuple[Path, str, int]], verb: str = "receive") -> Any:
    titles = {files[-1][1]: "bin/etcd"}
    answer = send_files(files, lambda _done, _total: None, titles)
    return Program("cp1", verb, None, None).drive(machine, b"{}\n", on_missing=answer, timeout=10)


def error(kind: str, message: str = "the stream ended") -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "hint": "", "detail": ""}}


def test_bytes_go_in_the_order_asked_for(tmp_path: Path) -> None:
    """The machine gets what it lacks, one file after the other, nothing between."""
    files = [a_file(tmp_path, "a", b"first"), a_file(tmp_path, "b", b"second")]
    machine = Machine([files[1][1], files[0][1]], {"result": {"received": 2}}, needs_end=False)
    assert receive(machine, files) == {"received": 2}
    assert machine.received.endswith(b"secondfirst")
    assert machine.closed


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "bin/etcd of the bundle is missing"),
        (lambda path: path.write_bytes(b"short"), "bin/etcd of the bundle is too short"),
        (lambda path: (path.unlink(), path.mkdir()), "bin/etcd of the bundle is unreadable (Is a directory)"),
    ],
    ids=["missing", "short", "unreadable"],
)
def test_a_file_that_cannot_be_sent(tmp_path: Path, damage: Any, words: str) -> None:
    """What is wrong with our own file is said, not that the machine saw its stream end."""
    files = [a_file(tmp_path, "a", GOOD), a_file(tmp_path, "b", BAD)]
    damage(files[1][0])
    with pytest.raises(BundleError) as raised:
        receive(Machine([file[1] for file in files], error("delivery")), files)
    assert raised.value.message.startswith(words)
    assert raised.value.hint == "freehold bundle verify"
    assert raised.value.exit_code == 3


def test_a_digest_that_the_machine_finds_wrong_is_bad_input(tmp_path: Path) -> None:
    """Bytes of the right length that are not the right ones are the bundle's fault, named with the machine."""
    files = [a_file(tmp_path, "a", GOOD)]
    machine = Machine([files[0][1]], error("digest", "bin/etcd: expected sha256 1, got 2"), needs_end=False)
    with pytest.raises(BundleError, match="cp1: bin/etcd: expected sha256"):
        receive(machine, files)


def test_a_digest_that_is_wrong_elsewhere_is_a_failed_step(tmp_path: Path) -> None:
    """A node that fetched wrong bytes from a control plane has not shown that our bundle is damaged."""
    machine = Machine([], error("digest", "kubelet: expected sha256 1, got 2"), needs_end=False)
    with pytest.raises(FreeholdError) as raised:
        receive(machine, [a_file(tmp_path, "a", GOOD)], verb="join")
    assert isinstance(raised.value, StepError)
    assert raised.value.message == "cp1: joining failed: kubelet: expected sha256 1, got 2"


def test_a_full_disk_is_a_failed_step(tmp_path: Path) -> None:
    """The machine's own trouble is told in its words, with what it was doing."""
    files = [a_file(tmp_path, "a", GOOD)]
    machine = Machine([files[0][1]], error("disk-full", "no space left on the disk of /opt"), needs_end=False)
    with pytest.raises(StepError, match="cp1: receiving files failed: no space left on the disk of /opt"):
        receive(machine, files)


@pytest.mark.parametrize("words", ["client_loop: send disconnect: Broken pipe", ""])
def test_a_connection_that_is_lost_meanwhile(words: str) -> None:
    """`ssh` that ends with its own exit code means a lost connection, whatever it says or does not say."""
    ssh = SubprocessConversation(["sh", "-c", f"echo '{words}' >&2; exit 255"])
    with pytest.raises(StepError, match="cp1: receiving files failed: the connection was lost") as raised:
        Program("cp1", "receive", None, None).drive(ssh, b"{}\n", timeout=10)
    assert raised.value.message.endswith(words)


def test_a_connection_that_is_lost_while_a_credential_is_asked_for() -> None:
    """The answer that reaches nobody is no error of its own."""
    ssh = SubprocessConversation(["sh", "-c", """exec 0<&-; echo '{"event": "need-credential"}'; exit 255"""])
    program = Program("w1", "join", None, lambda _event: b"secret\n")
    with pytest.raises(StepError, match="w1: joining failed: the connection was lost"):
        program.drive(ssh, b"{}\n", timeout=10)
