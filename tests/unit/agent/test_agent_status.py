"""What the agent says of itself, and `freehold-agent status` and `facts` that read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.a_node import a_document
from tests.support.serving_certificate import a_serving_certificate

from freehold_agent import __main__, cli, facts_text, keep, standing, status
from freehold_agent.contract import paths
from freehold_agent.errors import NotJoinedError, Unfit
from freehold_agent.health import RENEW
from freehold_agent.standing import FOLLOWS, SILENT, ChannelState, Standing, compose, parse

NOW = 1_800_000_000.0


class Said:
    """A standing whose lines and file are looked at; the clock moves by hand."""

    def __init__(self, root: Path) -> None:
        self.now = NOW
        self.lines: list[str] = []
        self.root = root
        document = root / paths.JOIN_DOCUMENT[1:]
        document.parent.mkdir(parents=True)
        document.write_bytes(a_document().dumps())
        self.standing = Standing(self._notify, lambda: self.now, str(root))

    def _notify(self, state: str) -> bool:
        self.lines.append(state.removeprefix("STATUS="))
        return True

    def file(self) -> Any:
        return json.loads((self.root / standing.FILE[1:]).read_text())

    def show(self, names: list[str], _properties: Any) -> dict[str, dict[str, str]]:
        """Answer as systemd does."""
        known = {name: {"ActiveState": "active", "LoadState": "loaded"} for name in names}
        known["freehold-images.service"] = {"ActiveState": "inactive", "LoadState": "not-found"}
        known["freehold-agent.service"]["StatusText"] = self.lines[-1] if self.lines else ""
        return known


@pytest.fixture
def said(tmp_path: Path) -> Said:
    return Said(tmp_path)


@pytest.mark.parametrize("message", ["", "kubelet is failed (journalctl -u kubelet); and more"])
@pytest.mark.parametrize("channel", [None, ChannelState(FOLLOWS, "https://[fd00::1]:6444", NOW - 9)])
@pytest.mark.parametrize("until", [0.0, NOW + 600])
def test_a_line_is_read_as_it_was_written(message: str, channel: ChannelState | None, until: float) -> None:
    """Whatever the parts are, `parse` finds in a line what `compose` put in."""
    line = compose("failed", NOW, channel=channel, certificate_until=until, message=message)
    assert "\n" not in line
    assert parse(line) == {
        "state": "failed",
        "looked": NOW,
        "channel": vars(channel) if channel else None,
        "certificate_until": until or None,
        "message": message,
    }
    assert parse("") == parse("Startup finished") == {}


def test_a_line_is_never_too_long_for_systemd() -> None:
    """A longer datagram would be ignored, and the line of a former look would stay."""
    line = compose(
        "failed",
        NOW,
        channel=ChannelState(FOLLOWS, "https://[fd00::1]:6444", NOW),
        message="\U0001f4a5" * 9999,
    )
    assert len(line.encode()) < 4000
    assert parse(line)["state"] == "failed"


def test_looks_without_news_write_nothing(said: Said) -> None:
    """Each look is told to systemd; the file is written when something is another, and `since` stays."""
    said.standing.looked("converged", "", [])
    first = (said.root / standing.FILE[1:]).stat()
    for _ in range(3):
        said.now += 60
        said.standing.looked("converged", "", [])
    after = (said.root / standing.FILE[1:]).stat()
    assert (first.st_ino, first.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [parse(line)["looked"] for line in said.lines] == [NOW, NOW + 60, NOW + 120, NOW + 180]
    said.standing.looked("converged", "", ["file:/x"])
    assert (said.file()["since"], said.file()["repaired_at"]) == (NOW, NOW + 180)


def test_what_was_healed_is_kept(said: Said) -> None:
    """What was put back last stays told over later looks and over a restart of the agent; a hundred are some."""
    said.standing.looked("converged", "", [f"file:/{number}" for number in range(100)])
    said.standing = Standing(said._notify, lambda: NOW + 500, str(said.root))
    said.standing.looked("converged", "", [])
    told = said.file()
    assert told["repaired_at"] == NOW
    assert told["repaired"][-2:] == ["file:/19", "and 80 more"]


def test_drift_is_written_between_looks(said: Said) -> None:
    """What others changed stands in the file and in the status at once, and goes; a look keeps it."""
    said.standing.drifts(["drop-in mine.conf"])
    assert not (said.root / standing.FILE[1:]).exists(), "there is no outcome yet to be a part of"
    said.standing.looked("converged", "", [])
    assert said.file()["drift"] == ["drop-in mine.conf"]
    assert "drift        drop-in mine.conf" in status.as_text(status.gather_status(said.show, str(said.root)))
    lines = len(said.lines)
    said.now += 5
    said.standing.drifts([])
    assert (said.file()["drift"], said.file()["since"]) == ([], NOW)
    assert len(said.lines) == lines, "it was no look"


def test_an_expired_certificate_names_the_way_back(said: Said) -> None:
    """The status says since when, and the command."""
    said.standing.looked("converged", "", [])
    found = status.gather_status(said.show, str(said.root))
    in_a_century = {"certificate": {"not_after": 4_900_000_000.0}}
    assert "certificate  valid until 2125-" in status.as_text({**found, **in_a_century})
    text = status.as_text({**found, "certificate": {"not_after": 60.0}})
    assert "certificate  expired at 1970-01-01 00:01:00 UTC" in text
    assert RENEW in text


def test_the_channel_is_told_when_it_changes(said: Said) -> None:
    """systemd's line changes with the channel, without a look; before the first look there is none."""
    said.standing.channel(ChannelState(FOLLOWS, "https://a:6444", NOW))
    assert said.lines == []
    said.standing.looked("converged", "", [])
    said.standing.channel(ChannelState(SILENT, "https://b:6444", NOW + 5))
    assert [parse(line)["channel"]["state"] for line in said.lines] == [FOLLOWS, SILENT]


def test_a_certificate_that_is_gone_is_told_no_more(said: Said) -> None:
    """systemd's line has its end while it can be read, and not once it is damaged or away."""
    path = said.root / paths.KUBELET_CLIENT_CERTIFICATE[1:]
    path.parent.mkdir(parents=True)
    told = []
    whole = a_serving_certificate("w1").certificate
    for content in (whole, b"damaged", whole, None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        said.standing.looked("converged", "", [])
        told.append(parse(said.lines[-1])["certificate_until"] is not None)
    assert told == [True, False, True, False]


def test_status_tells_all_of_a_node(said: Said) -> None:
    """Who it is, its document, the last look and what it healed, the channel, the certificate, the units."""
    (said.root / paths.KUBELET_CLIENT_CERTIFICATE[1:]).parent.mkdir(parents=True)
    said.standing.channel(ChannelState(SILENT, "https://10.0.0.1:6444", NOW))
    said.standing.looked("converged", "", ["file:/etc/freehold/kubelet.json"])
    found = status.gather_status(said.show, str(said.root))
    document = a_document()
    assert (found["node"], found["generation"]) == (document.node, document.generation)
    assert found["agent"]["looked"] == NOW
    assert found["channel"] == {"state": SILENT, "server": "https://10.0.0.1:6444", "since": NOW}
    assert "freehold-images" not in found["units"]
    assert status.is_well(found)
    text = status.as_text(found)
    assert "put back     file:/etc/freehold/kubelet.json at 2027-01-15 08:00:00 UTC" in text
    assert "channel      no control plane answers since 2027-01-15 08:00:00 UTC" in text
    assert "certificate  none" in text
    json.dumps(found)


def test_an_agent_that_does_not_run_is_said_first(said: Said) -> None:
    """What it said last is not taken for what is true now."""
    said.standing.looked("converged", "", [])
    units = said.show(["freehold-agent.service"], ())
    units["freehold-agent.service"]["ActiveState"] = "failed"
    found = status.gather_status(lambda *_: units, str(said.root))
    assert not status.is_well(found)
    assert "looked" not in found["agent"]
    text = status.as_text(found)
    assert "the agent does not run (failed)" in text
    assert "was converged since" in text


def test_only_a_look_that_ended_well_is_well(said: Said) -> None:
    """An agent that has not looked yet, or that waits, puts nothing back: whoever watches must hear of it."""
    assert not status.is_well(status.gather_status(said.show, str(said.root)))
    said.standing.looked("converged", "", [])
    said.lines.clear()  # another agent was started since then
    found = status.gather_status(said.show, str(said.root))
    assert not status.is_well(found)
    assert "last look    none since the agent was started" in status.as_text(found)
    for state in ("waiting", "failed", "removed", "converged"):
        said.standing.looked(state, "", [])
        assert status.is_well(status.gather_status(said.show, str(said.root))) == (state == "converged")


@pytest.mark.parametrize("kept", [None, b"{}", b'{"repaired": []}', b'{"state": "converged", "since": 1}'])
def test_what_systemd_was_told_last_counts(said: Said, kept: bytes | None) -> None:
    """Where /run has no room the file is missing, not whole, or of before."""
    if kept is not None:
        (said.root / standing.FILE[1:]).parent.mkdir(parents=True)
        (said.root / standing.FILE[1:]).write_bytes(kept)
    said.lines.append(compose("failed", NOW, message="no space"))
    found = status.gather_status(said.show, str(said.root))
    assert not status.is_well(found)
    text = status.as_text(found)
    assert "state        failed: no space\nlast look    2027" in text
    said.lines.clear()
    assert status.as_text(status.gather_status(said.show, str(said.root)))


def test_status_without_root(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not read the document gets what the agent said; before its first look, one plain sentence."""

    def refused(_root: str) -> Any:
        raise PermissionError("no")

    monkeypatch.setattr(status, "read_document", refused)
    with pytest.raises(Unfit, match="only root"):
        status.gather_status(said.show, str(said.root))
    said.standing.looked("converged", "", [])
    said.lines.append(compose("converged", NOW, certificate_until=NOW + 600))
    found = status.gather_status(said.show, str(said.root))
    assert found["node"] == a_document().node
    assert found["certificate"] == {"not_after": NOW + 600}


def test_status_of_a_machine_that_is_no_node(tmp_path: Path) -> None:
    """It is said in one sentence, with what would make it one."""
    with pytest.raises(NotJoinedError, match="is no node") as told:
        status.gather_status(lambda *_: {}, str(tmp_path))
    assert "freehold token create" in told.value.hint


def test_facts_for_people_lack_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fact of this machine has a line of its own; as JSON they are the same."""
    assert cli.main(["facts"]) == 0
    text = capsys.readouterr().out
    assert "\nothers\n" not in text, "a fact without a place in a group"
    assert "{" not in text
    assert cli.main(["facts", "--output", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "zz" in facts_text.as_text({**facts, "zz": 1})
    assert facts["kernel"] in text


def test_the_service_loads_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` goes past the reading of arguments; everything else through it."""
    monkeypatch.setattr(keep, "run", lambda: 7)
    monkeypatch.setattr("sys.argv", ["freehold-agent.pyz", "run"])
    assert __main__.main() == 7
    monkeypatch.setattr("sys.argv", ["freehold-agent.pyz", "version"])
    assert __main__.main() == 0


def test_the_resident_agent_holds_few_modules() -> None:
    """What only a command or a join needs is not in memory for years."""
    code = "import sys, freehold_agent.keep; print(*sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    unwanted = {"argparse", "logging", "concurrent.futures", "ctypes", "tempfile", "getpass", "http.server"}
    unwanted |= {f"freehold_agent.{name}" for name in ("cli", "join", "join_node", "leave", "remote")}
    assert loaded & unwanted == set()
