"""The one difference: properties that must hold for any machine and any wish."""

from hypothesis import given
from hypothesis import strategies as some

from freehold_agent.contract.resources import (
    Change,
    Directory,
    File,
    Link,
    Sysctl,
    Unit,
    difference,
    from_json,
    key_of,
    to_json,
)

names = some.sampled_from(["/a", "/b", "/c/d", "/e"])
resources = some.one_of(
    some.builds(File, names, some.binary(max_size=4), some.sampled_from([0o600, 0o644])),
    some.builds(Directory, names, some.sampled_from([0o700, 0o755])),
    some.builds(Link, names, names),
    some.builds(Sysctl, some.sampled_from(["x.y", "x.z"]), some.sampled_from(["0", "1"])),
    some.builds(
        Unit,
        some.sampled_from(["u.service", "v.service"]),
        some.sampled_from(["", "1"]),
        some.booleans(),
        reads=some.sampled_from([(), ("file:/a",), ("file:/a", "file:/b")]),
    ),
)
wishes = some.lists(resources, max_size=6, unique_by=key_of)
machines = some.builds(lambda wish: {key_of(item): item.wanted for item in wish}, wishes)


def perform(observed, changes):
    """The machine after the changes."""
    result = dict(observed)
    for change in changes:
        result[change.key] = (
            None if change.after is None else {**(result.get(change.key) or {}), **change.after}
        )
    return result


@given(machines, wishes, wishes)
def test_performing_the_difference_leaves_none(observed, wish, earlier):
    """What the difference says, once done, is all there was to do."""
    recorded = [key_of(item) for item in earlier]
    changes = difference(observed, wish, recorded)
    assert difference(perform(observed, changes), wish, recorded) == []


@given(machines, wishes, wishes)
def test_only_what_was_recorded_is_deleted(observed, wish, earlier):
    """Nothing that we did not make is ever removed, and nothing that is wanted."""
    recorded = [key_of(item) for item in earlier]
    wanted = {key_of(item) for item in wish}
    deleted = [change.key for change in difference(observed, wish, recorded) if change.action == "delete"]
    assert set(deleted) <= set(recorded) - wanted
    assert deleted == [key for key in reversed(recorded) if key in deleted]


@given(wishes)
def test_resources_and_changes_survive_the_wire(wish):
    """JSON and back gives the same resources, changes and thus the same plan on either side."""
    assert [from_json(to_json(item)) for item in wish] == wish
    changes = difference({}, wish)
    assert [Change.from_json(change.to_json()) for change in changes] == changes


OLD = "/opt/freehold/releases/1.37.1-aaaa"


def test_an_old_release_goes_last():
    """Until the new one runs, a power cut needs the old one; everything else makes room first."""
    recorded = ["directory:" + OLD, "link:" + OLD + "/bin/etcd", "artifact:aa", "file:/etc/old"]
    observed = {key: {} for key in recorded}

    changes = difference(observed, [File("/etc/new", b"", 0o644)], recorded)

    assert [(change.action, change.key) for change in changes] == [
        ("delete", "file:/etc/old"),
        ("create", "file:/etc/new"),
        ("delete", "artifact:aa"),
        ("delete", "link:" + OLD + "/bin/etcd"),
        ("delete", "directory:" + OLD),
    ]


def test_what_reads_a_file_that_was_wrong_is_restarted():
    """A process may have been started with what somebody wrote there, so putting the file right is not enough."""
    file = File("/etc/kubelet.json", b"right")
    unit = Unit("kubelet.service", "1", reads=(key_of(file),))
    observed = {key_of(file): {**file.wanted, "sha256": "wrong"}, key_of(unit): unit.wanted}

    changes = difference(observed, [file, unit])

    assert [change.key for change in changes] == [key_of(file), key_of(unit)]
    assert changes[1] == Change(key_of(unit), "update", {"current": False}, {"current": True})


def test_what_does_not_read_it_goes_on():
    """Only readers of the file are restarted."""
    file = File("/etc/kubelet.json", b"right")
    unit = Unit("etcd.service", "1", reads=("file:/etc/etcd",))

    assert [change.key for change in difference({key_of(unit): unit.wanted}, [file, unit])] == [key_of(file)]
