"""kubectl of the bundle as a callable: runs it, raises with its own words, reads its JSON.

Knows one kubeconfig and, if wanted, one namespace; nothing of machines or of how the cluster came to be.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TIMEOUT = 120.0
"""Seconds a command may take unless told otherwise."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_SHOWN_LINES = 40
T = TypeVar("T")


class KubectlError(AssertionError):
    """A command that should have worked did not; the message holds what kubectl said."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    command: str
    code: int
    stdout: str
    stderr: str

    @property
    def failed(self) -> bool:
        return self.code != 0

    @property
    def json(self) -> Any:
        """Return standard output read as JSON. Raises AssertionError with both outputs if it is none."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(f"{self.command}: no JSON on standard output\n{self}") from error

    def __str__(self) -> str:
        said = "".join(_end(output) for output in (self.stdout, self.stderr))
        return f"$ {self.command}\nexit code {self.code}\n{said}"


@dataclass(frozen=True)
class Kubectl:
    """`kubectl("get", "pods")`; `.json("get", "pods")`; `.apply(object, ...)`; `.within("namespace")`."""

    binary: Path
    kubeconfig: Path
    namespace: str = ""

    def __call__(
        self,
        *arguments: str,
        stdin: str = "",
        check: bool = True,
        timeout: float = TIMEOUT,
    ) -> Answer:
        """Run it; raise KubectlError with its standard error when it fails and `check` is set."""
        command = self.command(*arguments)
        shown = f"kubectl {' '.join(arguments)}"
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"{shown}: no end within {timeout:.0f} s") from error
        answer = Answer(shown, done.returncode, done.stdout, done.stderr)
        if check and answer.failed:
            raise KubectlError(str(answer))
        return answer

    def command(self, *arguments: str) -> list[str]:
        """Return the command line, for a test that starts the process itself."""
        place = [f"--namespace={self.namespace}"] if self.namespace else []
        return [str(self.binary), f"--kubeconfig={self.kubeconfig}", *place, *arguments]

    def json(self, *arguments: str, timeout: float = TIMEOUT) -> Any:
        """Run it with `-o json` and return what it printed."""
        before, separator, after = _split(arguments)
        return self(*before, "--output=json", *separator, *after, timeout=timeout).json

    def apply(self, *objects: Mapping[str, Any], check: bool = True) -> Answer:
        """Apply objects, server side."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self("apply", "--server-side", "--filename=-", stdin=json.dumps(listed), check=check)

    def exec(self, pod: str, *command: str, timeout: float = TIMEOUT, check: bool = True) -> Answer:
        """Run a command in a pod (or in `deployment/NAME`)."""
        return self("exec", pod, "--", *command, timeout=timeout, check=check)

    def rolled_out(self, *names: str, timeout: float = TIMEOUT) -> None:
        """Wait for `deployment/NAME` or `daemonset/NAME`."""
        for name in names:
            self("rollout", "status", name, f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def wait(self, what: str, condition: str, timeout: float = TIMEOUT) -> None:
        """Wait until `kubectl wait --for=CONDITION WHAT` is content."""
        seconds = f"--timeout={timeout:.0f}s"
        self("wait", f"--for={condition}", seconds, *what.split(), timeout=timeout + 10)

    def within(self, namespace: str) -> Kubectl:
        """Return the same for another namespace."""
        return dataclasses.replace(self, namespace=namespace)


def wait_for(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Return the first true value of `condition`; AssertionError in `condition` counts as 'not yet'.

    Raises AssertionError naming `what` and the last reason after `timeout` seconds. For what kubectl cannot watch.
    """
    until = time.monotonic() + timeout
    pause, reason = _FIRST_PAUSE, ""
    while True:
        try:
            value = condition()
        except AssertionError as error:
            value, reason = None, str(error)
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout:.0f} s: {what}" + (f"\n{reason}" if reason else ""))
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.5)


def _end(output: str) -> str:
    """Return the last lines of an output: a plan has hundreds."""
    lines = output.splitlines(keepends=True)
    left_out = len(lines) - _SHOWN_LINES
    return output if left_out <= 0 else f"({left_out} lines left out)\n" + "".join(lines[-_SHOWN_LINES:])


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    if "--" not in arguments:
        return arguments, (), ()
    position = list(arguments).index("--")
    return arguments[:position], ("--",), arguments[position + 1 :]
