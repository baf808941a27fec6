"""`plan` on fresh machines says everything and changes nothing; the first `apply` then does what it said."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Answer, wait_for
from tests.support.lab import Lab
from tests.support.outside import Snapshot, differences
from tests.support.program import Freehold
from tests.support.secrets_of_cluster import texts_of

from freehold_agent.contract import paths
from freehold_agent.contract.resources import split_key

SIGNS = ("  + ", "  ~ ", "  - ")
STATE_OF_PROGRAMS = (
    "/dev",
    "/run",
    "/tmp",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/freehold/volume-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/kubernetes",
    "/var/log/pods",
)
"""Where the programs themselves write once they run."""
OWN_MEMORY = (paths.RECORDS, paths.HASHES, paths.DNS_CLIENTS)
"""What freehold remembers of its own work, and its list of nodes elsewhere."""
ACCOUNTS = {f"/etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("", "-")}


@dataclass(frozen=True)
class Planned:
    """Machines before and after three plans of different kinds, and what these said."""

    before: dict[str, Snapshot]
    after: dict[str, Snapshot]
    state_before: list[str]
    state_after: list[str]
    text: Answer
    json: Answer
    longest: Answer
    kept: bytes
    """What `--out` wrote."""

    def keys(self, machine: str) -> set[str]:
        return {
            change["key"]
            for one in self.json.json["machines"]
            if one["machine"] == machine
            for change in one["changes"]
        }


@pytest.fixture(scope="module")
def planned(lab: Lab, freehold: Freehold, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Plans on machines that nobody has installed anything on."""
    for machine in lab.machines:
        lab.wait_for_ssh(machine)
        lab.wait_for_boot(machine)
    kept = tmp_path_factory.mktemp("plan") / "plan.json"
    _sessions_end(lab)
    before, state_before = Snapshot.of_all(lab), list(_tree(freehold.state_home))
    text, as_json = freehold("plan"), freehold("plan", "--output", "json")
    longest = freehold("plan", "--verbose", "--out", str(kept))
    _sessions_end(lab)
    after, state_after = Snapshot.of_all(lab), list(_tree(freehold.state_home))
    assert kept.exists(), str(longest)
    return Planned(before, after, state_before, state_after, text, as_json, longest, kept.read_bytes())


@pytest.fixture(scope="module")
def applied(planned: Planned, request: pytest.FixtureRequest) -> Cluster:
    """The cluster that was planned."""
    cluster = request.getfixturevalue("cluster")
    assert isinstance(cluster, Cluster)
    return cluster


@pytest.fixture(scope="module")
def made(applied: Cluster) -> dict[str, Snapshot]:
    """The machines after the first apply."""
    return Snapshot.of_all(applied.lab)


def test_plan_of_fresh_machines_exits_2(planned: Planned) -> None:
    """There is something to do, and the exit code says so in every form."""
    assert (planned.text.code, planned.json.code, planned.longest.code) == (2, 2, 2), str(planned.text)


def test_plan_writes_nothing_on_any_machine(planned: Planned) -> None:
    """Files with times and inodes, processes, packet filter, routes, links, users, units, sysctls: all as before."""
    found = [
        line for name in planned.before for line in differences(planned.before[name], planned.after[name])
    ]
    assert found == []
    assert all(len(snapshot.files) > 1000 for snapshot in planned.before.values()), "it was looked at"


def test_plan_keeps_only_host_keys_on_the_operators_side(planned: Planned) -> None:
    """No key, no journal, no lock: nothing but the machines' accepted host keys."""
    assert planned.state_before == []
    assert [Path(name).name for name in planned.state_after] == ["known_hosts"]


def test_plan_names_every_machine_and_each_kind_of_change(planned: Planned, lab: Lab) -> None:
    """Each machine has its own list: users, directories, files, programs, links, settings, routes, units."""
    listed = {one["machine"]: one["changes"] for one in planned.json.json["machines"]}
    assert list(listed) == list(lab.machines)
    for machine, changes in listed.items():
        kinds = {split_key(change["key"])[0] for change in changes}
        assert {"directory", "file", "artifact", "link", "unit", "route"} <= kinds, machine
        # Directories of the distribution are only corrected, kernel settings only where they differ.
        assert {change["action"] for change in changes} <= {"create", "update"}, machine
        assert len({change["key"] for change in changes}) == len(changes), "each thing once"
    assert {split_key(change["key"])[0] for change in listed["cp1"]} >= {"user"}


def test_text_and_json_agree(planned: Planned) -> None:
    """Both list the same changes, and the last line counts them."""
    data = planned.json.json
    changes = [change for one in data["machines"] for change in one["changes"]] + data["objects"]
    created = sum(change["action"] == "create" for change in changes) + len(data["toBeIssued"])
    updated = sum(change["action"] == "update" for change in changes)
    lines = planned.text.stdout.splitlines()
    assert sum(line.startswith(SIGNS) for line in lines) == len(changes) + len(data["toBeIssued"])
    expected = f"plan: {created} to create" + (f", {updated} to update" if updated else "")
    assert lines[-1] == f"{expected} on {len(data['machines'])} machines"


def test_the_same_plan_twice_is_the_same(planned: Planned) -> None:
    """Nothing in a plan depends on chance: all three list the same, and have the same digest."""
    listed = [line for line in planned.longest.stdout.splitlines() if line.startswith(SIGNS)]
    assert listed == [line for line in planned.text.stdout.splitlines() if line.startswith(SIGNS)]
    assert json.loads(planned.kept) == planned.json.json


def test_plan_names_keys_that_do_not_exist_yet(planned: Planned) -> None:
    """Certificates are listed as to be issued, and objects as to be created."""
    data = planned.json.json
    assert {"ca", "sa", "admin"} <= set(data["toBeIssued"])
    objects = {change["key"] for change in data["objects"]}
    assert {"object:Service kube-system/kube-dns", "object:Node cp1", "object:Node w1"} <= objects


def test_facts_that_change_something_are_said(planned: Planned) -> None:
    """Nothing about the lab's machines that freehold works around is silent."""
    for one in planned.json.json["machines"]:
        assert any("no default route" in note for note in one["notes"]), one["machine"]


def test_first_apply_succeeds_and_says_what_it_did(applied: Cluster, first_apply: Answer) -> None:
    """It ends with the command to try next, and its journal has the run from start to end."""
    assert first_apply.code == 0, str(first_apply)
    assert "kubectl get nodes" in first_apply.stderr.splitlines()[-1]
    lines = [json.loads(line) for line in (applied.state / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["what"] == "run-started"
    assert (lines[-1]["what"], lines[-1]["outcome"]) == ("run-finished", "done")
    phases = {(line["machine"], line["phase"]) for line in lines if line["what"] == "phase-finished"}
    assert {("cp1", "control-plane"), ("w1", "node"), ("cp1", "verify")} <= phases


def test_apply_made_only_what_was_planned(planned: Planned, applied: Cluster) -> None:
    """Everything that freehold recorded as made was in the plan of that machine."""
    for machine in applied.nodes:
        recorded = set(_records(applied, machine))
        assert recorded, machine
        assert recorded <= planned.keys(machine), machine


def test_apply_made_everything_that_was_planned(
    planned: Planned, applied: Cluster, made: dict[str, Snapshot]
) -> None:
    """Each file, link, directory and program of the plan is there, each unit runs."""
    for machine in applied.nodes:
        now = made[machine]
        missing = []
        for key in planned.keys(machine):
            kind, name = split_key(key)
            if kind == "unit":
                state = now.other["units"].get(f"unit {name}", "absent")
                missing += [] if state.startswith("loaded active") else [f"{key}: {state}"]
            elif kind in ("file", "link", "directory", "artifact"):
                path = f"{paths.STORE}/{name}" if kind == "artifact" else name
                missing += [] if path in now.files else [key]
        assert missing == [], machine


def test_no_file_appeared_that_no_plan_named(
    planned: Planned, applied: Cluster, made: dict[str, Snapshot]
) -> None:
    """Seen from outside: beside the state of running programs, all new and changed files were in the plan."""
    for machine in applied.nodes:
        planned_paths = set(_planned_paths(planned.keys(machine)))
        lines = differences(
            planned.after[machine],
            made[machine],
            ignore=(*STATE_OF_PROGRAMS, *OWN_MEMORY),
            sections=["files"],
        )
        changed = {line.split(": ")[2] for line in lines}
        # Whoever gets an entry has another time: directories are parents of what was planned.
        parents = {str(parent) for path in planned_paths for parent in Path(path).parents}
        users = ACCOUNTS if any(key.startswith("user:") for key in planned.keys(machine)) else set()
        own = {str(Path(path).parent) for path in OWN_MEMORY} | set(map(str, Path("/var/log/x").parents))
        assert changed - planned_paths - parents - users - own == set(), machine


def test_users_of_services_cannot_log_in(
    planned: Planned, applied: Cluster, made: dict[str, Snapshot]
) -> None:
    """Each new account was planned, has no shell and no password."""
    for machine in applied.nodes:
        added = differences(planned.after[machine], made[machine], sections=["accounts"])
        entries = [line.split(": ")[2] for line in added]
        names = {entry.split(":")[0] for entry in entries}
        assert {f"user:{name}" for name in names} <= planned.keys(machine), machine
        for entry in entries:
            fields = entry.split(":")
            assert len(fields) != 7 or fields[6].endswith(("nologin", "false")), entry


def test_no_secret_in_any_plan(planned: Planned, applied: Cluster, first_apply: Answer) -> None:
    """Neither plan, in text, JSON and at its longest, nor apply's output holds a byte of a key."""
    said = {
        "plan": planned.text,
        "plan --output json": planned.json,
        "plan --verbose": planned.longest,
        "plan after apply": applied.freehold("plan", "--verbose"),
        "apply": first_apply,
    }
    needles = texts_of(applied.state)
    assert len(needles) > 20
    for name, answer in said.items():
        output = answer.stdout + answer.stderr
        assert "PRIVATE KEY" not in output, name
        assert [secret for secret, parts in needles.items() if any(part in output for part in parts)] == [], (
            name
        )


def _sessions_end(lab: Lab) -> None:
    """Return once no session of SSH is left on any machine: it ends a moment after its command."""
    for machine in lab.machines:

        def ended(machine: str = machine) -> bool:
            return lab.exec(machine, "pgrep", "--full", "^sshd.*: freehold", check=False).returncode == 1

        wait_for(ended, 30, f"sessions on {machine} to end")


def _planned_paths(keys: set[str]) -> Iterator[str]:
    for key in keys:
        kind, name = split_key(key)
        if kind in ("file", "link", "directory"):
            yield name
        elif kind == "artifact":
            yield f"{paths.STORE}/{name}"
        elif kind == "unit":
            yield f"/etc/systemd/system/multi-user.target.wants/{name}"


def _records(cluster: Cluster, machine: str) -> Iterator[str]:
    """Yield the keys of everything that freehold has a record of there."""
    for line in cluster.run(
        machine, f"for file in {paths.RECORDS}/*; do tr -d '\\n' <$file; echo; done"
    ).splitlines():
        content: Any = json.loads(line)
        yield from (entry["key"] for entry in content["entries"])


def _tree(directory: Path) -> Iterator[str]:
    return (str(path) for path in sorted(directory.rglob("*")) if path.is_file())
