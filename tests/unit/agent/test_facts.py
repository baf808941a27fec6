"""What is read from a machine, and how."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from freehold_agent import facts
from freehold_agent.foreign import find_foreign
from freehold_agent.sockets import listening_sockets, parse_table


def write(root: Path, name: str, text: str = "") -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_facts_are_json_and_quick() -> None:
    """All facts of this machine are plain JSON values, and reading them takes no noticeable time."""
    begun = time.monotonic()
    found = facts.gather()
    assert time.monotonic() - begun < 5
    assert json.loads(json.dumps(found)) == found
    assert {"cgroup_version", "cap_sys_resource", "swap", "conntrack_writable", "default_route"} <= set(found)
    assert {"interfaces", "routes", "listening", "disk", "tools", "foreign", "resolv_conf"} <= set(found)


def test_two_looks_give_the_same_facts() -> None:
    """What desired state depends on does not flap from one look to the next."""
    first, second = facts.gather(), facts.gather()
    for name in ("cgroup_version", "cap_sys_resource", "nofile", "modules", "memory", "cpus", "resolv_conf"):
        assert first[name] == second[name]


class TestResolvers:
    def test_the_stub_is_passed_by(self, tmp_path: Path) -> None:
        """Pods get systemd-resolved's upstream list: its stub answers only on the machine's own loopback."""
        write(tmp_path, "/etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n")
        write(tmp_path, "/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n")
        assert facts.resolv_conf(str(tmp_path)) == "/run/systemd/resolve/resolv.conf"

    def test_real_servers_are_kept(self, tmp_path: Path) -> None:
        """Where /etc/resolv.conf names real servers it is used, also with resolved running."""
        write(tmp_path, "/etc/resolv.conf", "nameserver 192.0.2.9\n")
        write(tmp_path, "/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n")
        assert facts.resolv_conf(str(tmp_path)) == "/etc/resolv.conf"

    def test_no_file(self, tmp_path: Path) -> None:
        """A machine without any resolver configuration is no error here."""
        assert facts.resolv_conf(str(tmp_path)) == "/etc/resolv.conf"


def test_os_release() -> None:
    """Quotes are taken off, absent fields are empty."""
    text = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
    assert facts.parse_os_release(text) == {
        "id": "rocky",
        "id_like": "rhel centos fedora",
        "version_id": "9.4",
        "pretty_name": "",
    }


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nftables v1.0.9 (Old Doc Yak #3)\n", "1.0.9"),
        ("nftables v1.1.3 (Commodore Bullmoose #4)\n", "1.1.3"),
        ("iptables v1.8.10 (nf_tables)\n", "1.8.10"),
        ("", None),
    ],
)
def test_versions_of_tools(said: str, version: "str | None") -> None:
    """The number, whatever stands around it; nothing where the tool is not."""
    assert facts.parse_version(said) == version


def test_links_in_the_place_of_our_directories(tmp_path: Path) -> None:
    """Each is told with the place that it leads to; a directory is none."""
    write(tmp_path, "/data/kubelet/file", "")
    write(tmp_path, "/var/lib/containerd/file", "")
    (tmp_path / "var/lib/kubelet").symlink_to("../../data/kubelet")
    assert facts.linked(str(tmp_path)) == {"/var/lib/kubelet": str(tmp_path / "data/kubelet")}


@pytest.mark.parametrize(
    "path",
    [
        "/usr/share/selinux/packages/container.pp.bz2",
        "/var/lib/selinux/targeted/active/modules/200/container/cil",
    ],
)
def test_a_policy_that_knows_containers_is_found(tmp_path: Path, path: str) -> None:
    """By the file of the package container-selinux, or by the module that is loaded."""
    assert not facts.knows_containers(str(tmp_path))
    write(tmp_path, path, "")
    assert facts.knows_containers(str(tmp_path))


def test_addresses() -> None:
    """Interfaces come with MTU and addresses with prefix; link-local addresses are no addresses of a node."""
    text = json.dumps(
        [
            {
                "ifname": "eth0",
                "mtu": 1400,
                "addr_info": [
                    {"local": "10.0.0.2", "prefixlen": 24, "scope": "global"},
                    {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
                ],
            },
            {},
        ]
    )
    assert facts.parse_addresses(text) == [{"name": "eth0", "mtu": 1400, "addresses": ["10.0.0.2/24"]}]
    assert facts.parse_addresses("") == []


def test_routes() -> None:
    """Routes come as CIDRs with the number of who made them; unreachable ones are no routes."""
    text = json.dumps(
        [
            {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0", "protocol": "3"},
            {"dst": "169.254.1.1", "dev": "eth0", "protocol": "70"},
            {"type": "unreachable", "dst": "10.9.0.0/16", "dev": "lo"},
        ]
    )
    found = facts.parse_routes(text, "0.0.0.0/0")
    assert [(route["destination"], route["protocol"], route["via"]) for route in found] == [
        ("0.0.0.0/0", 3, "10.0.0.1"),
        ("169.254.1.1/32", 70, None),
    ]


def test_a_listening_port_is_named() -> None:
    """A port in use comes with its address and the process that holds it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        entry = next(entry for entry in listening_sockets() if entry["port"] == port)
    assert entry["protocol"] == "tcp"
    assert entry["address"] == "127.0.0.1"
    assert entry["process"] == Path(f"/proc/{os.getpid()}/comm").read_text().strip()


def test_only_listening_rows() -> None:
    """Established connections are not taken for listeners."""
    rows = [
        "   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n",
        "   1: 0100007F:0CEA 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n",
    ]
    assert parse_table(rows, "0A") == [("127.0.0.1", 3306, "111")]


class TestForeign:
    def test_an_empty_machine(self, tmp_path: Path) -> None:
        """A machine with only its distribution holds nothing foreign."""
        assert find_foreign(str(tmp_path)) == []

    def test_anothers_units_and_files(self, tmp_path: Path) -> None:
        """Units, processes and files of another Kubernetes are named with their place."""
        write(tmp_path, "/usr/lib/systemd/system/k3s.service", "[Unit]\n")
        write(tmp_path, "/etc/kubernetes/admin.conf", "x")
        write(tmp_path, "/proc/77/comm", "kubelet\n")
        (tmp_path / "proc/77/exe").symlink_to("/usr/bin/kubelet")
        assert find_foreign(str(tmp_path)) == [
            "unit k3s.service (/usr/lib/systemd/system/k3s.service)",
            "process kubelet (77)",
            "file /etc/kubernetes/admin.conf",
        ]

    def test_our_own_is_not_foreign(self, tmp_path: Path) -> None:
        """What freehold made is recognised: by the mark in units, the place of programs, and its record."""
        write(
            tmp_path, "/etc/systemd/system/kubelet.service", "# Written by freehold; changes are put back.\n"
        )
        write(tmp_path, "/usr/lib/systemd/system/kubelet.service", "[Unit]\n")
        write(tmp_path, "/etc/kubernetes/kubelet.conf", "x")
        write(tmp_path, "/var/lib/freehold/records/node.json", "{}")
        write(tmp_path, "/proc/78/comm", "etcd\n")
        (tmp_path / "proc/78/exe").symlink_to("/opt/freehold/store/sha256/abc")
        assert find_foreign(str(tmp_path)) == []

    def test_a_pods_etcd_is_no_second_cluster(self, tmp_path: Path) -> None:
        """A process in a PID namespace of its own runs in a container."""
        write(tmp_path, "/proc/79/comm", "etcd\n")
        write(tmp_path, "/proc/79/status", "Name:\tetcd\nNSpid:\t79\t1\n")
        (tmp_path / "proc/79/exe").symlink_to("/usr/local/bin/etcd")
        assert find_foreign(str(tmp_path)) == []


def test_firewalld_is_asked_only_before_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that looks every minute does not start another Python each time."""
    asked: list[str] = []

    def output(command: list[str]) -> str:
        asked.append(command[0])
        return "public (active)\n  target: default\n  ports: 22/tcp\n"

    monkeypatch.setattr(facts, "_output", output)
    monkeypatch.setattr(facts.paths, "CURRENT", str(tmp_path / "current"))
    assert facts._firewalld() == {"public": {"default": False, "target": "default", "ports": ["22/tcp"]}}
    (tmp_path / "current").symlink_to("releases/1")
    assert facts._firewalld() == {}
    assert asked == ["firewall-cmd"]
