"""What people and programs see: plans without secrets, plain lines without a terminal, JSON lines."""

import io
import json
import time

import pytest

from freehold_agent.contract.resources import Change, File
from freehold_installer.cli import plan_text
from freehold_installer.console import Console
from freehold_installer.engine import events
from freehold_installer.plan import Content, MachinePlan, Plan, without_secrets


@pytest.fixture
def streams():
    return io.StringIO(), io.StringIO()


def text_of(plan, **options):
    return "\n".join(line for _, line in plan_text.lines(plan, **options))


def test_a_plan_is_a_tree_with_diffs_and_a_summary():
    """Each machine's changes, the lines of a file that differ, and how much it is in all."""
    changes = (
        Change("file:/etc/a.conf", "update", {"sha256": "1", "mode": 420}, {"sha256": "2", "mode": 384}),
        Change("unit:etcd.service", "create", None, {"enabled": True}),
        Change("route:10.0.0.0/8", "delete", {"device": "eth0"}, None),
    )
    contents = {"file:/etc/a.conf": Content("a=1\nb=2\n", "a=1\nb=3\n")}
    text = text_of(Plan("lab", (MachinePlan("cp1", changes, contents, ("no default route",)),)))
    assert text.splitlines() == [
        "cp1",
        "  note: no default route",
        "  ~ file /etc/a.conf  (mode: 0644 -> 0600)",
        "      @@ -1,2 +1,2 @@",
        "       a=1",
        "      -b=2",
        "      +b=3",
        "  + unit etcd.service",
        "  - route 10.0.0.0/8",
        "plan: 1 to create, 1 to update, 1 to delete on 1 machine",
    ]


def test_a_plan_never_shows_a_secret():
    """A secret file appears by name only: no digest, not even when everything is asked for."""
    secret = File("/etc/kubernetes/pki/ca.key", b"PRIVATE", 0o600, secret=True)
    change = Change("file:" + secret.path, "update", {"sha256": "0ld"}, {"sha256": secret.sha256})
    plan = Plan("lab", (MachinePlan("cp1", tuple(without_secrets([change], [secret]))),))
    text = text_of(plan, verbose=True) + json.dumps(plan.to_json())
    assert secret.path in text
    assert not [word for word in ("PRIVATE", "0ld", secret.sha256) if word in text]


def test_an_empty_plan_says_so():
    """Nothing to change is one sentence."""
    assert text_of(Plan("lab", (MachinePlan("cp1", ()),))) == "lab: nothing to change"


def test_long_diffs_are_cut_unless_asked_for():
    """A diff of hundreds of lines does not bury the plan."""
    change = Change("file:/a", "update", {"sha256": "1"}, {"sha256": "2"})
    content = Content("", "".join(f"{number}\n" for number in range(500)))
    plan = Plan("lab", (MachinePlan("cp1", (change,), {"file:/a": content}),))
    assert len(text_of(plan).splitlines()) < 80
    assert "(--verbose)" in text_of(plan)
    assert len(text_of(plan, verbose=True).splitlines()) > 500


def test_without_a_terminal_lines_are_plain(streams):
    """Logs get one line per event with its time, no control codes; data stays off standard error."""
    out, err = streams
    console = Console(out=out, err=err)
    with console.live(["cp1"]):
        console.emit(events.PhaseStarted("cp1", "etcd", "Data store"))
        console.emit(events.Step("cp1", "etcd", "starting etcd"))
        console.emit(events.PhaseFinished("cp1", "etcd", 0.44, "done"))
    lines = [line[10:] for line in err.getvalue().splitlines()]
    assert lines == ["cp1           Data store", "cp1           Data store: done after 0.4 s"]
    assert "\x1b" not in err.getvalue()
    assert out.getvalue() == ""
    assert not console.interactive


def test_json_events_are_one_line_each(streams):
    """A program can follow a run on standard error, with the time of each event."""
    out, err = streams
    console = Console("json", out=out, err=err)
    console.emit(events.Step("cp1", "etcd", "sending", 1, 2))
    console.emit(events.Note("hello [bold]"))
    parsed = [json.loads(line) for line in err.getvalue().splitlines()]
    assert abs(time.time() - parsed[0].pop("time")) < 60
    assert parsed[0] == {
        "event": "step",
        "machine": "cp1",
        "phase": "etcd",
        "text": "sending",
        "done": 1,
        "total": 2,
    }
    assert parsed[1]["text"] == "hello [bold]"
    assert out.getvalue() == ""


def test_brackets_are_not_markup(streams):
    """What machines say is printed as it is."""
    out, err = streams
    Console(out=out, err=err).emit(events.Note("[red]x[/red]"))
    assert err.getvalue() == "[red]x[/red]\n"
