"""The plan as a value: counted, named by a digest, without secrets."""

import dataclasses
import hashlib
import json

import pytest

from freehold_agent.contract.resources import Change, File, difference, key_of
from freehold_installer.cli import plan_text
from freehold_installer.plan import Content, MachinePlan, Plan, without_secrets

PASSWORD = b"correct horse battery staple"
SECRET = File("/etc/kubernetes/pki/ca.key", PASSWORD, mode=0o600, secret=True)
PLAIN = File("/etc/motd", b"hello\n")
CREATE = Change("file:/a", "create", None, {"mode": 0o644})
UPDATE = Change("unit:x.service", "update", {"inputs": "1"}, {"inputs": "2"})
DELETE = Change("link:/b", "delete", {"target": "c"}, None)


def a_plan(*changes: Change, **values: object) -> Plan:
    plan = Plan("test", (MachinePlan("cp1", tuple(changes)), MachinePlan("w1", ())))
    return dataclasses.replace(plan, **values)  # type: ignore[arg-type]


def test_nothing_to_do_is_empty() -> None:
    """Notes alone are no change."""
    plan = a_plan(notes=("256 nodes fit",))
    assert plan.empty
    assert plan.count == 0


@pytest.mark.parametrize(
    "plan",
    [a_plan(DELETE), a_plan(to_be_issued=("ca",)), a_plan(objects=(CREATE,))],
    ids=["machine", "certificate", "object"],
)
def test_one_change_anywhere_makes_it_a_plan(plan: Plan) -> None:
    """A change on a machine, a key to issue and an object each count."""
    assert not plan.empty
    assert plan.count == 1


def test_the_count_is_of_everything() -> None:
    """Machines, keys and objects are added up."""
    assert a_plan(CREATE, UPDATE, DELETE, to_be_issued=("ca", "sa"), objects=(CREATE,)).count == 6


def test_json_round_trip() -> None:
    """What is saved can be read by anybody who knows JSON, and says the same."""
    plan = a_plan(CREATE, UPDATE, DELETE, to_be_issued=("ca",), objects=(CREATE,), notes=("note",))
    data = json.loads(json.dumps(plan.to_json()))
    assert [machine["machine"] for machine in data["machines"]] == ["cp1", "w1"]
    assert [Change.from_json(change) for change in data["machines"][0]["changes"]] == [CREATE, UPDATE, DELETE]
    assert (data["toBeIssued"], data["notes"], len(data["objects"])) == (["ca"], ["note"], 1)


def test_the_digest_names_exactly_these_changes() -> None:
    """Equal plans have equal digests; another value, order or machine gives another."""
    digest = a_plan(CREATE, UPDATE).to_json()["digest"]
    assert digest == a_plan(CREATE, UPDATE).to_json()["digest"]
    others = [
        a_plan(UPDATE, CREATE),
        a_plan(CREATE),
        a_plan(CREATE, dataclasses.replace(UPDATE, after={"inputs": "3"})),
        a_plan(CREATE, UPDATE, to_be_issued=("ca",)),
    ]
    assert digest not in {plan.to_json()["digest"] for plan in others}


def test_texts_of_files_are_no_part_of_the_json() -> None:
    """Diffs are for eyes; the file to apply later holds digests only."""
    machine = MachinePlan("cp1", (CREATE,), {"file:/a": Content("old text", "new text")})
    assert "new text" not in json.dumps(Plan("test", (machine,)).to_json())


def test_secrets_are_known_by_their_key_only() -> None:
    """From the digest of a short secret the secret can be guessed, so it is left out on both sides."""
    desired = [SECRET, PLAIN]
    observed = {
        key_of(SECRET): {
            "sha256": hashlib.sha256(b"old").hexdigest(),
            "mode": 0o644,
            "owner": "root",
            "group": "root",
        }
    }
    changes = without_secrets(difference(observed, desired), desired)
    text = json.dumps([change.to_json() for change in changes])
    assert [change.key for change in changes] == [key_of(SECRET), key_of(PLAIN)]
    assert SECRET.sha256 not in text
    assert hashlib.sha256(b"old").hexdigest() not in text
    assert changes[0].after == {"sha256": "secret", "mode": 0o600}
    assert PLAIN.sha256 in text, "others keep theirs"


def test_a_secret_that_goes_away_says_nothing() -> None:
    """Neither its digest nor its bytes stand in a deletion."""
    gone = difference({key_of(SECRET): {"sha256": SECRET.sha256}}, [], [key_of(SECRET)])
    (change,) = without_secrets(gone, [SECRET])
    assert SECRET.sha256 not in json.dumps(change.to_json())


def test_an_empty_plan_reads_as_one_sentence() -> None:
    """Nothing to change is said; notes only to who wants to know everything."""
    plan = a_plan(notes=("256 nodes fit",))
    assert [line for _, line in plan_text.lines(plan)] == ["test: nothing to change"]
    assert "  note: 256 nodes fit" in [line for _, line in plan_text.lines(plan, verbose=True)]


def test_a_plan_reads_as_a_list_per_machine() -> None:
    """Each change has its sign; a machine without any is named as such; the last line counts."""
    lines = [line for _, line in plan_text.lines(a_plan(CREATE, UPDATE, DELETE, to_be_issued=("ca",)))]
    assert lines == [
        "cp1",
        "  + file /a",
        "  ~ unit x.service  (restart: what it reads at its start has changed)",
        "  - link /b",
        "w1: nothing to change",
        "keys and certificates to be issued",
        "  + ca",
        "plan: 2 to create, 1 to update, 1 to delete on 1 machine",
    ]


def test_a_changed_file_is_shown_as_a_difference() -> None:
    """Old and new lines with their surroundings; a new file only when asked for all."""
    update = Change("file:/a", "update", {"sha256": "1", "mode": 0o666}, {"sha256": "2", "mode": 0o644})
    created = Change("file:/b", "create", None, {})
    contents = {"file:/a": Content("one\ntwo\n", "one\nthree\n"), "file:/b": Content("", "new\n")}
    plan = Plan("test", (MachinePlan("cp1", (update, created), contents),))
    short = [line.strip() for _, line in plan_text.lines(plan)]
    assert "~ file /a  (mode: 0666 -> 0644)" in short
    assert {"-two", "+three", "one"} <= set(short)
    assert "+new" not in short
    assert "+new" in [line.strip() for _, line in plan_text.lines(plan, verbose=True)]


def test_a_long_difference_is_cut() -> None:
    """A file of thousands of lines does not bury the plan, and says how much is left out."""
    update = Change("file:/a", "update", {"sha256": "1"}, {"sha256": "2"})
    text = "".join(f"{number}\n" for number in range(1000))
    plan = Plan("test", (MachinePlan("cp1", (update,), {"file:/a": Content("", text)}),))
    lines = [line for _, line in plan_text.lines(plan)]
    assert len(lines) < 100
    assert any("more lines (--verbose)" in line for line in lines)
    assert len(list(plan_text.lines(plan, verbose=True))) > 1000


def test_a_changed_flag_is_shown_alone() -> None:
    """In a command of thousands of characters only the flag that differs is marked."""
    command = "ExecStart=/opt/x " + " ".join(f"--flag-{number}=value" for number in range(50))
    update = Change("file:/a", "update", {"sha256": "1"}, {"sha256": "2"})
    contents = {"file:/a": Content(f"[Service]\n{command}\n", f"[Service]\n{command} --v=1\n")}
    lines = [line for _, line in plan_text.lines(Plan("test", (MachinePlan("cp1", (update,), contents),)))]
    assert [line.strip() for line in lines if line.strip().startswith(("+ ", "- "))] == ["+  --v=1"]
    assert max(map(len, lines)) < 120
