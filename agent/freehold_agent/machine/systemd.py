"""systemd, through `systemctl`: batched, never a shell.

One call costs 10 to 20 ms, so every function takes all units at once. Knows nothing of resources.
"""

import os
import socket
import time
from typing import Any, Callable, Dict, List, Sequence

from freehold_agent.machine.programs import ProgramFailed, run

Properties = Dict[str, str]

OBSERVED = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "NeedDaemonReload",
    "MainPID",
    "ControlGroup",
    "Environment",
    "ExecMainStatus",
)


_LOST = (
    "disconnected from message bus",
    "Transport endpoint is not connected",
    "Connection reset by peer",
    "Failed to connect to bus",
    "D-Bus connection terminated",
    "Connection refused",
    "Broken pipe",
)
"""What systemctl says when systemd executed itself anew (updates do that) and left it without an answer."""
_UNDER_WAY = "D-Bus connection terminated"
_TRIES = 40
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two of them."""


class SystemdError(Exception):
    """A unit did not come to the state that was asked for."""

    def __init__(self, unit: str, message: str, result: str = "", journal: str = "") -> None:
        super().__init__(message)
        self.unit = unit
        self.result = result
        """systemd's word: `exit-code`, `timeout`, `oom-kill`, ..."""
        self.journal = journal
        """The unit's last lines."""


class Systemd:
    """The machine's service manager."""

    def __init__(self, runner: Callable[..., str] = run, sleep: Callable[[float], None] = time.sleep) -> None:
        self._runner = runner
        self._sleep = sleep

    def show(self, names: Sequence[str], properties: Sequence[str] = OBSERVED) -> Dict[str, Properties]:
        """Return each unit's properties by the name asked for; unknown ones have LoadState=not-found."""
        if not names:
            return {}
        command = ["systemctl", "show", "--no-pager", "--property=" + ",".join(["Id", *properties]), "--"]
        text = self._run([*command, *names], timeout=30)
        blocks = [block for block in text.split("\n\n") if block.strip()]
        if len(blocks) != len(names):
            raise SystemdError(
                names[0], "systemctl show answered {} of {} units".format(len(blocks), len(names))
            )
        found = {}
        for name, block in zip(names, blocks):
            pairs = (line.partition("=") for line in block.strip("\n").split("\n"))
            found[name] = {key: value for key, _, value in pairs}
        return found

    def daemon_reload(self) -> None:
        """Make systemd read its unit files again. Raises SystemdError."""
        self._call(["daemon-reload"], (), 90)

    def enable(self, names: Sequence[str]) -> None:
        """Enable units from the files on disk, without a reload. Raises SystemdError."""
        self._call(["enable", "--no-reload", "--quiet"], names, 60)

    def disable(self, names: Sequence[str]) -> None:
        """Remove the links that start units at boot, without a reload. Raises SystemdError."""
        self._call(["disable", "--no-reload", "--quiet"], names, 60)

    def start(self, *names: str, timeout: float = 90.0) -> None:
        """Start units and wait until systemd calls them active; `timeout` in seconds. Raises SystemdError."""
        self._call(["start"], names, timeout)

    def restart(self, *names: str, timeout: float = 90.0) -> None:
        """Restart units (start those not running) and wait; `timeout` in seconds. Raises SystemdError."""
        self._call(["restart"], names, timeout)

    def stop(self, *names: str, timeout: float = 90.0) -> None:
        """Stop units and wait until they are down; `timeout` in seconds. Raises SystemdError."""
        self._call(["stop"], names, timeout)

    def reset_failed(self, *names: str) -> None:
        """Forget failures and start limits; units that systemd does not know are no error."""
        if names:
            self._run(["systemctl", "reset-failed", "--", *names], timeout=30, check=False)

    def failure(self, name: str) -> SystemdError:
        """Return why a unit is not running, with its last journal lines."""
        state = self.show([name]).get(name, {})
        result = state.get("Result", "")
        message = "{} did not start: it is {}".format(name, state.get("ActiveState", "unknown"))
        if result not in {"", "success"}:
            message += ", result {}, exit status {}".format(result, state.get("ExecMainStatus", "unknown"))
        return SystemdError(name, message, result, self.journal(name))

    def journal(self, name: str, lines: int = 15) -> str:
        """Return the last lines a unit logged; empty where the journal cannot be read."""
        command = [
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=cat",
            "--lines=" + str(lines),
            "--unit=" + name,
        ]
        try:
            return self._run(command, timeout=15, check=False).strip()
        except ProgramFailed:
            return ""

    def _run(self, command: Sequence[str], **options: Any) -> str:
        """Run a command; ask again when systemd broke off. Every verb here may be said twice. Raises ProgramFailed."""
        pause = _FIRST_PAUSE
        for _ in range(_TRIES - 1):
            try:
                return self._runner(command, **options)
            except ProgramFailed as error:
                if error.status is None or not any(words in error.output for words in _LOST):
                    raise
                if _UNDER_WAY in error.output and command[1] == "restart":
                    # It was waiting: the restart goes on, and another one would begin it anew.
                    command = [command[0], "start", *command[2:]]
            self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return self._runner(command, **options)

    def _call(self, verb: List[str], names: Sequence[str], timeout: float) -> None:
        if not names and verb[0] != "daemon-reload":
            return
        try:
            self._run(["systemctl", *verb, "--", *names] if names else ["systemctl", *verb], timeout=timeout)
        except ProgramFailed as error:
            unit = next((name for name in names if name in error.output), names[0] if names else "")
            if error.status is None:
                message = "{} not done within {:g} s (systemctl {})".format(
                    ", ".join(names) or "systemd", timeout, verb[0]
                )
                raise SystemdError(unit, message, "timeout", self.journal(unit) if unit else "") from error
            if verb[0] in {"start", "restart"} and unit in error.output:
                raise self.failure(unit) from error
            message = "systemctl {}: {}".format(verb[0], first_line(error.output) or "failed")
            raise SystemdError(unit, message, journal=self.journal(unit) if unit else "") from error


def first_line(text: str) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), text)


def notify(state: str) -> bool:
    """Tell systemd about ourselves (sd_notify): `READY=1`, `STATUS=...`; False when nobody listens. Never raises.

    Whoever waits for a sign of life acts when none comes: a program does not end because one was lost.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError:
        return False
    return True
