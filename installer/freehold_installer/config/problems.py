"""What is wrong with an inventory: one line each, and the one error that carries them all."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from freehold_installer.errors import InputError

Path = tuple[str | int, ...]


class InventoryError(InputError):
    """Everything that is wrong with an inventory and the file it names: by file, then in order of the lines."""

    def __init__(self, problems: Sequence["Problem"], *, hint: str = "") -> None:
        files = list(dict.fromkeys(problem.file for problem in problems))
        self.problems = tuple(sorted(set(problems), key=lambda one: (files.index(one.file), one.sort_key)))
        super().__init__("\n".join(str(problem) for problem in self.problems), hint=hint)


@dataclass(frozen=True)
class Problem:
    file: str
    said: str
    key: str = ""
    """Path with dots as it stands in that file; empty when it is about the file itself."""
    line: int = 0
    """From 1; 0: no place in the file."""
    column: int = 0
    """From 1."""

    @property
    def sort_key(self) -> tuple[int, int, str, str]:
        return self.line, self.column, self.key, self.said

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return (
            f"{place}: {printable(self.key)}: {printable(self.said)}"
            if self.key
            else f"{place}: {printable(self.said)}"
        )


def printable(text: str) -> str:
    """Return `text` on one line with nothing in it that a terminal would obey or could not write."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def key_path(path: Path) -> str:
    """Return `hosts.cp1.roles[0]` for a path; steps with dots of their own are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if re.fullmatch(r"[\w-]+", step) else repr(step))
    return text


def suggestion(key: str, known: Iterable[str], elsewhere: Iterable[str]) -> str:
    """Return which known key was probably meant by an unknown one.

    `known` are the keys allowed in its place, `elsewhere` the dotted paths of all keys there are.
    """
    here = sorted(known)
    flat = {_flat(name): name for name in here}
    close = difflib.get_close_matches(_flat(key), list(flat), n=1, cutoff=0.6)
    if close:
        return f"did you mean {flat[close[0]]}?"
    same = sorted({path for path in elsewhere if _flat(path.rpartition(".")[2]) == _flat(key)}, key=len)
    if same:
        return f"did you mean {same[0]}?"
    return f"known here: {', '.join(here)}" if here else "nothing is known below this key"


def _flat(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())
