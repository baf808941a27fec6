"""Running a program of the machine: argument list, never a shell, with its output and a time limit."""

import subprocess
from typing import Optional, Sequence


class ProgramFailed(Exception):  # noqa: N818
    """A program was missing, failed or took too long."""

    def __init__(self, command: Sequence[str], status: Optional[int], output: str) -> None:
        self.command = list(command)
        self.status = status
        """Exit status; None when it was missing or took too long."""
        self.output = output.strip()
        reason = "exit status {}".format(status) if status is not None else "did not run"
        super().__init__("{}: {}".format(" ".join(command[:6]), self.output or reason))


def run(
    command: Sequence[str], *, timeout: float = 60.0, stdin: Optional[bytes] = None, check: bool = True
) -> str:
    """Return what the program printed on stdout. Raises ProgramFailed (also for a timeout, in seconds).

    With `check=False` an exit status other than 0 is no error.
    """
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ProgramFailed(command, None, "program not found: " + command[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(command, None, "no answer within {:g} s".format(timeout)) from error
    output = done.stdout.decode("utf-8", "replace")
    if check and done.returncode:
        raise ProgramFailed(command, done.returncode, done.stderr.decode("utf-8", "replace") or output)
    return output
