"""leave where an operator put state on another disk by a symbolic link: real trees, and nothing foreign goes."""

import os

import pytest
from tests.support.leaving import a_leaving_machine, a_record

from freehold_agent.contract import paths
from freehold_agent.errors import StepFailed
from freehold_agent.leave import leave
from freehold_agent.remains import linked, trees

POD = "6d7c2a52-0d2f-4d5e-9a0c-0e4f6f0f7a11"
CREATED = {"created": True, "keep": False}


def a_tree(root, *names):
    """Make files (or, with a trailing slash, directories) below a root."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("x")


@pytest.fixture
def kubelet(tmp_path, monkeypatch):
    """A link in the place of the kubelet's directory, to one that holds our state and something of the operator's."""
    data, link = tmp_path / "data" / "kubelet", tmp_path / "node_trees"
    a_tree(
        data,
        "pods/" + POD + "/volumes/kubernetes.io~empty-dir/cache/file",
        "pki/kubelet-client-current.pem",
        "cpu_manager_state",
        "lost+found/",
        "backup/precious",
    )
    (tmp_path / "data" / "elsewhere").mkdir()
    (tmp_path / "data" / "elsewhere" / "file").write_text("x")
    (data / "pods" / "out").symlink_to(tmp_path / "data" / "elsewhere")
    (data / "plugins").symlink_to(tmp_path / "data" / "elsewhere")
    link.symlink_to(data)
    monkeypatch.setitem(linked.CONTENTS, str(link), linked.CONTENTS[paths.KUBELET_STATE])
    return link


def what_is_in(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_what_is_ours_goes_and_link_and_directory_stay(kubelet, tmp_path):
    """Known names are removed; the operator's own, a link of the operator's and what links lead to are not."""
    removed, left = linked.remove_contents(str(kubelet), ["/"])
    assert (removed, left) == (["pods", "pki", "cpu_manager_state"], ["backup", "lost+found", "plugins"])
    assert os.readlink(kubelet) == str(tmp_path / "data" / "kubelet")
    assert what_is_in(tmp_path / "data" / "kubelet") == ["backup", "lost+found", "plugins"]
    assert (tmp_path / "data" / "kubelet" / "backup" / "precious").read_text() == "x"
    assert (tmp_path / "data" / "elsewhere" / "file").read_text() == "x"
    assert linked.remove_contents(str(kubelet), ["/"])[0] == []


def test_leaving_removes_linked_state_and_says_what_stays(kubelet, tmp_path, monkeypatch):
    """One line names the link, where it leads and what was left; the second time there is nothing to do."""
    machine = a_leaving_machine(tmp_path, monkeypatch)
    a_record(tmp_path, [("directory:" + str(kubelet), CREATED)])
    machine.systemd.show = lambda names: {name: {"LoadState": "not-found"} for name in names}
    events = []
    changes = leave(events.append, machine).changes
    place = tmp_path / "data" / "kubelet"
    assert [event["text"] for event in events if event["event"] == "note"] == [
        "{} is a link to {}: not freehold's, stays there: backup, lost+found, plugins".format(kubelet, place)
    ]
    names = [change.key for change in changes]
    assert "tree:{}/pods".format(kubelet) in names
    assert "directory:" + str(kubelet) not in names
    assert kubelet.is_symlink()
    assert not (place / "pods").exists()
    assert leave(lambda _event: None, machine).changes == ()


def test_mounts_are_sought_where_the_link_leads_below_our_names_only(kubelet, tmp_path):
    """The kernel lists mounts by their real place; what the operator mounted beside ours is not unmounted."""
    place = str(tmp_path / "data" / "kubelet")
    volume = place + "/pods/" + POD + "/volumes/kubernetes.io~projected/token"
    mounts = ["/", place, place + "/backup/disk", volume]
    unmounted = []

    def umount(command, **_options):
        unmounted.append(command[-1])
        mounts.remove(command[-1])

    assert trees.unmount_below(linked.places(str(kubelet)), umount, lambda: list(mounts)) == [volume]
    assert unmounted == [volume]


@pytest.mark.parametrize("where", ["pods", "pods/" + POD])
def test_nothing_is_removed_through_a_mount_in_the_target(kubelet, tmp_path, where):
    """As without a link: all of ours is refused while something is mounted in it, before anything goes."""
    mount = str(tmp_path / "data" / "kubelet" / where)
    with pytest.raises(StepFailed, match="is a mount below") as caught:
        linked.remove_contents(str(kubelet), ["/", mount])
    assert mount in caught.value.message
    assert (tmp_path / "data" / "kubelet" / "pki").exists()


def test_a_link_of_somebody_else_is_not_followed(kubelet, tmp_path, monkeypatch):
    """/var/log may be writable for a daemon: its link leads nobody with root's rights anywhere."""
    machine = a_leaving_machine(tmp_path, monkeypatch)
    a_record(tmp_path, [("directory:" + str(kubelet), CREATED)])
    machine.systemd.show = lambda names: {name: {"LoadState": "not-found"} for name in names}
    monkeypatch.setattr(linked.os, "geteuid", lambda: 4242)
    assert linked.places(str(kubelet)) == []
    events = []
    leave(events.append, machine)
    assert [event["text"] for event in events if event["event"] == "note"] == [
        "{} is a link that does not belong to root: it was not followed".format(kubelet)
    ]
    assert (tmp_path / "data" / "kubelet" / "pods").exists()


def test_a_link_to_a_directory_we_know_nothing_of_keeps_all_of_it(tmp_path):
    """/etc/kubernetes, linked: its files went one by one by the record, the rest is not ours to judge."""
    a_tree(tmp_path / "data", "manifests/etcd.yaml")
    (tmp_path / "k").symlink_to("data")
    assert linked.remove_contents(str(tmp_path / "k"), ["/"]) == ([], ["manifests"])
    assert linked.places(str(tmp_path / "k")) == []


def test_a_link_that_leads_nowhere_is_left_alone(tmp_path):
    """A disk that is not mounted: nothing to remove, nothing to say."""
    (tmp_path / "k").symlink_to("gone/away")
    assert linked.remove_contents(str(tmp_path / "k"), ["/"]) == ([], [])
    assert linked.places(str(tmp_path / "k")) == []


def test_logs_of_containers_are_links_of_ours(tmp_path, monkeypatch):
    """The kubelet's links there go, their targets do not, nor does a file of another name."""
    monkeypatch.setitem(linked.CONTENTS, str(tmp_path / "k"), linked.CONTENTS["/var/log/containers"])
    monkeypatch.setattr(linked, "LINKS_OF_OURS", frozenset([str(tmp_path / "k")]))
    a_tree(tmp_path, "data/notes.txt", "target/0.log")
    (tmp_path / "data" / "web_default_app-0123.log").symlink_to(tmp_path / "target" / "0.log")
    (tmp_path / "k").symlink_to("data")
    assert linked.remove_contents(str(tmp_path / "k"), ["/"]) == (["web_default_app-0123.log"], ["notes.txt"])
    assert (tmp_path / "target" / "0.log").exists()


def test_logs_of_pods_are_known_by_their_names():
    """Namespace, name and UID: of pods of the API and of static ones; a directory of an admin is another's."""
    patterns = linked.CONTENTS["/var/log/pods"]
    names = ["default_web_" + POD, "kube-system_etcd-cp1_" + "0" * 32, "my_old_logs"]
    found = [name for name in names if any(linked.fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert found == names[:2]


def test_nothing_is_deleted_through_a_mount_below_a_linked_parent(tmp_path):
    """/var -> /data/var: the kernel knows a mount below only by its real place, and it is found all the same."""
    a_tree(tmp_path / "data" / "lib", "k/disk/precious")
    (tmp_path / "lib").symlink_to("data/lib")
    real = str(tmp_path / "data" / "lib" / "k")
    assert linked.places(str(tmp_path / "lib" / "k")) == [real]
    with pytest.raises(StepFailed, match="is a mount below"):
        trees.remove_tree(str(tmp_path / "lib" / "k"), ["/", real + "/disk"])
    assert (tmp_path / "data" / "lib" / "k" / "disk" / "precious").exists()
    assert trees.remove_tree(str(tmp_path / "lib" / "k"), ["/"])
    assert (tmp_path / "lib").is_symlink()


def test_every_directory_of_state_that_goes_as_a_whole_is_known():
    """Whatever leave removes as a whole has its names listed, for the day that somebody links it."""
    from freehold_agent import leave as leave_module

    for path in (*leave_module.NODE_TREES, *leave_module.CONTROL_TREES, paths.STATE):
        assert path in linked.CONTENTS, path
