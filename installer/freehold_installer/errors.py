"""Everything that can go wrong for a person, each with its exit code and, where they can act, a hint.

docs/reference/exit-codes.md lists the same codes; a test compares the two.
"""


class FreeholdError(Exception):
    """One clear message; `hint` says what to do next."""

    exit_code = 1
    meaning = "a step failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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

    def __init__(self, machine: str, step: str, said: str, *, hint: str = "") -> None:
        super().__init__(f"{machine}: {step} failed: {said}", hint=hint)
        self.machine = machine
        self.step = step
        self.said = said


class BundleError(FreeholdError):
    exit_code = 3
    meaning = InputError.meaning


EXIT_PLAN_HAS_CHANGES = 2
EXIT_INTERRUPTED = 130
