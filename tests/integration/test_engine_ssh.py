"""The engine against a real SSH server on loopback, each test in a process of its own that gevent may patch.

The server runs in a mount namespace with a private /opt (the store) and a user without sudo, so nothing of this
machine is touched.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

PRELUDE = """
import gevent.monkey
gevent.monkey.patch_all()
import hashlib, json, pathlib, sys, time
import gevent
from freehold_installer.engine.adapter import Fleet
from freehold_installer.engine.endpoint import Endpoint
from freehold_installer.engine.host_keys import KnownHosts, settle
from freehold_installer.engine.machine import Machine
from freehold_installer.errors import FreeholdError
directory, port, user = pathlib.Path(sys.argv[1]), int(sys.argv[2]), "root"
known = KnownHosts(directory / "known")
fleet = Fleet(known)

def machine(name="cp1", address="127.0.0.1", user="root"):
    endpoint = Endpoint(name, address, port, user, str(directory / "id"))
    settle([endpoint], known, scan=fleet.scan, accept_new=True)
    opened = Machine(None, endpoint, fleet.connect([endpoint])[name], known.path)
    opened.probe()
    return opened

def failure(work):
    try:
        work()
    except FreeholdError as error:
        return {"exit": error.exit_code, "message": error.message, "hint": error.hint}
    return None
"""
PASSWD = "freehold-plain:x:54321:54321::/tmp:/bin/sh\n"
SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the test server needs root for its mount namespace"),
]


@pytest.fixture
def server(tmp_path):
    """An SSH server on two loopback addresses: directory, port and a function that replaces its host key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
    subprocess.run([*keygen, tmp_path / "id"], check=True)
    subprocess.run([*keygen, tmp_path / "host"], check=True)
    (tmp_path / "passwd").write_text(Path("/etc/passwd").read_text() + PASSWD)
    (tmp_path / "authorized").write_bytes((tmp_path / "id.pub").read_bytes())
    (tmp_path / "authorized").chmod(0o644)
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    (tmp_path / "conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey {tmp_path}/host\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"PermitRootLogin yes\nPidFile none\n"
    )
    os.makedirs("/run/sshd", exist_ok=True)
    started = []

    def start():
        mount = f"mount -t tmpfs tmpfs /opt && mount --bind {tmp_path}/passwd /etc/passwd && "
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{mount}exec {SSHD} -D -f {tmp_path}/conf -E {tmp_path}/log",
        ]
        started.append(subprocess.Popen(command))
        _wait_for_port(port, started[-1])

    def stop():
        process = started.pop()
        process.terminate()
        process.wait(10)

    def change_key():
        stop()
        (tmp_path / "host").unlink()
        (tmp_path / "host.pub").unlink()
        subprocess.run([*keygen, tmp_path / "host"], check=True)
        start()

    start()
    yield SimpleNamespace(directory=tmp_path, port=port, change_key=change_key)
    stop()


def _wait_for_port(port, process):
    for _ in range(1500):
        assert process.poll() is None, "sshd ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("sshd does not listen")


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **more}


def run(server, code):
    """Run code after the prelude; return what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(server.directory), str(server.port)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_commands_pass_bytes_and_exit_codes(server):
    """Standard input arrives byte for byte, output comes back the same, stderr and exit code beside it."""
    got = run(
        server,
        """
        m = machine()
        data = bytes(range(256)) * 4000
        output = m.run(["sh", "-c", "cat; echo to stderr >&2; exit 7"], data)
        word = m.run(["printf", "%s|", "a b", "$HOME", "'", '"']).text
        print(json.dumps([output.exit, output.stdout == data, output.stderr.decode(), word]))
        """,
    )
    assert got == [7, True, "to stderr\n", "a b|$HOME|'|\"|"]


def test_a_command_that_takes_too_long_is_an_error(server):
    """The time limit ends the wait with a message that says so."""
    got = run(
        server, """print(json.dumps(failure(lambda m=machine(): m.run(["sleep", "60"], timeout=0.5))))"""
    )
    assert got["message"] == "cp1: sleep 60 failed: no end within 0.5 s"


def test_commands_on_several_machines_overlap(server):
    """Two commands that wait for each other both come to their end: one after the other, neither would."""
    for name in ("here", "there"):
        os.mkfifo(server.directory / name)
    got = run(
        server,
        """
        machines = [machine("a", "127.0.0.1"), machine("b", "127.0.0.2")]
        # Opening a pipe to read waits for who writes, and the other way round.
        scripts = ["echo from a > here; cat there", "cat here; echo from b > there"]
        def meet(one, script):
            return one.run(["sh", "-c", f"cd {directory}; {script}"]).text
        meeting = [gevent.spawn(meet, *pair) for pair in zip(machines, scripts)]
        gevent.joinall(meeting, raise_error=True)
        print(json.dumps([one.value for one in meeting]))
        """,
    )
    assert got == ["from b", "from a"]


def test_small_packets_are_sent_at_once(server):
    """A command waits for no timer of TCP: every connection has TCP_NODELAY."""
    got = run(
        server,
        """
        import socket
        endpoint = machine().endpoint
        (client,) = fleet.connect([endpoint]).values()
        print(json.dumps(client.get_transport().sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        """,
    )
    assert got != 0


def test_the_agent_runs_from_memory(server):
    """`facts` come back as a value, an unknown verb as an input error with the agent's words."""
    got = run(
        server,
        """
        m = machine()
        facts = m.program({"verb": "facts"})
        print(json.dumps([facts["cpus"], failure(lambda: m.program({"verb": "nonsense"}))]))
        """,
    )
    assert got[0] == os.cpu_count()
    assert got[1]["exit"] == 3
    assert got[1]["message"].startswith("cp1: unknown verb 'nonsense'")


@pytest.mark.parametrize("size", [100_000, 30_000_000])
def test_files_stream_into_the_store_once(server, size):
    """Small files go over a channel and large ones over `ssh`; what is there is not sent again; digests hold."""
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    (server.directory / "blob").write_bytes(content)
    small = hashlib.sha256(b"small").hexdigest()
    (server.directory / "small").write_bytes(b"small")
    got = run(
        server,
        f"""
        m = machine()
        files = [(directory / "blob", "{digest}", {size}), (directory / "small", "{small}", 5)]
        seen = []
        first = m.stream(files, lambda done, total: seen.append((done, total)))
        second = m.stream(files)
        there = m.run(["sha256sum", "/opt/freehold/store/sha256/{digest}"]).text.split()[0]
        print(json.dumps([first, second, there, seen[-1], failure(lambda: m.stream(
            [(directory / "small", "{"0" * 64}", 5)]))]))
        """,
    )
    assert got[:4] == [size + 5, 0, digest, [size + 5, size + 5]]
    assert "expected sha256 0000" in got[4]["message"]


def test_a_connection_lost_under_a_stream(server):
    """When all connections die while a large file is sent, that is what the step says."""
    size = 64 << 20
    (server.directory / "blob").write_bytes(os.urandom(size))
    got = run(
        server,
        f"""
        m = machine()
        def kill_all(sent, total):
            if sent > 8 << 20 and m.connected:
                failure(lambda: m.run(["sh", "-c", "pkill -KILL --parent $(ps -o ppid= -p $PPID)"]))
        def stream():
            m.stream([(directory / "blob", "{"0" * 64}", {size})], kill_all)
        print(json.dumps(failure(stream)))
        """,
    )
    assert got["message"].startswith("cp1: receiving files failed: the connection was lost")


def test_sockets_reach_what_only_the_machine_reaches(server):
    """A socket through the connection carries a conversation; a closed port is refused."""
    got = run(
        server,
        """
        m = machine()
        near = m.api_socket("127.0.0.1", port)
        near.settimeout(10)
        banner = near.recv(4).decode()
        near.close()
        try:
            m.api_socket("127.0.0.1", 1)
        except ConnectionRefusedError as error:
            print(json.dumps([banner, "refused"]))
        """,
    )
    assert got == ["SSH-", "refused"]


def test_a_user_without_sudo_is_told_so(server):
    """Login works, becoming root does not: exit code 5 and the line that allows it."""
    got = run(server, """print(json.dumps(failure(lambda: machine(user="freehold-plain"))))""")
    assert got["exit"] == 5
    assert "freehold-plain cannot become root with sudo" in got["message"]
    assert "NOPASSWD" in got["hint"]


def test_a_lost_connection_ends_the_step(server):
    """When the machine goes away in the middle, the step fails instead of hanging."""
    got = run(
        server,
        """
        m = machine()
        def kill():
            m.run(["sh", "-c", "kill -9 $PPID; sleep 5"])
        print(json.dumps(failure(kill)))
        """,
    )
    assert "the connection was lost" in got["message"]


# --- the whole command line -----------------------------------------------------------------------------------


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


def test_unknown_host_keys_stop_a_run_before_any_login(server):
    """Without a terminal and without the option: exit code 5, fingerprints, nothing pinned."""
    done = freehold(server, "status")
    assert done.returncode == 5, done.stderr
    assert "SHA256:" in done.stderr
    assert "--accept-new-host-keys" in done.stderr
    assert not (server.directory / "state/freehold/t/known_hosts").exists()
    assert "Accepted" not in (server.directory / "log").read_text()


def test_a_changed_host_key_is_an_error_with_both_fingerprints(server):
    """A pinned machine that shows another key is refused, whatever options are given."""
    run(server, """machine(); print("1")""")
    state = server.directory / "state/freehold/t"
    state.mkdir(parents=True, mode=0o700)
    shutil.copy(server.directory / "known", state / "known_hosts")
    server.change_key()
    done = freehold(server, "status", "--accept-new-host-keys")
    assert done.returncode == 5, done.stderr
    assert "the host key of root@127.0.0.1" in done.stderr
    assert done.stderr.count("SHA256:") == 2
    assert "Traceback" not in done.stderr


def test_every_unreachable_machine_is_named(server):
    """Two machines fail for different reasons; both are in the one message."""
    (server.directory / "authorized").write_text("")
    done = freehold(server, "status", "--accept-new-host-keys", cp1="127.0.0.1", w1="127.0.0.2")
    assert done.returncode == 5, done.stderr
    assert f"cp1: root@127.0.0.1:{server.port} does not accept the key" in done.stderr
    assert f"w1: root@127.0.0.2:{server.port} does not accept the key" in done.stderr
    gone = freehold(server, "status", "--accept-new-host-keys", cp1="127.0.0.1", w1="127.0.0.3")
    assert gone.returncode == 5, gone.stderr
    assert f"w1: root@127.0.0.3:{server.port} cannot be reached: connection refused" in gone.stderr


def test_a_connection_lost_while_logging_in(server):
    """A server that dies before it has said yes or no to our key has not refused it."""
    (server.directory / "authorized").write_text("")
    with (server.directory / "conf").open("a") as conf:
        conf.write('AuthorizedKeysCommandUser root\nAuthorizedKeysCommand /bin/sh -c "kill -9 $PPID"\n')
    server.change_key()
    got = run(server, """print(json.dumps(failure(machine)))""")
    assert got["exit"] == 5
    assert "the login broke off" in got["message"]


def test_an_interrupted_run_ends_with_130_at_once(server):
    """Ctrl-C while a remote command runs: exit code 130, and the remote side ends too."""
    code = PRELUDE + textwrap.dedent(
        """
        from freehold_installer.engine.interrupts import interrupts_reach_us
        from freehold_installer.engine.lanes import Lane, Phase, run_phases
        from types import SimpleNamespace
        interrupts_reach_us()
        m = machine()
        def phase(lane):
            print("up", flush=True)
            m.run(["sh", "-c", "echo $$ > /opt/pid; exec sleep 300"], timeout=300)
        lane = Lane("cp1", SimpleNamespace(name="cp1"), m, None)
        try:
            run_phases([Phase("a", "A", phase)], [lane], lambda event: None)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(server.directory), str(server.port)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    process.stdout.close()
