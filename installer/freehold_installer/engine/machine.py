"""One machine over its open SSH connection: run a command, the agent from memory, a stream of files, sockets.

Safe to use from several greenlets at once: each call has a channel (or an `ssh`) of its own. It knows nothing
of what the programs do.
"""

import contextlib
import functools
import json
import shlex
import socket
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold_installer.engine.conversation import (
    LOST,
    ChannelConversation,
    Conversation,
    SubprocessConversation,
    close_channel,
    have_ssh,
    said,
)
from freehold_installer.engine.endpoint import Endpoint, jump_command
from freehold_installer.engine.remote_program import RECEIVE, OnEvent, OnNeed, Program, send_files
from freehold_installer.errors import StepError, UnfitError, UnreachableError

BULK = 4 << 20
"""Bytes from which a system `ssh` beats a channel of paramiko, its own connection included."""
CIPHERS = "^aes128-gcm@openssh.com"
"""First choice in front of the defaults: measured fastest, authenticated."""
PROBE = (
    'id -u; if [ "$(id -u)" = 0 ]; then echo root; elif sudo -n true; then echo sudo; else echo refused; fi; '
    "command -v python3 || echo none"
)


@dataclass(frozen=True)
class Output:
    exit: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace").strip()


class Machine:
    """`host` is the inventory's entry; `client` an open paramiko client."""

    def __init__(self, host: Any, endpoint: Endpoint, client: Any, known_hosts: Path) -> None:
        self.name = endpoint.name
        self.host = host
        self.endpoint = endpoint
        self._client = client
        self._known_hosts = known_hosts
        self._root = False

    def probe(self) -> None:
        """See whether we can be root there and whether there is a Python.

        Raises UnreachableError without passwordless sudo, UnfitError without `python3`.
        """
        output = self.run(["sh", "-c", PROBE], sudo=False, timeout=20)
        answers = output.text.split("\n")
        if output.exit != 0 or len(answers) < 3:
            raise UnreachableError(
                f"{self.name}: its login shell does not run commands: {said(output.stderr)}"
            )
        if answers[1] == "refused":
            user = self.endpoint.user or "this user"
            raise UnreachableError(
                f"{self.name}: {user} cannot become root with sudo: {said(output.stderr)}",
                hint="allow it without a password: "
                f"echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/freehold",
            )
        if answers[2] == "none":
            raise UnfitError(
                f"{self.name}: there is no python3",
                hint="install it: apt-get install python3, or dnf install python3",
            )
        self._root = answers[1] == "root"

    def run(
        self, command: Sequence[str], stdin: bytes = b"", *, sudo: bool = True, timeout: float = 60.0
    ) -> Output:
        """Run a command to its end (seconds at most) and return what it said; its exit code is no error here.

        Raises StepError when it takes too long or the connection is lost.
        """
        import gevent

        title = textwrap.shorten(shlex.join(command), 60, placeholder=" ...")
        conversation = self._channel(title, self._as_root(command) if sudo else command)
        blocks: list[bytes] = []
        sender = gevent.spawn(_send_quietly, conversation, stdin)
        try:
            with gevent.Timeout(timeout):
                while block := conversation.read():
                    blocks.append(block)
                code = conversation.finish()
        except gevent.Timeout as error:
            raise StepError(self.name, title, f"no end within {timeout:g} s") from error
        finally:
            sender.kill()
            conversation.close()
        if code == LOST and not self.connected:
            raise self.lost(title)
        return Output(code, b"".join(blocks), conversation.errors)

    def program(
        self,
        request: Mapping[str, Any],
        on_event: OnEvent | None = None,
        on_need: OnNeed | None = None,
        *,
        timeout: float = 600.0,
    ) -> Any:
        """Run the agent's code from memory with this request; return its result.

        Every other JSON line it prints goes to `on_event` as it comes; one that needs an answer
        (`{"event": "need-..."}`) to `on_need`, whose bytes are sent as they are. Nothing of the request is in
        any argument list. Raises StepError with what the machine said.
        """
        command, first = _program(request)
        program = Program(self.name, str(request.get("verb", "program")), on_event, on_need)
        conversation = self._channel(program.doing, self._as_root(command))
        return program.drive(conversation, first, timeout=timeout)

    def stream(
        self,
        artifacts: Sequence[tuple[Path, str, int]],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        on_event: OnEvent | None = None,
        titles: Mapping[str, str] | None = None,
        timeout: float = 1800.0,
    ) -> int:
        """Send files (path, SHA-256, bytes), in this order, into the machine's store; what it has is skipped.

        `titles` maps digests to what people call the files. `on_progress` gets bytes sent and
        to send in all, `on_event` what the program there tells of each file. Returns the bytes sent. The machine
        verifies every digest. Raises StepError, BundleError for a file that is not there or not what it should be.
        """
        names = titles or {}
        wanted = [
            {"sha256": digest, "size": size, "title": names.get(digest, path.name)}
            for path, digest, size in artifacts
        ]
        command, first = _program({"verb": RECEIVE})
        first += json_line(wanted)
        carrier = self._as_root(command)
        program = Program(self.name, RECEIVE, on_event, None)
        conversation: Conversation
        if sum(size for _, _, size in artifacts) >= BULK and have_ssh():
            conversation = SubprocessConversation([*self.ssh_command(), shlex.join(carrier)])
        else:
            conversation = self._channel(program.doing, carrier)
        sent = 0

        def progress(now: int, total: int) -> None:
            nonlocal sent
            sent = now
            if on_progress is not None:
                on_progress(now, total)

        program.drive(conversation, first, on_missing=send_files(artifacts, progress, names), timeout=timeout)
        return sent

    def api_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket to an address as the machine sees it, over the SSH connection; fit for TLS.

        Raises ConnectionRefusedError when nothing listens there, UnfitError when its SSH server forbids this, and
        StepError when the SSH connection is lost: whoever asks again until the API answers must not do so then.
        """
        import gevent
        import paramiko

        transport = self._client.get_transport()
        try:
            channel = transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=10)
        except paramiko.ChannelException as error:
            if error.code == 1:
                raise UnfitError(
                    f"{self.name}: its SSH server forbids forwarding, over which we reach the API server",
                    hint="set AllowTcpForwarding to yes or local in /etc/ssh/sshd_config there",
                ) from error
            raise ConnectionRefusedError(f"{self.name}: {host}:{port}: {error.text}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self.connected:
                raise ConnectionResetError(f"{self.name}: {host}:{port}: {error}") from error
            raise self.lost("reaching its API server") from error
        ours, theirs = socket.socketpair()
        gevent.spawn(_pump_out, theirs, channel)
        gevent.spawn(_pump_in, channel, theirs)
        return ours

    def ssh_command(self) -> list[str]:
        """Return the system `ssh` with exactly our host keys, login and options, up to the host."""
        endpoint = self.endpoint
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self._known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "ControlPath": "none",
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "Ciphers": CIPHERS,
            "Compression": "no",
        }
        command = ["ssh", "-T", "-F", "none", "-p", str(endpoint.port)]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        if endpoint.user:
            command += ["-l", endpoint.user]
        if endpoint.key:
            command += ["-i", endpoint.key, "-o", "IdentitiesOnly=yes"]
        if endpoint.jump:
            command += ["-o", "ProxyCommand=" + shlex.join(jump_command(endpoint.jump, "[%h]:%p"))]
        return [*command, "--", endpoint.address]

    @property
    def connected(self) -> bool:
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def lost(self, doing: str) -> StepError:
        """Return what to raise when the connection went away while something was done over it."""
        return StepError(self.name, doing, "the connection was lost")

    def _as_root(self, command: Sequence[str]) -> Sequence[str]:
        return command if self._root else ["sudo", "-n", "--", *command]

    def _channel(self, doing: str, command: Sequence[str]) -> ChannelConversation:
        import paramiko

        transport = self._client.get_transport()
        if transport is None:
            raise self.lost(doing)
        try:
            return ChannelConversation(transport, command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise (StepError(self.name, doing, str(error)) if self.connected else self.lost(doing)) from error


@functools.cache
def _sources() -> Mapping[str, str]:
    from freehold_agent.machine.in_memory import sources

    return sources()


def _program(request: Mapping[str, Any]) -> tuple[list[str], bytes]:
    """Return the command that runs the agent from memory, and the first line it reads."""
    from freehold_agent.machine.in_memory import command, payload

    return command(), payload(request, _sources())


def json_line(data: Any) -> bytes:
    """Return JSON on one line, as programs on a machine read it."""
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _send_quietly(conversation: Conversation, data: bytes) -> None:
    """A program that ends without reading all its input is not an error; its exit code says what is."""
    with contextlib.suppress(OSError, EOFError):
        if data:
            conversation.send(data)
        conversation.end()


def _pump_out(near: socket.socket, channel: Any) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := near.recv(65536):
            channel.sendall(data)
        channel.shutdown_write()


def _pump_in(channel: Any, near: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := channel.recv(65536):
            near.sendall(data)
    close_channel(channel)
    near.close()
