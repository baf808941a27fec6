"""The engine against a real SSH server on loopback, each test in a process of its own that gevent may patch."""

import hashlib
import os
import signal
import subprocess

import pytest
from tests.support.ssh_on_loopback import SshServer, environment


def test_commands_pass_bytes_and_exit_codes(server: SshServer) -> None:
    """Standard input arrives byte for byte, output comes back the same, stderr and exit code beside it."""
    got = server.run(
        """
        m = machine()
        data = bytes(range(256)) * 4000
        output = m.run(["sh", "-c", "cat; echo to stderr >&2; exit 7"], data)
        word = m.run(["printf", "%s|", "a b", "$HOME", "'", '"']).text
        print(json.dumps([output.exit, output.stdout == data, output.stderr.decode(), word]))
        """,
    )
    assert got == [7, True, "to stderr\n", "a b|$HOME|'|\"|"]


def test_a_command_that_takes_too_long_is_an_error(server: SshServer) -> None:
    """The time limit ends the wait with a message that says so."""
    got = server.run(
        """print(json.dumps(failure(lambda m=machine(): m.run(["sleep", "60"], timeout=0.5))))"""
    )
    assert got["message"] == "cp1: sleep 60 failed: no end within 0.5 s"


def test_commands_on_several_machines_overlap(server: SshServer) -> None:
    """Two commands that wait for each other both come to their end: one after the other, neither would."""
    for name in ("here", "there"):
        os.mkfifo(server.directory / name)
    got = server.run(
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


def test_small_packets_are_sent_at_once(server: SshServer) -> None:
    """A command waits for no timer of TCP: every connection has TCP_NODELAY."""
    got = server.run(
        """
        import socket
        endpoint = machine().endpoint
        (client,) = fleet.connect([endpoint]).values()
        print(json.dumps(client.get_transport().sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        """,
    )
    assert got != 0


def test_the_agent_runs_from_memory(server: SshServer) -> None:
    """`facts` come back as a value, an unknown verb as an input error with the agent's words."""
    got = server.run(
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
    got = server.run(
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


def test_a_connection_lost_under_a_stream(server: SshServer) -> None:
    """When all connections die while a large file is sent, that is what the step says."""
    size = 64 << 20
    (server.directory / "blob").write_bytes(os.urandom(size))
    got = server.run(
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


def test_sockets_reach_what_only_the_machine_reaches(server: SshServer) -> None:
    """A socket through the connection carries a conversation; a closed port is refused."""
    got = server.run(
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


def test_a_user_without_sudo_is_told_so(server: SshServer) -> None:
    """Login works, becoming root does not: exit code 5 and the line that allows it."""
    got = server.run("""print(json.dumps(failure(lambda: machine(user="freehold-plain"))))""")
    assert got["exit"] == 5
    assert "freehold-plain cannot become root with sudo" in got["message"]
    assert "NOPASSWD" in got["hint"]


def test_a_lost_connection_ends_the_step(server: SshServer) -> None:
    """When the machine goes away in the middle, the step fails instead of hanging."""
    got = server.run(
        """
        m = machine()
        def kill():
            m.run(["sh", "-c", "kill -9 $PPID; sleep 5"])
        print(json.dumps(failure(kill)))
        """,
    )
    assert "the connection was lost" in got["message"]


def test_a_connection_lost_while_logging_in(server: SshServer) -> None:
    """A server that dies before it has said yes or no to our key has not refused it."""
    (server.directory / "authorized").write_text("")
    with server.configuration.open("a") as conf:
        conf.write('AuthorizedKeysCommandUser root\nAuthorizedKeysCommand /bin/sh -c "kill -9 $PPID"\n')
    server.change_key()
    got = server.run("""print(json.dumps(failure(machine)))""")
    assert got["exit"] == 5
    assert "the login broke off" in got["message"]


def test_an_interrupted_run_ends_with_130_at_once(server: SshServer) -> None:
    """Ctrl-C while a remote command runs: exit code 130, and the remote side ends too."""
    code = """
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
    process = subprocess.Popen(server.program(code), stdout=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    process.stdout.close()
