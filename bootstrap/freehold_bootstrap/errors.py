"""The errors of this package: each is one sentence for a person, with what to do where they can act."""


class BootstrapError(Exception):
    """Base of all errors about trust: keys, tokens, admission."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PkiError(BootstrapError):
    """A key or certificate is unusable, or cannot be issued."""


class Refused(BootstrapError):  # noqa: N818 it reads as what it is
    """A request that was understood and is not granted; `reason` is a fixed word for counters and events."""

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class AdmissionTimeout(BootstrapError):  # noqa: N818
    """The control plane did not do its part of an admission in time; a retry continues."""
