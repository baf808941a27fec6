"""Directories of local volumes: made and removed as the list says, and nothing beside them, whatever the list says."""

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from freehold_agent.contract import paths
from freehold_agent.contract.volumes import (
    DELETE,
    KEEP,
    MAKE,
    Volume,
    VolumeList,
    VolumeReport,
    VolumesError,
    base_problem,
    name_is_good,
)
from freehold_agent.volumes import Space, VolumeKeeper, volumes_elsewhere

GIB = 1 << 30


def name(number: int) -> str:
    return "pvc-00000000-0000-4000-8000-{:012x}".format(number)


def volume(number: int = 1, state: str = MAKE, base: str = paths.VOLUMES, capacity: int = GIB) -> Volume:
    return Volume(name(number), base, capacity, state, 1)


class Machine:
    """A machine's disk below a directory, with as much room as a test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.free = 100 * GIB
        self.inodes = True
        self.generation = 0
        (root / "var/lib/freehold").mkdir(parents=True)
        self.keeper = VolumeKeeper(str(root), self._space)

    def _space(self, descriptor: int) -> Space:
        return Space(os.fstat(descriptor).st_dev, 100 * GIB, self.free, self.inodes)

    def base(self, path: str) -> Path:
        directory = self.root / path.strip("/")
        directory.mkdir(parents=True, mode=0o755)
        return directory

    def wants(self, *volumes: Volume) -> VolumeReport:
        self.generation += 1
        self.keeper.accept(VolumeList(self.generation, volumes))
        self.keeper.perform()
        while self.keeper.remove_next():
            pass
        return self.keeper.report()

    def at(self, wanted: Volume) -> Path:
        return self.root / wanted.path[1:]

    def files(self) -> List[str]:
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.name != "volumes.json"
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_a_volume_can_be_written_by_anybody_and_reached_by_root_only(machine: Machine) -> None:
    """The directory is 0777, because a pod need not be root; the one above it lets nobody else through."""
    report = machine.wants(volume())
    assert report.made == (name(1),)
    assert stat.S_IMODE(machine.at(volume()).stat().st_mode) == 0o777
    assert stat.S_IMODE(machine.at(volume()).parent.stat().st_mode) == 0o700


def test_a_mode_that_a_pod_chose_stays(machine: Machine) -> None:
    """Databases narrow the mode of their directory and refuse to start when it is wider."""
    machine.wants(volume())
    machine.at(volume()).chmod(0o700)
    machine.wants(volume())
    machine.wants(volume(state=KEEP))
    assert stat.S_IMODE(machine.at(volume()).stat().st_mode) == 0o700


def test_a_quiet_list_writes_nothing(machine: Machine) -> None:
    """The same list again touches neither the directory nor the remembered list."""
    machine.wants(volume())
    listed = machine.root / paths.VOLUME_LIST[1:]
    before = [path.stat().st_ctime_ns for path in (machine.at(volume()), machine.at(volume()).parent, listed)]
    machine.keeper.accept(VolumeList(machine.generation, (volume(),)))
    assert machine.keeper.perform() == []
    assert machine.keeper.report().made == (name(1),)
    after = [path.stat().st_ctime_ns for path in (machine.at(volume()), machine.at(volume()).parent, listed)]
    assert before == after


def test_lost_data_is_said_and_not_replaced(machine: Machine) -> None:
    """A volume that holds data is never made anew: an empty directory would pass for the data."""
    machine.wants(volume())
    machine.at(volume()).rmdir()
    report = machine.wants(volume(state=KEEP))
    assert list(report.failed) == [name(1)]
    assert not machine.at(volume()).exists()


def test_what_leaves_the_list_is_left_alone(machine: Machine) -> None:
    """An empty list removes nothing: only a volume that is listed as to be removed goes."""
    machine.wants(volume())
    (machine.at(volume()) / "data").write_text("precious")
    machine.wants()
    assert (machine.at(volume()) / "data").read_text() == "precious"


def test_an_older_list_is_refused(machine: Machine) -> None:
    """The generation never goes back, also after a restart."""
    machine.wants(volume())
    machine.wants(volume(state=KEEP))
    again = VolumeKeeper(str(machine.root))
    assert again.load().generation == 2
    with pytest.raises(VolumesError):
        again.accept(VolumeList(1, (volume(state=DELETE),)))


def test_a_damaged_memory_counts_as_none(machine: Machine) -> None:
    """Then the list is simply asked for again."""
    (machine.root / paths.VOLUME_LIST[1:]).write_text("{")
    assert machine.keeper.load() == VolumeList()


def fill(directory: Path) -> None:
    (directory / "file").write_text("x")
    (directory / "read-only").mkdir()
    (directory / "read-only" / "file").write_text("x")
    (directory / "read-only").chmod(0o500)
    (directory / ".freehold-removed-1").mkdir()
    os.mkfifo(directory / "pipe")
    os.symlink("/", directory / "root")
    os.symlink("nowhere", directory / "broken")
    (directory / "\udcff not utf-8").mkdir()


def test_a_removed_volume_goes_with_all_it_holds(machine: Machine) -> None:
    """Links, pipes, odd names and read-only directories included; what links point at stays."""
    machine.wants(volume())
    outside = machine.base("/srv/outside")
    (outside / "data").write_text("precious")
    fill(machine.at(volume()))
    os.symlink(outside, machine.at(volume()) / "outside")
    report = machine.wants(volume(state=DELETE))
    assert report.deleted == (name(1),)
    assert not machine.at(volume()).exists()
    assert (outside / "data").read_text() == "precious"
    assert machine.wants(volume(state=DELETE)).deleted == (name(1),), "and once more changes nothing"


def test_any_depth_can_be_removed(machine: Machine) -> None:
    """A pod may nest directories deeper than any stack or path name."""
    machine.wants(volume())
    descriptor = os.open(machine.at(volume()), os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 500):
        os.mkdir("deeper", dir_fd=descriptor)
        below = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert machine.wants(volume(state=DELETE)).deleted == (name(1),)


def test_a_full_disk_refuses_and_says_what_is_left(machine: Machine) -> None:
    """Free bytes count, promises count, and so do inodes."""
    machine.free = GIB - 1
    report = machine.wants(volume())
    assert report.refused[name(1)].free == GIB - 1
    assert not machine.at(volume()).exists()
    machine.free = 100 * GIB
    report = machine.wants(volume(1, capacity=60 * GIB), volume(2, capacity=60 * GIB))
    assert report.made == (name(1),)
    assert report.refused[name(2)].free == 40 * GIB
    machine.inodes = False
    assert machine.wants(volume(3)).refused[name(3)].free == 0


def test_room_comes_back_when_a_volume_goes(machine: Machine) -> None:
    """What is to be removed is promised to nobody any more."""
    machine.wants(volume(1, capacity=60 * GIB))
    machine.wants(volume(1, KEEP, capacity=60 * GIB))
    report = machine.wants(volume(1, DELETE, capacity=60 * GIB), volume(2, capacity=60 * GIB))
    assert report.made == (name(2),)


def test_only_our_own_place_is_made(machine: Machine) -> None:
    """A missing directory of another class may be a disk that is not mounted; nothing is reported as removed there."""
    report = machine.wants(volume(1, base="/srv/ssd"))
    assert "there is no /srv/ssd" in report.refused[name(1)].message
    assert name(1) in machine.wants(volume(1, DELETE, base="/srv/ssd")).failed
    machine.base("/srv/ssd")
    assert machine.wants(volume(1, base="/srv/ssd")).made == (name(1),)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda base: base.chmod(0o777), "nobody else may write"),
        (lambda base: (base.rmdir(), base.write_text("")), "link or a file"),
        (lambda base: (base.rename(base.with_name("real")), base.symlink_to("real")), "link or a file"),
        (
            lambda base: (base.parent.rename(base.parent.with_name("r")), base.parent.symlink_to("r")),
            "link or a file",
        ),
    ],
)
def test_a_base_that_others_can_turn_is_refused(
    machine: Machine, spoil: Callable[[Path], Any], words: str
) -> None:
    """Writable by others, a file, or reached through a link anywhere: no volumes there."""
    spoil(machine.base("/srv/ssd"))
    assert words in machine.wants(volume(1, base="/srv/ssd")).refused[name(1)].message


@pytest.mark.parametrize("state", [MAKE, KEEP, DELETE])
def test_what_is_in_the_way_is_no_volume(machine: Machine, state: str) -> None:
    """A link or file with a volume's name is neither used nor removed, and what it points at neither."""
    outside = machine.base("/srv/outside")
    (outside / "data").write_text("precious")
    machine.wants(volume(2))
    os.symlink(outside, machine.at(volume(1)))
    report = machine.wants(volume(1, state))
    assert name(1) not in (*report.made, *report.deleted)
    assert (outside / "data").read_text() == "precious"
    assert machine.at(volume(1)).is_symlink()


NASTY = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["..", ".", "", "/", "../../etc", "pvc-x/../..", name(1) + "/..", name(1) + "\n", "a" * 300]
    ),
    st.tuples(st.sampled_from(["", "../", "/", "./"]), st.just(name(1)), st.text(max_size=5)).map("".join),
)


@settings(deadline=None)
@given(NASTY, st.sampled_from([MAKE, KEEP, DELETE]))
@example("..", DELETE)
@example(name(7), MAKE)
def test_no_name_leaves_the_base(hostile: str, state: str) -> None:
    """Whatever a volume is called, only `pvc-UUID` in the base is ever made or removed."""
    with tempfile.TemporaryDirectory() as directory:
        machine = Machine(Path(directory) / "machine")
        machine.wants(volume(99))
        before = machine.files()
        report = machine.wants(Volume(hostile, paths.VOLUMES, 1, state, 1), volume(99))
        if name_is_good(hostile):
            return
        assert machine.files() == before
        told = (*report.made, *report.deleted, *report.refused, *report.failed)
        assert set(told) == {name(99)}


@given(
    st.one_of(
        st.text(alphabet="/.abe tc\0\n~", max_size=30),
        st.sampled_from(
            ["/etc", "/", "//", "/var", "/srv/../etc", "/usr/local", "/srv/./x", "/var/lib/kubelet/pods", "x"]
        ),
        st.text(max_size=40).map(lambda text: "/" + text),
    )
)
def test_no_base_but_a_plain_one(base: str) -> None:
    """A base that passes is absolute, plain and has no way up; the system's own directories never pass."""
    if base_problem(base):
        return
    assert base.startswith("/")
    assert os.path.normpath(base) == base
    assert base.split("/")[1] not in ("etc", "usr", "bin", "proc", "sys", "dev", "run", "tmp", "")


@pytest.mark.parametrize(
    "base",
    ["/", "/etc", "/etc/x", "/var", "/var/lib", "/opt", "/var/lib/freehold", "/var/lib/freehold/records"],
)
def test_the_systems_directories_are_no_place(base: str, machine: Machine) -> None:
    """They are refused by their text alone, and nothing happens on disk."""
    assert base_problem(base)
    before = machine.files()
    assert machine.wants(volume(base=base)).refused[name(1)].message
    assert machine.files() == before


def test_good_places() -> None:
    """Ours, and plain directories beside the system's."""
    for base in (paths.VOLUMES, "/srv/volumes", "/mnt/ssd", "/data", "/home/volumes", "/var/lib/volumes"):
        assert base_problem(base) == ""


def test_a_list_and_a_report_travel(machine: Machine) -> None:
    """Both are the same after JSON; an unknown version, a doubled name and a foreign state are errors."""
    wanted = VolumeList(7, (volume(), volume(2, DELETE)))
    assert VolumeList.from_json(wanted.to_json()) == wanted
    machine.free = 0
    report = machine.wants(volume(), volume(2, KEEP), volume(3, DELETE))
    assert VolumeReport.from_json(report.to_json()) == report
    bad: List[Tuple[Callable[[Any], Any], Dict[str, Any]]] = [
        (VolumeList.from_json, {**wanted.to_json(), "version": 2}),
        (VolumeList.from_json, {**wanted.to_json(), "volumes": [wanted.to_json()["volumes"][0]] * 2}),
        (VolumeList.from_json, VolumeList(1, (volume(state="burn"),)).to_json()),
        (VolumeReport.from_json, {**report.to_json(), "made": ["../x"]}),
        (VolumeReport.from_json, {**report.to_json(), "generation": -1}),
        (VolumeReport.from_json, {**report.to_json(), "failed": {name(1): 5}}),
        (VolumeReport.from_json, {**report.to_json(), "made": [name(1)] * 1001}),
        (VolumeReport.from_json, []),
    ]
    for read, data in bad:
        with pytest.raises(VolumesError):
            read(data)


def test_volumes_that_a_reset_must_look_for() -> None:
    """Those outside our own tree, unless their data is to be retained."""
    kept = Volume(name(3), "/srv/ssd", 1, KEEP, 1, retain=True)
    listed = VolumeList(1, (volume(1, KEEP), volume(2, KEEP, "/srv/ssd"), kept))
    assert volumes_elsewhere(listed.to_json()) == [volume(2, KEEP, "/srv/ssd")]
    assert volumes_elsewhere(None) == []
    assert volumes_elsewhere({"kind": "?"}) == []


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Modes must not depend on it."""
    before = os.umask(0o077)
    yield
    os.umask(before)
