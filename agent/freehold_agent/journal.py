"""Lines of the resident agent for the journal, which reads their level from a prefix."""

import sys
from typing import Callable

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6

Log = Callable[[int, str], None]
"""Takes a level and a message."""


def to_journal(level: int, message: str) -> None:
    """Write one line to the journal (stderr of a service)."""
    sys.stderr.write("<{}>{}\n".format(level, message.replace("\n", " ")))
    sys.stderr.flush()
