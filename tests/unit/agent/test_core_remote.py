"""The agent run from memory: loader, verbs and the stream of artifacts, through a real python3."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from freehold_agent.contract.resources import Artifact, File, to_json
from freehold_agent.errors import BadRequest, DeliveryFailed, DigestMismatch
from freehold_agent.fetch import Waiter, receive
from freehold_agent.machine import in_memory
from freehold_agent.remote import perform
from freehold_agent.store import HashCache
from freehold_agent.this_machine import ThisMachine

OLDEST = [
    Path.home() / ".pyenv/versions/3.9.18/bin/python",
    *map(Path, filter(None, [shutil.which("python3.9")])),
]
PYTHONS = [sys.executable, *[str(path) for path in OLDEST[:1] if path.exists()]]


@pytest.fixture
def machine(tmp_path):
    return ThisMachine(store=str(tmp_path / "store"), hashes=str(tmp_path / "state/hashes.json"))


def ask(python, request, rest=b"", modules=None):
    """Run a request from memory; return exit status, protocol lines and stderr."""
    line = in_memory.payload(request, in_memory.sources() if modules is None else modules)
    done = subprocess.run(
        in_memory.command(python), input=line + rest, capture_output=True, cwd="/", check=False
    )
    return done.returncode, [json.loads(text) for text in done.stdout.splitlines()], done.stderr.decode()


def an_artifact(content, title="program"):
    return Artifact(title, hashlib.sha256(content).hexdigest(), len(content))


def header(*artifacts):
    entries = [{"sha256": a.sha256, "size": a.size, "title": a.title} for a in artifacts]
    return json.dumps(entries).encode() + b"\n"


def test_the_loader_is_one_shell_word_and_small():
    """It goes through sudo and a shell: no single quote, and small enough for any argument list."""
    assert "'" not in in_memory.LOADER
    assert len(in_memory.LOADER) < 1500


@pytest.mark.parametrize("python", PYTHONS)
def test_a_verb_runs_from_memory(python, tmp_path):
    """A plan for a file comes back as one result line, and nothing is written."""
    resource = File(str(tmp_path / "new"), b"text\n")
    request = {"verb": "plan", "owner": "control", "resources": [to_json(resource)]}
    status, lines, errors = ask(python, request)
    assert (status, errors) == (0, "")
    assert len(lines) == 1
    result = lines[0]["result"]
    assert [change["action"] for change in result["changes"]] == ["create"]
    assert result["texts"] == {"file:" + resource.path: {"before": None, "after": "text\n"}}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_every_module_compiles_on_the_oldest_python(python):
    """No module of the agent uses what a machine's Python lacks."""
    program = "import sys,json;[compile(s,n,'exec') for n,s in json.load(sys.stdin).items()]"
    sources = json.dumps(in_memory.sources()).encode()
    subprocess.run([python, "-I", "-c", program], input=sources, check=True)


def test_an_unknown_verb_is_one_clear_error():
    """The error has a kind and a message, and the status says failure."""
    status, lines, _ = ask(sys.executable, {"verb": "dance"})
    assert status == 1
    assert lines[-1]["error"]["kind"] == "input"
    assert "dance" in lines[-1]["error"]["message"]


def test_a_secret_file_is_planned_without_its_text(tmp_path):
    """A plan names secret files, and never carries their bytes."""
    told = []
    resource = File(str(tmp_path / "key"), b"hush", secret=True)
    perform({"verb": "plan", "owner": "node", "resources": [to_json(resource)]}, io.BytesIO(), told.append)
    assert told[0]["result"]["texts"] == {}
    assert told[0]["result"]["secret"] == ["file:" + resource.path]


def test_failures_become_one_message_with_the_traceback_as_detail():
    """An unforeseen exception is told as an error line, too."""
    told = []
    assert (
        perform(
            {"verb": "observe", "owner": "node", "resources": [{"kind": "moon"}]}, io.BytesIO(), told.append
        )
        == 1
    )
    assert "moon" in told[0]["error"]["message"]
    assert perform({"verb": "observe", "owner": "nobody"}, io.BytesIO(), told.append) == 1
    assert "owner" in told[1]["error"]["message"]


def test_receive_takes_only_what_is_missing(machine):
    """The receiver says what it lacks, then takes these bytes, verifies and remembers them."""
    there, new = an_artifact(b"there"), an_artifact(b"new" * 1000000, "large")
    told = []
    receive(io.BytesIO(header(there) + b"there"), told.append, machine)
    told.clear()
    result = receive(io.BytesIO(header(there, new) + b"new" * 1000000), told.append, machine)
    assert told[0] == {"event": "missing", "artifacts": [new.sha256]}
    assert told[1]["sha256"] == new.sha256
    assert result == {"received": 1, "bytes": 3000000}
    path = Path(machine.store) / new.sha256
    assert path.read_bytes() == b"new" * 1000000
    assert oct(path.stat().st_mode)[-3:] == "755"
    assert HashCache(machine.hashes).digest(str(path)) == new.sha256


def test_receive_replaces_a_damaged_file(machine):
    """A file of the right name and size with wrong bytes is asked for again."""
    artifact = an_artifact(b"right")
    Path(machine.store).mkdir()
    (Path(machine.store) / artifact.sha256).write_bytes(b"wrong")
    receive(io.BytesIO(header(artifact) + b"right"), lambda line: None, machine)
    assert (Path(machine.store) / artifact.sha256).read_bytes() == b"right"


def test_receive_refuses_wrong_bytes(machine):
    """Bytes of another digest never get their final name; the message names both digests."""
    artifact = an_artifact(b"right")
    with pytest.raises(DigestMismatch, match="expected sha256 " + artifact.sha256):
        receive(io.BytesIO(header(artifact) + b"wrong"), lambda line: None, machine)
    assert list(Path(machine.store).iterdir()) == []


def test_receive_names_what_a_broken_stream_lacked(machine):
    """A stream that ends early is an error with numbers; a senseless header is refused."""
    artifact = an_artifact(b"right")
    with pytest.raises(DeliveryFailed, match="after 3 of 5 bytes"):
        receive(io.BytesIO(header(artifact) + b"rig"), lambda line: None, machine)
    with pytest.raises(BadRequest):
        receive(io.BytesIO(b"no json\n"), lambda line: None, machine)
    with pytest.raises(DeliveryFailed, match="not a sha256"):
        receive(io.BytesIO(b'[{"sha256": "../../etc/passwd", "size": 1}]\n'), lambda line: None, machine)


def test_a_waiter_returns_when_the_stream_delivered(machine):
    """Waiting and receiving at the same time meet in the store."""
    artifact = an_artifact(b"right")
    thread = threading.Thread(
        target=receive, args=(io.BytesIO(header(artifact) + b"right"), lambda line: None, machine)
    )
    thread.start()
    Waiter(5, machine=machine)(artifact)
    thread.join()


def test_a_waiter_gives_up_when_nothing_moves(machine):
    """Without a new byte for its time the wait ends with the artifact's name."""
    with pytest.raises(DeliveryFailed, match="program: no byte came"):
        Waiter(0, machine=machine)(an_artifact(b"never"))


def test_bytes_behind_the_request_belong_to_the_verb():
    """The loader takes its line and not a byte more: what follows reaches the verb."""
    status, lines, _ = ask(sys.executable, {"verb": "receive"}, b"junk\n")
    assert status == 1
    assert lines[-1]["error"]["kind"] == "input"
    assert "names no artifacts" in lines[-1]["error"]["message"]
