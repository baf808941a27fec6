"""What can go wrong with the lab, as messages for the person who typed the command."""

from __future__ import annotations


class LabError(Exception):
    """One clear sentence and, where a person can act, what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
