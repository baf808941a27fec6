"""Lines for the journal: one event per line, with the priority prefix that journald reads from stderr.

Callers pass facts, never secrets; text that comes from requests is quoted, so that it cannot forge a line.
"""

import json
import sys
from typing import Any, Dict

_INFO, _NOTICE, _WARNING, _ERROR = 6, 5, 4, 3


def info(message: str, **facts: Any) -> None:
    """Log what happens in normal operation."""
    _line(_INFO, message, facts)


def notice(message: str, **facts: Any) -> None:
    """Log what an audit looks for: issue, use, refusal."""
    _line(_NOTICE, message, facts)


def warning(message: str, **facts: Any) -> None:
    """Log what will be tried again."""
    _line(_WARNING, message, facts)


def error(message: str, **facts: Any) -> None:
    """Log what needs a person."""
    _line(_ERROR, message, facts)


def _line(priority: int, message: str, facts: Dict[str, Any]) -> None:
    words = ["".join(letter if letter.isprintable() else " " for letter in message)]
    words += ["{}={}".format(name, json.dumps(value, default=str)) for name, value in facts.items()]
    sys.stderr.write("<{}>{}\n".format(priority, " ".join(words)))
    sys.stderr.flush()
