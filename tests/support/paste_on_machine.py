"""Paste a line into a terminal of a lab machine, as a person does: a token is typed when it is asked for.

While it runs, command lines and environments of all processes there are searched for the token.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.lab import Lab

_PROGRAM = r"""
import json, os, pty, select, sys, time
request = json.loads(sys.stdin.readline())
secret = request["token"].split(".")[-1] if request["token"] else ""
child, terminal = pty.fork()
if child == 0:
    os.environ.update(request["environment"])
    os.execv("/bin/sh", ["sh", "-c", request["line"]])
shown, typed, seen, killed, begun = b"", False, set(), False, time.monotonic()
while time.monotonic() - begun < request["seconds"]:
    if select.select([terminal], [], [], 0.02)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    if not typed and b"join token for" in shown:
        os.write(terminal, request["token"].encode() + b"\n")
        typed = True
    if typed and secret:
        for process in filter(str.isdigit, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                try:
                    with open("/proc/%s/%s" % (process, name), "rb") as file:
                        if secret.encode() in file.read():
                            seen.add("%s of %s" % (name, process))
                except OSError:
                    pass
    if request["kill_at"] and request["kill_at"].encode() in shown:
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % process, "rb") as file:
                    if b"join-node" in file.read() and int(process) != os.getpid():
                        os.kill(int(process), 9)
                        killed = True
            except OSError:
                pass
        break
_, status = os.waitpid(child, 0)
code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
print(json.dumps({"code": code, "shown": shown.decode(errors="replace"), "seen": sorted(seen), "killed": killed}))
"""


@dataclass(frozen=True)
class Pasted:
    """What a person sees."""

    code: int
    """Exit code; negative: ended by that signal."""
    shown: str
    """Everything that stood on the terminal."""
    seen: list[str]
    """Where the token could be read by others while it ran."""
    killed: bool

    @property
    def last(self) -> str:
        """Return the lines that say how it ended."""
        return "\n".join(self.shown.strip().splitlines()[-2:])


def paste(
    lab: Lab,
    machine: str,
    made: Mapping[str, Any],
    *,
    token: str | None = None,
    environment: Mapping[str, str] | None = None,
    kill_at: str = "",
    seconds: float = 300.0,
) -> Pasted:
    """Paste the line of `freehold token create --output json`; with `kill_at`, kill -9 once that text is shown."""
    request = {
        "line": made["line"],
        "token": made["token"] if token is None else token,
        "environment": dict(environment or {}),
        "kill_at": kill_at,
        "seconds": seconds,
    }
    done = lab.exec(
        machine, "python3", "-c", _PROGRAM, input=json.dumps(request) + "\n", timeout=seconds + 30
    )
    return Pasted(**json.loads(done.stdout.strip().splitlines()[-1]))
