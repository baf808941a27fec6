"""Bad input as tests state it: an inventory with one thing wrong, an answer that refuses it, untouched machines."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.support.kubectl import Answer, wait_for
from tests.support.lab import Lab
from tests.support.outside import Snapshot, differences

SECONDS = 60.0
"""No refusal may take longer, on a busy host too."""


class Inventories:
    """Writes inventories that differ from a good one."""

    def __init__(self, base: Mapping[str, Any], directory: Path) -> None:
        self._base = base
        self._directory = directory
        self._count = 0

    def __call__(self, changes: Mapping[str, Any] | None = None, *, without: Iterable[str] = ()) -> Path:
        """Write one: `changes` maps dotted paths to values, `without` are dotted paths to leave out."""
        data = copy.deepcopy(dict(self._base))
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            place = data
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value
        for path in without:
            *parents, last = path.split(".")
            place = data
            for name in parents:
                place = place[name]
            del place[last]
        self._count += 1
        file = self._directory / f"inventory-{self._count}.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return file


def check_refused(answer: Answer, code: int, *words: str) -> str:
    """Assert that there is one clear message with all of `words`, this exit code, and no traceback. Return it."""
    said = answer.stdout + answer.stderr
    assert answer.code == code, str(answer)
    assert "Traceback" not in said, said
    assert 'File "' not in said, said
    assert "defect of freehold" not in said, said
    messages = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, str(answer)
    message = answer.stderr[answer.stderr.index("error: ") :]
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"
    assert len(message.splitlines()) >= 2, f"no hint:\n{message}"
    return message


class Untouched:
    """Machines that must be the same after a refusal; looked at past SSH."""

    def __init__(self, lab: Lab, machines: Iterable[str]) -> None:
        self._lab = lab
        self._machines = list(machines)
        self._last: dict[str, Snapshot] = {}

    @contextlib.contextmanager
    def __call__(self, *, prepared: bool = False, ignore: Iterable[str] = ()) -> Iterator[None]:
        """Assert that nothing changes inside. `prepared`: the test has just changed a machine itself."""
        before = self._last if self._last and not prepared else Snapshot.of_all(self._lab, self._machines)
        yield
        # Sessions of SSH end a moment after the command; what was written to files stays to be seen.
        wait_for(lambda: self._are_as(before, ignore), 30, "the machines as they were")
        if prepared:
            self._last = {}

    def _are_as(self, before: Mapping[str, Snapshot], ignore: Iterable[str]) -> bool:
        self._last = Snapshot.of_all(self._lab, self._machines)
        found = [
            line for name in before for line in differences(before[name], self._last[name], ignore=ignore)
        ]
        assert found == []
        return True
