"""leave: what goes, what stays, and what stops it; with pretended programs and real directories."""

import json
import os

import pytest

from freehold_agent import leave as leave_module
from freehold_agent.errors import StepFailed
from freehold_agent.leave import leave
from freehold_agent.machine.files import mount_points
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import Systemd
from freehold_agent.remains import iptables, network, processes, trees
from freehold_agent.this_machine import ThisMachine


class Programs:
    """Answers commands by their beginning and remembers all of them."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", " "): answer for name, answer in answers.items()}
        self.calls = []

    def __call__(self, command, **options):
        line = " ".join(command)
        self.calls.append(line)
        for beginning, answer in self.answers.items():
            if line.startswith(beginning):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return ""


def show(*units):
    """What systemctl says of units: (name, load state, active state)."""
    return "\n\n".join("Id={}\nLoadState={}\nActiveState={}\n".format(*unit) for unit in units)


def test_mounts_are_found_strictly_below():
    """A directory that only begins alike is not below, and the newest mount comes first."""
    mounts = ["/", "/run/containerd", "/run/containerd-other/x", "/run/containerd/a", "/run/containerd/a/b"]
    assert trees.mounts_below("/run/containerd", mounts) == ["/run/containerd/a/b", "/run/containerd/a"]


def test_mountinfo_names_are_decoded():
    """Blanks in mount points are written as octal numbers there."""
    assert mount_points("36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n") == ["/mnt/a b"]


def test_a_busy_mount_stops_everything_with_its_name(monkeypatch):
    """Nothing is deleted when something cannot be unmounted; the message says what and what to do."""
    monkeypatch.setattr(trees, "_PATIENCE", 0)
    runner = Programs(umount=ProgramFailed(["umount"], 32, "target is busy"))
    with pytest.raises(StepFailed, match="/k/pods/v cannot be unmounted: target is busy") as caught:
        trees.unmount_below(["/k"], runner, lambda: ["/", "/k/pods/v"])
    assert "nothing below it was deleted" in caught.value.hint


def test_nothing_is_deleted_through_a_mount(tmp_path):
    """A tree with a foreign mount in it is refused as a whole."""
    (tmp_path / "k" / "data").mkdir(parents=True)
    (tmp_path / "k" / "data" / "precious").write_text("x")
    with pytest.raises(StepFailed, match="is a mount below"):
        trees.remove_tree(str(tmp_path / "k"), ["/", str(tmp_path / "k" / "data")])
    assert (tmp_path / "k" / "data" / "precious").exists()


def test_a_mount_point_loses_its_contents_only(tmp_path):
    """The directory that someone mounted stays; a second removal finds nothing to do."""
    (tmp_path / "k" / "deep").mkdir(parents=True)
    (tmp_path / "k" / "link").symlink_to("/etc")
    mounts = ["/", str(tmp_path / "k")]
    assert trees.remove_tree(str(tmp_path / "k"), mounts)
    assert list((tmp_path / "k").iterdir()) == []
    assert not trees.remove_tree(str(tmp_path / "k"), mounts)


def test_a_link_to_a_directory_is_not_followed(tmp_path):
    """Whoever put a link in a place of ours keeps what it leads to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("x")
    (tmp_path / "k").symlink_to("elsewhere")
    assert not trees.remove_tree(str(tmp_path / "k"), ["/"])
    assert (tmp_path / "elsewhere" / "file").exists()


def test_pod_cgroups_are_found_in_every_hierarchy_and_removed(tmp_path):
    """cgroup v1 has one tree per controller; the empty ones go, deepest first."""
    for path in ("memory/kubepods/besteffort/pod1", "pids/kubepods/pod1", "unified/freehold-node.slice"):
        (tmp_path / path).mkdir(parents=True)
    found = processes.pod_cgroups(str(tmp_path))
    assert found == [str(tmp_path / "memory/kubepods"), str(tmp_path / "pids/kubepods")]
    assert processes.remove_cgroups(str(tmp_path)) == found
    assert (tmp_path / "unified/freehold-node.slice").is_dir()


def test_processes_of_pods_and_of_our_programs_are_found(tmp_path):
    """Members of pod cgroups count, and whatever runs a program from our directory; nothing else."""
    (tmp_path / "cg/kubepods/pod1").mkdir(parents=True)
    (tmp_path / "cg/kubepods/pod1/cgroup.procs").write_text("4000001\n4000002\n")
    for number, program in ((4000003, "/opt/freehold/store/sha256/ab"), (4000004, "/usr/bin/python3")):
        (tmp_path / "proc" / str(number)).mkdir(parents=True)
        (tmp_path / "proc" / str(number) / "exe").symlink_to(program)
    found = processes.our_processes(str(tmp_path / "cg"), str(tmp_path / "proc"))
    assert found == {4000001, 4000002, 4000003}


def test_only_our_tables_go():
    """Tables of others stay; without nft there is nothing to do."""
    runner = Programs(
        nft_list="table ip filter\ntable ip kube-proxy\ntable ip6 kube-proxy\ntable inet mine\n"
    )
    assert network.remove_tables(runner) == ["ip kube-proxy", "ip6 kube-proxy"]
    assert runner.calls[1:] == ["nft -f -"]
    assert network.remove_tables(Programs(nft=ProgramFailed(["nft"], None, "program not found"))) == []


SAVED = """\
# Generated by iptables-save v1.8.9 on Mon Nov 23 09:00:00 2026
*filter
:INPUT ACCEPT [10:600]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "kubernetes -j KUBE-FORWARD rules" -j KUBE-FORWARD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FORWARD -m comment --comment "not -j KUBE-FORWARD" -j DOCKER-USER
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABC - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC
COMMIT
*mangle
:INPUT ACCEPT [0:0]
-A INPUT -j MARK --set-xmark 0x1/0x1
COMMIT
"""


def test_only_our_chains_go():
    """Chains of kube-proxy and flannel and the jumps to them; rules of others stay, whatever their comments say."""
    assert iptables.script(SAVED).splitlines() == [
        "*filter",
        ":KUBE-FORWARD - [0:0]",
        ":FLANNEL-FWD - [0:0]",
        '-D FORWARD -m comment --comment "kubernetes -j KUBE-FORWARD rules" -j KUBE-FORWARD',
        '-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
        "-X KUBE-FORWARD",
        "-X FLANNEL-FWD",
        "COMMIT",
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-ABC - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-ABC",
        "COMMIT",
    ]


def test_iptables_is_only_read_where_nothing_is_ours():
    """Without chains of ours nothing is restored; without the program there is nothing to do."""
    runner = Programs(**{"iptables-save": "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"})
    assert iptables.remove_chains(runner, ["iptables"]) == []
    assert runner.calls == ["iptables-save"]
    runner = Programs(**{"iptables-save": SAVED})
    chains = ["KUBE-FORWARD", "FLANNEL-FWD", "KUBE-SERVICES", "KUBE-SVC-ABC"]
    assert iptables.remove_chains(runner, ["iptables"]) == ["iptables " + chain for chain in chains]
    assert runner.calls[1] == "iptables-restore --noflush --wait=10"
    missing = Programs(iptables=ProgramFailed(["iptables-save"], None, "program not found"))
    assert iptables.remove_chains(missing, ["iptables"]) == []


def test_only_our_routes_go():
    """Protocol 70 and gateways to pods are ours; default, connected and foreign routes are not."""
    routes = [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
        {"dst": "10.0.0.0/24", "dev": "eth0", "protocol": "kernel"},
        {"dst": "10.96.0.0/12", "dev": "eth0", "protocol": "70"},
        {"dst": "10.244.1.0/24", "gateway": "10.0.0.12", "dev": "eth0"},
        {"dst": "192.168.5.0/24", "gateway": "10.0.0.9", "dev": "eth0"},
    ]
    runner = Programs(**{"ip_-4_-j": json.dumps(routes)})
    assert network.remove_routes(["10.244.0.0/16", "fd00::/48"], runner) == ["10.96.0.0/12", "10.244.1.0/24"]


def test_links_of_pods_and_flannel_go():
    """The bridge's cables go with it; other interfaces stay."""
    links = [
        {"ifname": "lo"},
        {"ifname": "eth0", "link_type": "ether"},
        {"ifname": "cni0", "link_type": "ether"},
        {"ifname": "veth1", "master": "cni0", "link_type": "ether"},
        {"ifname": "veth2", "master": "docker0", "link_type": "ether"},
        {"ifname": "flannel.1", "link_type": "ether"},
    ]
    runner = Programs(**{"ip_-j_link": json.dumps(links)})
    assert network.remove_links(runner) == ["cni0", "flannel.1"]
    assert [call.split()[-1] for call in runner.calls[1:]] == ["veth1", "cni0", "flannel.1"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose every path is below a temporary directory."""
    runner = Programs()
    for name in ("OPT", "ETC", "STATE", "RUN", "JOIN_DOCUMENT"):
        monkeypatch.setattr(leave_module.paths, name, str(tmp_path / name.lower()))
    for name in ("NODE_TREES", "CONTROL_TREES", "SHARED_TREES", "UNMOUNT"):
        monkeypatch.setattr(leave_module, name, (str(tmp_path / name.lower()),))
    monkeypatch.setattr(leave_module, "OWN_TREES", (str(tmp_path / "opt"), str(tmp_path / "etc")))
    monkeypatch.setattr(leave_module.processes, "kill_all", lambda *arguments: [])
    monkeypatch.setattr(leave_module.trees, "remove_network_namespaces", lambda *arguments: [])
    for name in ("units", "proc", "cg"):
        (tmp_path / name).mkdir()
    return ThisMachine(
        systemd=Systemd(runner),
        run=runner,
        units=str(tmp_path / "units"),
        store=str(tmp_path / "opt" / "store"),
        records=str(tmp_path / "state" / "records"),
        proc=str(tmp_path / "proc"),
        cgroups=str(tmp_path / "cg"),
        lock=str(tmp_path),
    )


def a_record(tmp_path, entries, owner="node", **more):
    directory = tmp_path / "state" / "records"
    directory.mkdir(parents=True, exist_ok=True)
    entries = [{"key": key, "before": before} for key, before in entries]
    (directory / (owner + ".json")).write_text(
        json.dumps({"version": 1, "owner": owner, "entries": entries, **more})
    )


def test_a_machine_without_records_is_not_touched(machine, tmp_path):
    """Someone else's kubelet directory stays when freehold was never here."""
    for name in ("node_trees", "control_trees", "shared_trees"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "theirs").write_text("x")
    assert leave(lambda event: None, machine).changes == ()
    assert machine.run.calls == [] or all("link del" not in call for call in machine.run.calls)
    assert (tmp_path / "node_trees" / "theirs").exists()


def test_everything_recorded_goes_and_the_second_time_nothing(machine, tmp_path):
    """Units, files, directories with contents and state go; what was there before is back; then all is quiet."""
    made = tmp_path / "etc-containerd"
    made.mkdir()
    (made / "left-behind").write_text("x")
    (tmp_path / "hosts").write_text("ours")
    (tmp_path / "node_trees").mkdir()
    (tmp_path / "opt").mkdir()
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/overcommit_memory").write_text("1\n")
    (tmp_path / "units" / "kubelet.service").write_text("x")
    before = {"content": "dGhlaXJz", "mode": 0o640, "owner": "root", "group": "root"}
    a_record(
        tmp_path,
        [
            ("directory:" + str(made), {"created": True, "keep": False}),
            ("file:" + str(tmp_path / "hosts"), before),
            ("file:" + str(tmp_path / "units" / "kubelet.service"), {"created": True}),
            ("unit:kubelet.service", {"created": True}),
        ],
        sysctls={"vm.overcommit_memory": "0"},
    )
    machine.run.answers["systemctl show"] = show(("kubelet.service", "loaded", "active"))
    machine.systemd.show = lambda names: {
        name: {"LoadState": "loaded" if name == "kubelet.service" else "not-found"} for name in names
    }
    if os.geteuid() != 0:
        pytest.skip("gives a file back to root")
    events = []
    summary = leave(events.append, machine)
    assert "unit:kubelet.service" in {change.key for change in summary.changes}
    assert (tmp_path / "hosts").read_text() == "theirs"
    assert (tmp_path / "proc/sys/vm/overcommit_memory").read_text().startswith("0")
    gone = ("etc-containerd", "node_trees", "opt", "state", "units/kubelet.service")
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert any(call.startswith("systemctl daemon-reload") for call in machine.run.calls)
    machine.run.calls.clear()
    assert leave(events.append, machine).changes == ()
    assert machine.run.calls == []


def test_what_two_owners_made_at_once_was_there_before_neither(machine, tmp_path):
    """Control plane and node begin together: what one found may be the other's work, and goes all the same."""
    made, theirs = tmp_path / "made", tmp_path / "theirs"
    made.mkdir()
    theirs.mkdir()
    found = {"mode": 0o755, "owner": "root", "group": "root", "keep": False}
    created = {"created": True, "keep": False}
    for owner, first in (("node", created), ("control", found)):
        keys = [("directory:" + str(made), first), ("directory:" + str(theirs), found)]
        a_record(tmp_path, keys, owner=owner)
    machine.systemd.show = lambda names: {name: {"LoadState": "not-found"} for name in names}
    leave(lambda _event: None, machine)
    assert not made.exists()
    assert theirs.exists()


def test_records_survive_a_failure(machine, tmp_path):
    """When a step fails, the records are still there for the next try."""
    (tmp_path / "node_trees").mkdir()
    a_record(tmp_path, [("module:overlay", {"created": True})])
    machine.systemd.show = lambda names: {name: {"LoadState": "not-found"} for name in names}
    machine.run.answers["nft list"] = ProgramFailed(["nft"], 1, "it broke")
    events = []
    with pytest.raises(StepFailed, match="it broke"):
        leave(events.append, machine)
    assert events[-1]["state"] == "failed"
    assert (tmp_path / "state" / "records" / "node.json").exists()
    machine.run.answers.clear()
    leave(events.append, machine)
    assert not (tmp_path / "state").exists()
