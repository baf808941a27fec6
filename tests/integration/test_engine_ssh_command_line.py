"""The command line against machines that it reaches through a real SSH server on loopback."""

import shutil
import subprocess
import sys

from tests.support.ssh_on_loopback import SshServer, environment


def freehold(server, *arguments, inventory=None, **hosts):
    """Run the command line against an inventory of loopback machines; return exit code, stdout, stderr."""
    hosts = hosts or {"cp1": "127.0.0.1"}
    lines = [
        "name: t",
        "ssh:",
        "  user: root",
        f"  port: {server.port}",
        f"  key: {server.directory}/id",
        "hosts:",
    ]
    for number, (name, address) in enumerate(hosts.items(), 1):
        role = "control-plane" if name == next(iter(hosts)) else "worker"
        lines += [f"  {name}:", f"    address: {address}", f"    roles: [{role}]"]
        lines += [f"    internalAddress: 192.168.77.{number}"]
    path = server.directory / "freehold.yaml"
    path.write_text(inventory or "\n".join(lines) + "\n")
    return subprocess.run(
        [sys.executable, "-m", "freehold_installer", *arguments, "-i", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(XDG_STATE_HOME=str(server.directory / "state")),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_unknown_host_keys_stop_a_run_before_any_login(server: SshServer) -> None:
    """Without a terminal and without the option: exit code 5, fingerprints, nothing pinned."""
    done = freehold(server, "status")
    assert done.returncode == 5, done.stderr
    assert "SHA256:" in done.stderr
    assert "--accept-new-host-keys" in done.stderr
    assert not (server.directory / "state/freehold/t/known_hosts").exists()
    assert "Accepted" not in (server.directory / "log").read_text()


def test_a_changed_host_key_is_an_error_with_both_fingerprints(server: SshServer) -> None:
    """A pinned machine that shows another key is refused, whatever options are given."""
    server.run("""machine(); print("1")""")
    state = server.directory / "state/freehold/t"
    state.mkdir(parents=True, mode=0o700)
    shutil.copy(server.directory / "known", state / "known_hosts")
    server.change_key()
    done = freehold(server, "status", "--accept-new-host-keys")
    assert done.returncode == 5, done.stderr
    assert "the host key of root@127.0.0.1" in done.stderr
    assert done.stderr.count("SHA256:") == 2
    assert "Traceback" not in done.stderr


def test_every_unreachable_machine_is_named(server: SshServer) -> None:
    """Two machines fail for different reasons; both are in the one message."""
    (server.directory / "authorized").write_text("")
    done = freehold(server, "status", "--accept-new-host-keys", cp1="127.0.0.1", w1="127.0.0.2")
    assert done.returncode == 5, done.stderr
    assert f"cp1: root@127.0.0.1:{server.port} does not accept the key" in done.stderr
    assert f"w1: root@127.0.0.2:{server.port} does not accept the key" in done.stderr
    gone = freehold(server, "status", "--accept-new-host-keys", cp1="127.0.0.1", w1="127.0.0.3")
    assert gone.returncode == 5, gone.stderr
    assert f"w1: root@127.0.0.3:{server.port} cannot be reached: connection refused" in gone.stderr
