"""converge and observe, with a pretended systemd and real files in a temporary directory."""

import base64
import fcntl
import hashlib
import json
import os
from typing import List

import pytest
from tests.support.converging import (
    GROUP,
    ME,
    a_directory,
    a_file,
    a_machine_below,
    everything_under,
    run,
)

from freehold_agent import converge as converge_module
from freehold_agent.contract.resources import (
    Artifact,
    File,
    KernelModule,
    Link,
    Sysctl,
)
from freehold_agent.converge import converge
from freehold_agent.errors import DeliveryFailed, Locked, StepFailed
from freehold_agent.machine.files import write_atomic
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.programs import run as run_program
from freehold_agent.machine.systemd import Systemd, SystemdError
from freehold_agent.observe import contents_for_diff, observe
from freehold_agent.records import Record
from freehold_agent.store import hash_file


@pytest.fixture
def machine(tmp_path):
    """A machine whose every path is below a temporary directory."""
    return a_machine_below(tmp_path)


def test_a_tree_is_made_and_the_second_run_writes_nothing(machine, tmp_path):
    """Files, directories and links come to be as asked; converging again touches not one inode."""
    resources = [
        a_directory(tmp_path / "etc", 0o750),
        a_file(tmp_path / "etc" / "config", b"secret", 0o600, secret=True),
        Link(str(tmp_path / "current"), "etc"),
    ]
    summary, _ = run(machine, resources)
    assert [change.action for change in summary.changes] == ["create"] * 3
    assert oct(os.stat(tmp_path / "etc").st_mode)[-3:] == "750"
    assert oct(os.stat(tmp_path / "etc" / "config").st_mode)[-3:] == "600"
    assert os.readlink(tmp_path / "current") == "etc"
    before = everything_under(tmp_path)
    summary, events = run(machine, resources)
    assert summary.changes == ()
    assert events == []
    assert everything_under(tmp_path) == before


def test_what_was_there_before_comes_back(machine, tmp_path):
    """A foreign file that we replaced is restored, with its mode, when we no longer want ours."""
    path = tmp_path / "hosts"
    path.write_bytes(b"theirs")
    path.chmod(0o640)
    run(machine, [a_file(path, b"ours")])
    assert path.read_bytes() == b"ours"
    run(machine, [])
    assert path.read_bytes() == b"theirs"
    assert oct(path.stat().st_mode)[-3:] == "640"
    assert Record("node", machine.records).keys == []


def test_record_is_written_before_the_first_change(machine, tmp_path):
    """A run that fails at its first change has already recorded what was there."""
    with pytest.raises(StepFailed, match="does not exist"):
        run(machine, [a_file(tmp_path / "missing" / "file")])
    assert Record("node", machine.records).before("file:" + str(tmp_path / "missing" / "file")) == {
        "created": True
    }


def test_deletions_come_first_and_newest_first(machine, tmp_path):
    """What is no longer wanted goes before anything new comes, children before parents."""
    run(machine, [a_directory(tmp_path / "old"), a_file(tmp_path / "old" / "file")])
    _, events = run(machine, [a_file(tmp_path / "new")])
    done = [event["key"] for event in events if event["state"] == "done"]
    assert done == [
        "file:" + str(tmp_path / "old/file"),
        "directory:" + str(tmp_path / "old"),
        "file:" + str(tmp_path / "new"),
    ]
    assert not (tmp_path / "old").exists()


def test_a_directory_with_foreign_files_stays(machine, tmp_path):
    """Removal never takes what others put into a directory of ours."""
    run(machine, [a_directory(tmp_path / "ours")])
    (tmp_path / "ours" / "theirs").write_text("data")
    run(machine, [])
    assert (tmp_path / "ours" / "theirs").read_text() == "data"
    assert run(machine, [])[0].changes == ()


def test_a_kept_directory_stays_though_empty(machine, tmp_path):
    """`keep` outlives removal: containerd watches such a directory."""
    run(machine, [a_directory(tmp_path / "net.d", keep=True)])
    run(machine, [])
    assert (tmp_path / "net.d").is_dir()


@pytest.mark.parametrize("thing", ["link", "file"])
def test_a_directory_is_never_made_through_something_else(machine, tmp_path, thing):
    """A link or file where a directory is wanted is named and left alone."""
    path = tmp_path / "place"
    path.symlink_to(tmp_path) if thing == "link" else path.write_text("x")
    with pytest.raises(StepFailed, match="in the way"):
        run(machine, [a_directory(path)])


def test_a_link_where_a_file_is_wanted_is_replaced_not_followed(machine, tmp_path):
    """The target of a foreign link keeps its bytes; the link comes back on removal."""
    (tmp_path / "target").write_text("keep me")
    (tmp_path / "resolv").symlink_to("target")
    run(machine, [a_file(tmp_path / "resolv", b"ours")])
    assert (tmp_path / "target").read_text() == "keep me"
    assert not (tmp_path / "resolv").is_symlink()
    run(machine, [])
    assert os.readlink(tmp_path / "resolv") == "target"


def test_what_both_owners_use_stays_for_the_other(machine, tmp_path):
    """A resource of both owners goes only with the last, and what was there before is not forgotten."""
    path = tmp_path / "shared"
    path.write_bytes(b"theirs")
    shared = a_file(path, b"ours")
    run(machine, [shared], "control")
    assert run(machine, [shared], "node")[0].changes == ()
    run(machine, [], "control")
    assert path.read_bytes() == b"ours"
    run(machine, [], "node")
    assert path.read_bytes() == b"theirs"


def test_an_artifact_is_delivered_verified_and_remembered(machine, tmp_path):
    """A damaged file of the store is removed and asked for again; a right one is never read twice."""
    content = b"program"
    artifact = Artifact("kubelet", hashlib.sha256(content).hexdigest(), len(content))
    path = tmp_path / "store" / artifact.sha256

    def deliver(wanted):
        path.write_bytes(content)
        path.chmod(0o755)

    run(machine, [artifact], deliver=deliver)
    assert run(machine, [artifact])[0].changes == ()
    path.write_bytes(b"damaged")
    asked = []
    run(machine, [artifact], deliver=lambda wanted: (asked.append(wanted.title), deliver(wanted)))
    assert asked == ["kubelet"]
    assert hash_file(str(path)) == artifact.sha256


def test_a_deliverer_that_brings_nothing_is_an_error(machine):
    """The run ends with the artifact's name when its file is not there afterwards."""
    with pytest.raises(DeliveryFailed, match="kubelet"):
        run(machine, [Artifact("kubelet", "a" * 64, 3)], deliver=lambda artifact: None)


def test_missing_artifacts_are_announced_in_order(machine, tmp_path):
    """A deliverer may start early: it learns all that is missing before the first is needed."""
    one, two = (Artifact(name, hashlib.sha256(name.encode()).hexdigest(), 3) for name in ("one", "two"))

    class Early:
        def __init__(self):
            self.announced: List[str] = []

        def announce(self, artifacts):
            self.announced += [artifact.title for artifact in artifacts]

        def __call__(self, artifact):
            (tmp_path / "store" / artifact.sha256).write_bytes(artifact.title.encode())

    deliver = Early()
    run(machine, [one, a_file(tmp_path / "x"), two], deliver=deliver)
    assert deliver.announced == ["one", "two"]


def test_a_sysctl_is_set_and_restored(machine, tmp_path):
    """The running value changes, and the old one returns with removal."""
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    setting = tmp_path / "proc/sys/net/ipv4/ip_forward"
    setting.write_text("0\n")
    run(machine, [Sysctl("net.ipv4.ip_forward", "1")])
    assert setting.read_text().strip().startswith("1")
    run(machine, [])
    assert setting.read_text().strip().startswith("0")


def test_the_second_owner_remembers_settings_as_they_were_before_the_first(machine, tmp_path):
    """A node that becomes a control plane later must not remember the node's own settings as the machine's."""
    place = tmp_path / "proc/sys/net/ipv4/ip_forward"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("0\n")
    for owner in ("node", "control"):
        path = str(tmp_path / (owner + ".conf"))
        converge(
            [File(path, b"x", owner=ME, group=GROUP)], owner, lambda _: None, lambda _: None, machine=machine
        )
        place.write_text("1\n")
    assert Record("control", machine.records).sysctls["net.ipv4.ip_forward"] == "0"


def test_built_in_modules_need_no_loading(machine, tmp_path):
    """A module that shows itself in /proc counts as available."""
    (tmp_path / "proc/filesystems").write_text("nodev\toverlay\n")
    assert observe([KernelModule("overlay")], machine=machine) == {"module:overlay": {"available": True}}
    assert observe([KernelModule("nothing_like_it")], machine=machine) == {"module:nothing_like_it": None}


def test_only_the_named_keys_are_touched(machine, tmp_path):
    """`only` limits creation and forbids deletion."""
    run(machine, [a_file(tmp_path / "old")])
    run(machine, [a_file(tmp_path / "a"), a_file(tmp_path / "b")], only=["file:" + str(tmp_path / "b")])
    assert (tmp_path / "old").exists()
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()


def test_two_runs_at_once_are_refused(machine):
    """The second run is told that another one holds the machine."""
    other = os.open(machine.lock, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Locked), machine.locked(timeout=0.1):
        pass
    os.close(other)
    with machine.locked(timeout=0.1):
        pass


def test_diffs_show_text_but_never_secrets(machine, tmp_path):
    """Present contents are given for changing text files, not for secret, large or binary ones."""
    for name, content in (
        ("plain", b"old"),
        ("secret", b"old"),
        ("binary", b"\xff\xfe"),
        ("large", b"x" * 70000),
    ):
        (tmp_path / name).write_bytes(content)
    resources = [
        a_file(tmp_path / name, b"new", secret=name == "secret")
        for name in ("plain", "secret", "binary", "large")
    ]
    changes = converge_module.difference(observe(resources, machine=machine), resources)
    assert contents_for_diff(resources, changes) == {"file:" + str(tmp_path / "plain"): "old"}


def test_a_full_disk_leaves_no_half_file(machine, tmp_path, monkeypatch):
    """When bytes cannot be written the old file stays whole and no temporary one remains."""
    path = tmp_path / "config"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(str(path), b"new", 0o644, ME, GROUP)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["config", "proc", "state", "store", "sys", "units"]


def test_records_keep_old_bytes_private(machine, tmp_path):
    """The record holds what was there before, readable by root only."""
    (tmp_path / "f").write_bytes(b"old")
    run(machine, [a_file(tmp_path / "f", b"new")])
    path = os.path.join(machine.records, "node.json")
    assert oct(os.stat(path).st_mode)[-3:] == "600"
    with open(path) as stream:
        entry = json.load(stream)["entries"][0]
    assert base64.b64decode(entry["before"]["content"]) == b"old"


def test_systemctl_show_is_one_call_for_all_units():
    """Blocks come in the order asked for; the name asked for counts, not the alias."""
    answer = "Id=a.service\nActiveState=active\nEnvironment=X=a b=c\n\nId=b.service\nActiveState=inactive\n"
    calls = []
    systemd = Systemd(lambda command, **options: calls.append(command) or answer)
    shown = systemd.show(["alias.service", "b.service"])
    assert shown["alias.service"]["ActiveState"] == "active"
    assert shown["alias.service"]["Environment"] == "X=a b=c"
    assert shown["b.service"]["ActiveState"] == "inactive"
    assert len(calls) == 1
    assert not isinstance(calls[0], str)


def test_a_systemd_that_executes_itself_anew_is_asked_again():
    """Whoever updates it meanwhile disturbs nothing; any other failure is one at once."""
    lost = "Failed to get properties: Message recipient disconnected from message bus without replying"
    said = [lost, "Failed to get properties: Transport endpoint is not connected", None, "Unit x not found"]
    pauses = []

    def runner(command, **_options):
        error = said.pop(0)
        if error:
            raise ProgramFailed(command, 1, error)
        return "Id=a.service"

    systemd = Systemd(runner, pauses.append)
    assert systemd.show(["a.service"]) == {"a.service": {"Id": "a.service"}}
    assert len(pauses) == 2
    with pytest.raises(ProgramFailed, match="not found"):
        systemd.show(["a.service"])
    said += [lost] * 100
    with pytest.raises(SystemdError, match="disconnected"):
        systemd.daemon_reload()
    assert len(said) > 50, "it gives up"


def test_a_restart_that_is_under_way_is_not_begun_anew():
    """systemd left while we waited for it: it is waited for again, with a word that restarts nothing."""
    calls = []

    def runner(command, **_options):
        calls.append(command)
        if len(calls) == 1:
            raise ProgramFailed(command, 1, "Warning! D-Bus connection terminated.")
        return ""

    Systemd(runner, lambda _seconds: None).restart("a.service")
    assert calls == [["systemctl", verb, "--", "a.service"] for verb in ("restart", "start")]


def test_a_missing_program_is_one_clear_error():
    """No traceback of subprocess reaches a person."""
    with pytest.raises(ProgramFailed, match="program not found: freehold-no-such"):
        run_program(["freehold-no-such"])
    with pytest.raises(ProgramFailed, match="within"):
        run_program(["sleep", "5"], timeout=0.05)
