"""From what happened to an exit code and one clear message: the only place that catches everything."""

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from freehold_installer.cli.settings import Settings
from freehold_installer.errors import (
    EXIT_INTERRUPTED,
    CombinedError,
    FreeholdError,
    InputError,
    InterruptedRunError,
)


def guarded(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    settings = Settings(arguments=tuple(arguments))
    try:
        return _invoke(arguments, settings)
    except FreeholdError as error:
        _keep_causes(error, settings)
        settings.console.show_error(error, then=_continue(settings, error.exit_code))
        return error.exit_code
    except KeyboardInterrupt:
        settings.console.show_error(_interrupted(settings), then=_continue(settings, EXIT_INTERRUPTED))
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has read enough: `freehold plan | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:  # noqa: BLE001 - the end of the line: one sentence, and the traceback in a file
        kept = _keep(_trace(error), settings)
        unexpected = FreeholdError(
            f"{type(error).__name__}: {error}", hint=f"this is a defect of freehold; details are in {kept}"
        )
        settings.console.show_error(unexpected, then=_continue(settings, 1))
        return 1


def _invoke(arguments: Sequence[str], settings: Settings) -> int:
    import typer.main

    from freehold_installer.cli.app import app

    try:
        code = typer.main.get_command(app).main(
            list(arguments), prog_name="freehold", standalone_mode=False, obj=settings
        )
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise _usage(error) from error
    if code == EXIT_INTERRUPTED:  # typer swallows the interruption itself
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> InputError:
    """Return a usage error as one of ours: typer exits 2 for it, which for us means 'plan has changes'."""
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if context is None:
        return InputError(message, hint="freehold --help")
    if not message:
        return InputError("a command is missing", hint=f"{context.command_path} --help")
    return InputError(message, hint=f"{context.command_path} --help")


def _interrupted(settings: Settings) -> FreeholdError:
    hint = (
        "what is done stays; nothing runs on any machine any more on our behalf" if settings.continues else ""
    )
    return InterruptedRunError("interrupted", hint=hint)


def _continue(settings: Settings, code: int) -> str:
    """Return the command that goes on, where a verb can: the same again."""
    if not settings.continues or code == InputError.exit_code:
        return ""
    return shlex.join(["freehold", *settings.arguments])


def _keep_causes(error: FreeholdError, settings: Settings) -> None:
    """Write the tracebacks of defects inside an error to a file, and say where."""
    texts = [_trace(cause) for cause in _defects(error)]
    if texts:
        kept = _keep("\n".join(texts), settings)
        error.hint = f"{error.hint}\ndetails are in {kept}".strip()


def _defects(error: FreeholdError) -> Iterator[BaseException]:
    from freehold_installer.engine.lanes import InternalError

    for each in error.errors if isinstance(error, CombinedError) else (error,):
        if isinstance(each, InternalError) and each.__cause__ is not None:
            yield each.__cause__


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _keep(text: str, settings: Settings) -> Path | str:
    from freehold_installer.state_dir import StateDir

    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "freehold"
    state_dir = settings.state_dir or StateDir(base)
    text = f"freehold {shlex.join(settings.arguments)}\nPython {sys.version}\n\n{text}"
    try:
        return state_dir.save_failure(text)
    except OSError as error:
        return f"no file: {error}"
