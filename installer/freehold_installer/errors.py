"""Everything that can go wrong for a person, each with its exit code and, where they can act, a hint.

docs/reference/exit-codes.md lists the same codes; a test compares the two.
"""

from collections.abc import Iterable, Sequence


class FreeholdError(Exception):
    """One clear message; `hint` says what to do next."""

    exit_code = 1
    meaning = "a step failed"

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        """For the curious (`--verbose`): journal lines, output of a program. Never a secret."""


class InputError(FreeholdError):
    exit_code = 3
    meaning = "bad input: command line, inventory, configuration or bundle"


class UnfitError(FreeholdError):
    exit_code = 4
    meaning = "a machine cannot do what is asked of it; nothing was changed on it"


class UnreachableError(FreeholdError):
    exit_code = 5
    meaning = "a machine cannot be reached or refuses us: address, host key, login, sudo"


class LockedError(FreeholdError):
    exit_code = 6
    meaning = "another run holds this cluster's lock"


class StepError(FreeholdError):
    """A step failed on a machine."""

    def __init__(self, machine: str, step: str, said: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(f"{machine}: {step} failed: {said}", hint=hint, detail=detail)
        self.machine = machine
        self.step = step
        self.said = said


class BundleError(FreeholdError):
    exit_code = 3
    meaning = InputError.meaning


class InterruptedRunError(FreeholdError):
    exit_code = 130
    meaning = "interrupted: a signal, or no as the answer to a question"


class CombinedError(FreeholdError):
    """What went wrong on several machines at once: nothing is lost, the worst decides the exit code."""

    meaning = "see each of them"

    def __init__(self, errors: Sequence[FreeholdError]) -> None:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        super().__init__("\n".join(error.message for error in errors), hint="\n".join(hints))
        self.errors = tuple(errors)
        self.detail = "\n".join(error.detail for error in errors if error.detail)
        self.exit_code = worst(error.exit_code for error in errors)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code for several failures: 1 if a step failed anywhere (something may have changed),
    else the highest, which is what keeps a run from starting at all."""
    known = set(codes)
    return 1 if 1 in known else max(known)


def joined(errors: Sequence[FreeholdError]) -> FreeholdError:
    """Return one error for one or more of them."""
    return errors[0] if len(errors) == 1 else CombinedError(errors)


EXIT_PLAN_HAS_CHANGES = 2
EXIT_INTERRUPTED = InterruptedRunError.exit_code
