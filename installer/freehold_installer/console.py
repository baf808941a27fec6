"""What a person sees: live progress, plans, tables, errors. The only module that imports rich.

Progress and errors go to standard error, data to standard output. On a terminal there is one live line per
machine; elsewhere plain lines with times; with `--output json` events are JSON lines on standard error.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from freehold_installer.cli import plan_text
from freehold_installer.engine import events

if TYPE_CHECKING:
    from freehold_installer.engine.host_keys import NewKey
    from freehold_installer.engine.lanes import Outcome
    from freehold_installer.errors import FreeholdError
    from freehold_installer.plan import Plan

OutputMode = Literal["text", "json"]
STYLES = {
    "title": "bold",
    "create": "green",
    "update": "yellow",
    "delete": "red",
    "context": "dim",
    "note": "cyan",
    "summary": "bold",
}
FRAMES_PER_SECOND = 6


@dataclass
class _Row:
    """What a machine does now."""

    title: str = ""
    text: str = "waits to start"
    state: str = "waiting"
    since: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0


class Console:
    """Give it the output mode; streams are for tests."""

    def __init__(
        self, mode: OutputMode = "text", *, verbose: bool = False, out: Any = None, err: Any = None
    ) -> None:
        self.mode = mode
        self.verbose = verbose
        self._out = RichConsole(file=out or sys.stdout, markup=False, highlight=False, soft_wrap=True)
        self._err = RichConsole(file=err or sys.stderr, markup=False, highlight=False, soft_wrap=True)
        self._rows: dict[str, _Row] = {}
        self._live: Live | None = None
        self._titles: dict[str, str] = {}
        self.interactive = mode == "text" and self._err.is_terminal and sys.stdin.isatty()
        """May a question be asked?"""

    # --- progress ------------------------------------------------------------------------------------------

    def emit(self, event: events.Event) -> None:
        """Show what happens; in JSON mode with `time`, in Unix seconds."""
        if self.mode == "json":
            self._json({"time": round(time.time(), 3), **events.to_json(event)})
            return
        if isinstance(event, events.Note):
            where = f"{event.machine}: " if event.machine else ""
            style = "yellow" if event.level == "warning" else None
            self._say(Text(f"{where}{event.text}", style or ""))
            return
        if isinstance(event, events.Changed):
            return
        self._update_row(event)
        if self._live is None:
            self._plain(event)

    @contextlib.contextmanager
    def live(self, machines: Sequence[str]) -> Iterator[None]:
        """Show one line per machine while inside, on a terminal; otherwise nothing changes."""
        self._rows = {name: _Row() for name in machines}
        if self.mode == "json" or not self._err.is_terminal:
            yield
            return
        view = Live(
            console=self._err,
            get_renderable=self._progress,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with view:
            self._live = view
            try:
                yield
            finally:
                self._live = None

    def _update_row(self, event: events.Event) -> None:
        if isinstance(event, events.Note | events.Changed):
            return
        row = self._rows.setdefault(event.machine, _Row())
        if isinstance(event, events.PhaseStarted):
            self._titles[event.phase] = event.title
            self._rows[event.machine] = _Row(event.title, "", "running")
        elif isinstance(event, events.Waiting):
            self._rows[event.machine] = _Row("", f"waits for {event.what}", "waiting")
        elif isinstance(event, events.Step):
            row.text, row.done, row.total = event.text, event.done, event.total
        else:
            row.state, row.done, row.total = event.outcome, 0, 0
            row.text = event.message or row.text

    def _plain(self, event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted):
            self._line(event.machine, event.title)
        elif isinstance(event, events.PhaseFinished):
            title = self._titles.get(event.phase, event.phase)
            reason = f": {event.message}" if event.message else ""
            self._line(event.machine, f"{title}: {event.outcome} after {event.seconds:.1f} s{reason}")
        elif isinstance(event, events.Waiting) and self.verbose:
            self._line(event.machine, f"waits for {event.what}")
        elif isinstance(event, events.Step) and self.verbose and not event.total:
            self._line(event.machine, f"  {event.text}")

    def _line(self, machine: str, text: str) -> None:
        self._say(Text(f"{time.strftime('%H:%M:%S')}  {machine:<12}  {text}"))

    def _progress(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for name, row in self._rows.items():
            table.add_row(
                Text(name, "bold"),
                Text(row.title or _STATES.get(row.state, "")),
                Text(
                    row.text + _counted(row), "red" if row.state == "failed" else "dim", overflow="ellipsis"
                ),
                Text(f"{now - row.since:.1f} s", "dim") if row.state == "running" else Text(""),
            )
        return table

    # --- plans and tables ----------------------------------------------------------------------------------

    def show_plan(self, plan: "Plan") -> None:
        """Print a plan on standard output; in JSON mode it is an event, because data comes once, at the end."""
        if self.mode == "json":
            self._json({"event": "plan", **plan.to_json()})
            return
        for kind, line in plan_text.lines(plan, verbose=self.verbose):
            self._out.print(Text(line, STYLES[kind]))

    def show_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on standard output."""
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), title_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def show_outcome(self, outcome: "Outcome") -> None:
        """Print how long each phase took on each machine, on standard error."""
        if self.mode == "json":
            self._json({"event": "outcome", **outcome.to_json()})
            return
        machines = list(dict.fromkeys(timing.machine for timing in outcome.timings))
        spent = {(timing.phase, timing.machine): timing for timing in outcome.timings}
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("seconds")
        for machine in machines:
            table.add_column(machine, justify="right")
        for phase in dict.fromkeys(timing.phase for timing in outcome.timings):
            cells = [_seconds(spent.get((phase, machine))) for machine in machines]
            table.add_row(Text(self._titles.get(phase, phase)), *(Text(cell) for cell in cells))
        self._say(table)
        self._say(Text(f"{outcome.seconds:.1f} s in all", "bold"))

    def data(self, value: Any) -> None:
        """Print JSON on standard output."""
        self._out.file.write(json.dumps(value, indent=2) + "\n")

    def text(self, text: str) -> None:
        """Print a text as it is on standard output."""
        self._out.file.write(text)

    def say(self, text: str) -> None:
        """Print a sentence for people, on standard error; in JSON mode it is a note."""
        self.emit(events.Note(text))

    # --- questions and errors ------------------------------------------------------------------------------

    def show_new_keys(self, keys: Sequence["NewKey"]) -> None:
        """Print the fingerprints of host keys."""
        if self.mode == "json":
            for item in keys:
                self._json(
                    {"event": "host-key", "machine": item.endpoint.name, "fingerprint": item.key.fingerprint}
                )
            return
        self._say(Text("host keys of machines that this cluster has not met before:", "bold"))
        for item in keys:
            self._say(
                Text(
                    f"  {item.endpoint.name:<12}  {item.endpoint.where}  {item.key.kind}  {item.key.fingerprint}"
                )
            )

    def ask(self, question: str) -> bool:
        """Ask on the terminal; only `yes` or `y` is a yes."""
        self._err.file.write(f"{question} [y/N] ")
        self._err.file.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def show_error(self, error: "FreeholdError", *, then: str = "") -> None:
        """Print what went wrong, what to do about it, and the command that continues."""
        if self.mode == "json":
            body = {
                "message": error.message,
                "hint": error.hint,
                "exitCode": error.exit_code,
                "continue": then,
            }
            self._json({"error": body})
            return
        first, *rest = error.message.split("\n")
        self._say(Text.assemble(("error: ", "bold red"), first))
        for line in rest:
            self._say(Text(f"       {line}"))
        if error.detail and self.verbose:
            for line in error.detail.rstrip().split("\n"):
                self._say(Text(f"     | {line}", "dim"))
        for line in filter(None, error.hint.split("\n")):
            self._say(Text(f"       {line}", "cyan"))
        if then:
            self._say(Text.assemble("to continue: ", (then, "bold")))

    def _say(self, what: RenderableType) -> None:
        (self._live.console if self._live else self._err).print(what)

    def _json(self, value: Mapping[str, Any]) -> None:
        self._err.file.write(json.dumps(value) + "\n")
        self._err.file.flush()


_STATES = {
    "done": "done",
    "blocked": "stopped",
    "failed": "failed",
    "waiting": "waits",
    "interrupted": "stopped",
}


def _counted(row: _Row) -> str:
    if not row.total:
        return ""
    seconds = max(time.monotonic() - row.since, 0.001)
    rate = row.done / seconds
    left = f", {(row.total - row.done) / rate:.0f} s left" if rate and row.done < row.total else ""
    return f"  {row.done / 1e6:.0f} of {row.total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s{left}"


def _seconds(timing: Any) -> str:
    if timing is None:
        return ""
    return f"{timing.seconds:.1f}" if timing.outcome == "done" else f"{timing.outcome} {timing.seconds:.1f}"
