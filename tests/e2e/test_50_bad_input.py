"""Bad input: one clear message each, the documented exit code, and nothing changed on any machine."""

import contextlib
import json
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.damaged_store import copied_store, flip_a_byte
from tests.support.kubectl import Answer, wait_for
from tests.support.lab import Lab
from tests.support.program import Freehold
from tests.support.refusal import SECONDS, Inventories, Untouched, check_refused

LISTENER = (
    "import socket, sys, time; s = socket.create_server(('0.0.0.0', int(sys.argv[1]))); time.sleep(600)"
)
Apply = Callable[..., Answer]


@pytest.fixture(scope="module")
def base(spare_lab: Lab) -> dict[str, Any]:
    """A good inventory of machines with nothing on them."""
    return {**spare_lab.inventory(), "name": "refused"}


@pytest.fixture(scope="module")
def freehold(spare_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Freehold:
    """The command, for these machines."""
    return Freehold(spare_lab.inventory_path, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def an_inventory(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Inventories:
    """Makes inventories with something wrong."""
    return Inventories(base, tmp_path_factory.mktemp("inventories"))


@pytest.fixture(scope="module")
def untouched(spare_lab: Lab) -> Untouched:
    """Asserts that nothing changes on the machines."""
    return Untouched(spare_lab, spare_lab.machines)


@pytest.fixture
def apply(freehold: Freehold, tmp_path: Path) -> Apply:
    """`freehold apply --yes` with a state directory of this test; it must not take long."""

    def run(inventory: Path, *more: str, **environment: str) -> Answer:
        began = time.monotonic()
        answer = freehold(
            "apply",
            "--yes",
            *more,
            inventory=inventory,
            environment={"XDG_STATE_HOME": str(tmp_path / "state"), **environment},
        )
        assert time.monotonic() - began < SECONDS, str(answer)
        return answer

    return run


def on(lab: Lab, machine: str, script: str) -> str:
    """Run a script on a machine past SSH; return what it said."""
    return lab.exec(machine, "bash", "-euc", script).stdout


@contextlib.contextmanager
def hidden(lab: Lab, machine: str, program: str) -> Iterator[None]:
    """Make a program not executable without touching its file."""
    path = on(lab, machine, f"readlink -f $(command -v {program})").strip()
    on(lab, machine, f"mount --bind /dev/null {path}")
    try:
        yield
    finally:
        on(lab, machine, f"umount {path}")


# --- the command line and the inventory ---------------------------------------------------------------------


def test_unknown_key(an_inventory: Inventories, apply: Apply) -> None:
    """A key that does not exist is named with file, line, column and the nearest that does."""
    inventory = an_inventory({"config.networking.podCidrs": "10.244.0.0/16"})
    lines = inventory.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "podCidrs" in text)
    column = lines[line - 1].index("podCidrs") + 1
    check_refused(apply(inventory), 3, f"{inventory}:{line}:{column}", "podCidrs", "podCIDR")


def test_every_mistake_at_once(an_inventory: Inventories, apply: Apply) -> None:
    """All mistakes of an inventory are told in one run, each with its line, also as JSON."""
    inventory = an_inventory({"hosts.w1.rolls": ["worker"], "config.deploy.kubeproxy": {"enabled": True}})
    answer = apply(inventory, "--output", "json")
    error = json.loads(answer.stderr.splitlines()[-1])["error"]
    assert (answer.code, error["exitCode"]) == (3, 3)
    assert "rolls" in error["message"]
    assert "kubeproxy" in error["message"]
    assert answer.stdout == ""


def test_overlapping_networks(an_inventory: Inventories, apply: Apply) -> None:
    """Pods and Services cannot share addresses: both keys and both networks are named."""
    inventory = an_inventory({"config.networking.podCIDR": "10.96.0.0/16"})
    check_refused(apply(inventory), 3, str(inventory), "podCIDR", "10.96.0.0/16", "10.96.0.0/12")


def test_no_inventory(apply: Apply, tmp_path: Path) -> None:
    """A file that is not there is said to be not there."""
    check_refused(apply(tmp_path / "nowhere.yaml"), 3, "nowhere.yaml")


def test_apply_asks_where_nobody_answers(freehold: Freehold, an_inventory: Inventories) -> None:
    """Without a terminal and without --yes nothing is begun."""
    check_refused(freehold("apply", inventory=an_inventory()), 3, "no terminal", "--yes")


def test_reset_of_the_control_plane_alone(
    freehold: Freehold, an_inventory: Inventories, tmp_path: Path
) -> None:
    """The machines that would be left without a control plane are thought of."""
    answer = freehold(
        "reset", "--yes", "--machine", "cp1", inventory=an_inventory(), environment=_state(tmp_path)
    )
    check_refused(answer, 3, "cp1", "control plane")


def test_reset_of_an_unknown_machine(freehold: Freehold, an_inventory: Inventories, tmp_path: Path) -> None:
    """A name that is not in the inventory is refused, with the names that are."""
    answer = freehold(
        "reset", "--yes", "--machine", "w9", inventory=an_inventory(), environment=_state(tmp_path)
    )
    check_refused(answer, 3, "w9", "cp1, w1")


def test_unwritable_state_directory(an_inventory: Inventories, apply: Apply, tmp_path: Path) -> None:
    """Where keys cannot be kept none is made."""
    (tmp_path / "file").write_text("")
    answer = apply(an_inventory(), XDG_STATE_HOME=str(tmp_path / "file"))
    check_refused(answer, 3, str(tmp_path / "file"), "XDG_STATE_HOME")


def test_state_directory_open_to_others(an_inventory: Inventories, apply: Apply, tmp_path: Path) -> None:
    """A directory that others can read does not get private keys."""
    directory = tmp_path / "state" / "freehold" / "refused"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    check_refused(apply(an_inventory()), 3, str(directory), "chmod 700")
    assert list(directory.iterdir()) == []


# --- reaching machines --------------------------------------------------------------------------------------


def test_unreachable_machines(
    an_inventory: Inventories, apply: Apply, untouched: Untouched, base: dict[str, Any]
) -> None:
    """Each machine that does not answer is named with its address and port, and the one that does is left alone."""
    address = base["hosts"]["w1"]["address"].rpartition(".")[0] + ".250"
    with untouched():
        nobody = apply(an_inventory({"hosts.w1.address": address}))
        closed = apply(an_inventory({"hosts.w1.ssh": {"port": 2}}))
    check_refused(nobody, 5, "w1: ", address, "cannot be reached")
    check_refused(closed, 5, "w1: ", "refused", "address and port")


def test_wrong_ssh_key(an_inventory: Inventories, apply: Apply, untouched: Untouched, tmp_path: Path) -> None:
    """A key that the machine does not know, and one that does not exist, are named."""
    key = tmp_path / "another"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with untouched():
        wrong = apply(an_inventory({"hosts.w1.ssh": {"key": str(key)}}))
        none = apply(an_inventory({"hosts.w1.ssh": {"key": str(tmp_path / "none")}}))
    check_refused(wrong, 5, "w1: ", str(key), "authorized_keys")
    assert none.code in (3, 5)
    check_refused(none, none.code, "w1", str(tmp_path / "none"))


def test_changed_host_key(
    an_inventory: Inventories, apply: Apply, untouched: Untouched, base: dict[str, Any], tmp_path: Path
) -> None:
    """Another key than the pinned one stops everything, both fingerprints shown; no option overrides it."""
    other = base["hosts"]["cp1"]["hostKey"]
    real = base["hosts"]["w1"]["hostKey"]
    with untouched():
        answer = apply(an_inventory({"hosts.w1.hostKey": other}), "--accept-new-host-keys")
        known_hosts = tmp_path / "state" / "freehold" / "refused" / "known_hosts"
        known_hosts.write_text(known_hosts.read_text().replace(real, other))
        pinned = apply(an_inventory(without=["hosts.w1.hostKey"]), "--accept-new-host-keys")
    for said in (answer, pinned):
        message = check_refused(said, 5, "w1: ", "has changed", _fingerprint(other), _fingerprint(real))
    assert f"-f {known_hosts}" in message, "how to forget the old one"


def test_unknown_host_key(
    freehold: Freehold,
    an_inventory: Inventories,
    apply: Apply,
    untouched: Untouched,
    base: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Without a terminal a new key is never believed; --yes is no help, --accept-new-host-keys is."""
    inventory = an_inventory(without=["hosts.w1.hostKey"])
    with untouched():
        answer = apply(inventory)
        accepted = freehold(
            "plan", "--accept-new-host-keys", inventory=inventory, environment=_state(tmp_path)
        )
    message = check_refused(answer, 5, "w1", "--accept-new-host-keys", "hostKey: ssh-")
    assert accepted.code == 2, str(accepted)
    key = base["hosts"]["w1"]["hostKey"]
    assert _fingerprint(key) in message
    assert key in (tmp_path / "state/freehold/refused/known_hosts").read_text()


def test_no_sudo(spare_lab: Lab, an_inventory: Inventories, apply: Apply, untouched: Untouched) -> None:
    """A user who cannot become root is named, with the line that would allow it."""
    script = """
        id vagrant || useradd --create-home --shell /bin/bash vagrant; usermod --password '*' vagrant
        install -d -m 700 -o vagrant ~vagrant/.ssh
        install -m 600 -o vagrant ~freehold/.ssh/authorized_keys ~vagrant/.ssh/authorized_keys
    """
    on(spare_lab, "w1", script)
    with untouched(prepared=True):
        answer = apply(an_inventory({"hosts.w1.ssh": {"user": "vagrant"}}))
    check_refused(answer, 5, "w1: vagrant cannot become root with sudo", "NOPASSWD")


# --- machines that cannot work ------------------------------------------------------------------------------


def test_full_disk(spare_lab: Lab, an_inventory: Inventories, apply: Apply, untouched: Untouched) -> None:
    """Too little room is found before anything is sent."""
    on(spare_lab, "w1", "mount -t tmpfs -o size=64m none /opt")
    try:
        with untouched(prepared=True):
            answer = apply(an_inventory())
    finally:
        on(spare_lab, "w1", "umount /opt")
    check_refused(answer, 4, "w1: ", "MiB free under /opt")


def test_ports_in_use(spare_lab: Lab, an_inventory: Inventories, apply: Apply, untouched: Untouched) -> None:
    """Ports that freehold needs are named with who needs them and who has them, on all machines in one message."""
    taken = {"cp1": 6443, "w1": 10250}
    for machine, port in taken.items():
        on(
            spare_lab,
            machine,
            f"systemd-run --quiet --unit=squatter python3 -c {shlex.quote(LISTENER)} {port}",
        )
        wait_for(lambda m=machine, p=port: f":{p} " in on(spare_lab, m, "ss -Htln"), 60, "a listener")
    try:
        with untouched(prepared=True):
            answer = apply(an_inventory())
    finally:
        for machine in taken:
            on(spare_lab, machine, "systemctl stop squatter")
    check_refused(
        answer, 4, "cp1: tcp port 6443, which kube-apiserver needs", "w1: tcp port 10250", "in use by python3"
    )


def test_kubernetes_of_someone_else(
    spare_lab: Lab, an_inventory: Inventories, apply: Apply, untouched: Untouched
) -> None:
    """A kubelet that freehold did not make is found, installed or running, and left alone."""
    unit = "/etc/systemd/system/kubelet.service"
    on(spare_lab, "w1", f"printf '[Service]\\nExecStart=/usr/bin/kubelet\\n' >{unit}")
    try:
        with untouched(prepared=True):
            answer = apply(an_inventory())
    finally:
        on(spare_lab, "w1", f"rm {unit}")
    check_refused(answer, 4, "w1: ", unit, "freehold did not make", "remove it first")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("python3", ("there is no python3", "apt-get install python3")),
        ("nft", ("nft", "apt-get install nftables")),
    ],
    ids=["python3", "nft"],
)
def test_missing_program(
    program: str,
    words: tuple[str, ...],
    spare_lab: Lab,
    an_inventory: Inventories,
    apply: Apply,
    untouched: Untouched,
) -> None:
    """What the distribution must bring is said with the command that installs it."""
    with untouched(), hidden(spare_lab, "w1", program):
        answer = apply(an_inventory())
    check_refused(answer, 4, "w1: ", *words)


def test_wrong_internal_address(
    an_inventory: Inventories, apply: Apply, untouched: Untouched, base: dict[str, Any], tmp_path: Path
) -> None:
    """An address that the machine does not have is refused, with those that it has; no key was made for it."""
    with untouched():
        answer = apply(an_inventory({"hosts.w1.internalAddress": "192.0.2.7"}))
    check_refused(answer, 4, "w1: internalAddress 192.0.2.7", base["hosts"]["w1"]["address"])
    state = tmp_path / "state" / "freehold" / "refused"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert list(state.rglob("*.key")) == []


def test_network_that_is_in_use(
    spare_lab: Lab, an_inventory: Inventories, apply: Apply, untouched: Untouched
) -> None:
    """A pod network over one of a machine's own routes is refused, with route and interface."""
    on(spare_lab, "w1", "ip route add 172.31.5.0/24 dev eth0")
    try:
        with untouched(prepared=True):
            answer = apply(an_inventory({"config.networking.podCIDR": "172.31.0.0/16"}))
    finally:
        on(spare_lab, "w1", "ip route del 172.31.5.0/24")
    check_refused(answer, 4, "w1: networking.podCIDR 172.31.0.0/16 overlaps", "172.31.5.0/24 over eth0")
    assert "cp1: " not in answer.stderr


# --- the bundle ---------------------------------------------------------------------------------------------


def test_missing_bundle(
    an_inventory: Inventories, apply: Apply, untouched: Untouched, tmp_path: Path
) -> None:
    """Without a built bundle the command that builds it is named."""
    with untouched():
        answer = apply(an_inventory(), FREEHOLD_CACHE=str(tmp_path / "empty"))
    check_refused(answer, 3, "no bundle of 1.37.2", "freehold bundle build --release 1.37.2")


def test_damaged_bundle(
    an_inventory: Inventories, apply: Apply, untouched: Untouched, tmp_path: Path
) -> None:
    """One flipped byte in the store is found before anything is sent, and the file named."""
    cache = tmp_path / "cache"
    flip_a_byte(copied_store(cache), "bin/etcd")
    with untouched():
        answer = apply(an_inventory(), FREEHOLD_CACHE=str(cache))
    check_refused(answer, 3, "damaged: bin/etcd", "freehold bundle build")


def _state(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def _fingerprint(key: str) -> str:
    said = subprocess.run(["ssh-keygen", "-lf", "-"], input=key, capture_output=True, text=True, check=True)
    return said.stdout.split()[1]
