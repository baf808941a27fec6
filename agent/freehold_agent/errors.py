"""Errors of the agent: each is one clear message, a hint where a person can act, and detail for the curious.

`kind` is the stable word that travels over SSH; the installer maps it to its own exceptions and exit codes.
"""

from typing import Dict


class AgentError(Exception):
    """Base of everything the agent raises on purpose."""

    kind = "step"

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def to_json(self) -> Dict[str, str]:
        return {"kind": self.kind, "message": self.message, "hint": self.hint, "detail": self.detail}


class BadRequest(AgentError):  # noqa: N818
    """A request or document that this agent cannot act on."""

    kind = "input"


class Unfit(AgentError):  # noqa: N818
    """The machine lacks something that only its owner can provide."""

    kind = "unfit"


class NotJoinedError(AgentError):
    """The machine has no document or no certificate: there is nothing to keep."""

    kind = "input"


class Locked(AgentError):  # noqa: N818
    """Another run is changing this machine."""

    kind = "locked"


class StepFailed(AgentError):  # noqa: N818
    """A resource could not be brought to its wanted state."""

    kind = "step"

    def __init__(self, key: str, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.key = key

    def to_json(self) -> Dict[str, str]:
        return {**super().to_json(), "key": self.key}


class DeliveryFailed(AgentError):  # noqa: N818
    """An artifact did not reach the store."""

    kind = "delivery"


class DigestMismatch(DeliveryFailed):
    """The bytes that came are not those that were asked for."""

    kind = "digest"

    def __init__(self, title: str, expected: str, got: str, source: str = "") -> None:
        super().__init__(
            "{}{}: expected sha256 {}, got {}".format(
                title, " from " + source if source else "", expected, got
            ),
            hint="rebuild or verify the bundle: freehold bundle verify",
        )
        self.expected = expected
        self.got = got


def in_words(error: Exception) -> str:
    """Return an error and what a person can do about it, in one line."""
    hint = getattr(error, "hint", "")
    return "{}{}".format(error, " ({})".format(hint) if hint else "")
