"""A program that runs on a machine while we talk to it: bytes in, lines out, an exit code at the end.

Two carriers, one shape: a channel of the open SSH transport, or a system `ssh` (faster for hundreds of
megabytes). Closing a conversation early ends the remote program, whose input and output go away.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

ERROR_TAIL = 8192
"""Bytes kept of what a program writes to its standard error: its end, which says why it failed."""
BLOCK = 1 << 18
LOST = -1
"""Stands for an exit code where there is none: the connection went away, or the program was killed."""
SSH_FAILED = 255
"""Exit code of `ssh` for trouble of its own (ssh(1), EXIT STATUS); no program that we run ends with it."""


class Conversation(Protocol):
    def send(self, data: bytes | memoryview) -> None:
        """Write all of it. Raises OSError when the other side is gone."""

    def end(self) -> None:
        """Say that no more is to come."""

    def read(self) -> bytes:
        """Return some bytes of its output, empty at its end."""

    def finish(self) -> int:
        """Wait until it has ended; return its exit code, or LOST."""

    def close(self) -> None:
        """End it now, whatever it does. May be called again."""

    @property
    def errors(self) -> bytes:
        """The end of its standard error, complete after `finish`."""


def lines(conversation: Conversation) -> Iterator[bytes]:
    """Yield each line of output as soon as it is complete, without its newline."""
    rest = b""
    while block := conversation.read():
        *complete, rest = (rest + block).split(b"\n")
        yield from complete
    if rest:
        yield rest


class ChannelConversation:
    """Over a new channel of an open paramiko transport."""

    def __init__(self, transport: Any, command: Sequence[str]) -> None:
        import gevent
        from gevent.event import Event

        self._channel = transport.open_session()
        self._errors = b""
        # To wait with: who is interrupted while it waits in paramiko may hold, or lack, one of its locks.
        self._readable = Event()
        self._channel.in_buffer.set_event(self._readable)
        self._channel.exec_command(shlex.join(command))
        self._reader = gevent.spawn(self._read_errors)

    def send(self, data: bytes | memoryview) -> None:
        self._channel.sendall(data)

    def end(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def read(self) -> bytes:
        self._readable.wait()
        block: bytes = self._channel.recv(BLOCK)
        return block

    def finish(self) -> int:
        self._reader.join()
        code: int = self._channel.recv_exit_status()
        close_channel(self._channel)
        return code

    def close(self) -> None:
        close_channel(self._channel)
        self._reader.kill()

    @property
    def errors(self) -> bytes:
        return self._errors

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while block := self._channel.recv_stderr(BLOCK):
                self._errors = (self._errors + block)[-ERROR_TAIL:]


class SubprocessConversation:
    """Over a local program, in practice `ssh`."""

    def __init__(self, command: Sequence[str]) -> None:
        import gevent
        from gevent import os as gevent_os
        from gevent import subprocess

        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._os = gevent_os
        self._errors = b""
        self._ended = False
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            gevent_os.make_nonblocking(stream.fileno())
        _enlarge(self._process.stdin.fileno())
        self._reader = gevent.spawn(self._read_errors)

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = self._os.nb_write(self._process.stdin.fileno(), view)
            view = view[written:]

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def read(self) -> bytes:
        block: bytes = self._os.nb_read(self._process.stdout.fileno(), BLOCK)
        return block

    def finish(self) -> int:
        self.end()
        self._reader.join()
        code: int = self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
        return LOST if code == SSH_FAILED else code

    def close(self) -> None:
        self.end()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.kill()
        for stream in (self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()

    @property
    def errors(self) -> bytes:
        return self._errors

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while block := self._os.nb_read(self._process.stderr.fileno(), BLOCK):
                self._errors = (self._errors + block)[-ERROR_TAIL:]


def close_channel(channel: Any) -> None:
    """Close a channel of paramiko, also one whose connection is gone: it would tell the other side, and fail."""
    with contextlib.suppress(OSError, EOFError):
        channel.close()


def _enlarge(descriptor: int) -> None:
    """A larger pipe means fewer turns of the event loop per megabyte; a small one works too."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)


def said(errors: bytes, limit: int = 600) -> str:
    """Return the last lines of a program's standard error, short enough for one message."""
    text = errors.decode(errors="replace").strip()
    return text if len(text) <= limit else "... " + text[-limit:]


def have_ssh() -> bool:
    """Is there a system `ssh`?"""
    return any(os.access(os.path.join(place, "ssh"), os.X_OK) for place in os.get_exec_path())
