"""The machines as an administrator finds them over SSH, asserted with testinfra: units, users, ports, files."""

from collections.abc import Callable

import pytest
import testinfra
from testinfra.host import Host
from tests.support.cluster import Cluster
from tests.support.lab import Lab

from freehold_agent.contract import paths

Machine = Callable[[str], Host]


@pytest.fixture(scope="module")
def machine(lab: Lab, cluster: Cluster) -> Machine:
    """A machine by name, over SSH with the host key that the inventory pins."""
    known = cluster.state / "known_hosts"
    options = (
        f"-i {lab.key_path} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o LogLevel=ERROR"
    )

    def connect(name: str) -> Host:
        return testinfra.get_host(
            f"ssh://freehold@{lab.machines[name].address}", ssh_extra_args=options, sudo=True
        )

    return connect


@pytest.mark.parametrize("unit", ["containerd", "kubelet", "kube-proxy", "flannel", "freehold-agent"])
def test_a_nodes_units_run_and_start_at_boot(machine: Machine, unit: str) -> None:
    """What makes a machine a node is a unit, running and enabled."""
    service = machine("w1").service(unit)
    assert service.is_running
    assert service.is_enabled


def test_keys_are_readable_by_their_user_only(machine: Machine) -> None:
    """The keys that kubeadm's users look for are where they expect them, mode 0600."""
    host = machine("cp1")
    for path, user in {
        f"{paths.PKI}/ca.key": "root",
        f"{paths.PKI}/sa.key": "root",
        f"{paths.PKI}/etcd/server.key": "etcd",
    }.items():
        file = host.file(path)
        assert (file.user, file.mode) == (user, 0o600), path


def test_workers_hold_no_authority(machine: Machine) -> None:
    """No signing key and no administrator's kubeconfig lies on a worker."""
    host = machine("w1")
    for path in (f"{paths.PKI}/ca.key", f"{paths.PKI}/sa.key", f"{paths.KUBERNETES}/admin.conf"):
        assert not host.file(path).exists, path


def test_ports_are_those_of_the_reference(machine: Machine) -> None:
    """The control plane listens on its own address; health ports of controllers stay on loopback."""
    host = machine("cp1")
    listening = host.socket.get_listening_sockets()
    assert any(entry.endswith(":6443") for entry in listening)
    for port in (10257, 10259, 2381):
        assert [entry for entry in listening if entry.endswith(f":{port}")] == [f"tcp://127.0.0.1:{port}"]


def test_users_of_services_cannot_log_in(machine: Machine) -> None:
    """The users we make have no shell and no password."""
    host = machine("cp1")
    for name in ("etcd", "coredns", "freehold-join", "freehold-artifacts", "freehold-controller"):
        user = host.user(name)
        assert user.shell.endswith(("nologin", "false")), name
        assert user.password in ("!", "!*", "*", "x"), name
