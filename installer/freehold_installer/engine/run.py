"""One run of a verb: the inventory, the operator's files, the open machines, where events go.

Everything a workflow needs is reached from here; nothing here knows what a workflow does.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from freehold_installer.engine import events
from freehold_installer.engine.endpoint import Endpoint, endpoint_of
from freehold_installer.engine.host_keys import KnownHosts, NewKey, settle
from freehold_installer.engine.journal import Journal, unfinished
from freehold_installer.engine.lock import locked
from freehold_installer.errors import InputError, InterruptedRunError
from freehold_installer.state_dir import StateDir

if TYPE_CHECKING:
    from freehold_installer.bundle.store import Store
    from freehold_installer.config.model import Inventory
    from freehold_installer.engine.adapter import Fleet
    from freehold_installer.engine.lanes import Lane, Outcome, Phase
    from freehold_installer.engine.machine import Machine
    from freehold_installer.plan import Plan


class Console(Protocol):
    """What a run needs of the terminal; `freehold_installer.console` is the real one."""

    interactive: bool

    def emit(self, event: events.Event) -> None: ...

    def show_plan(self, plan: "Plan") -> None: ...

    def ask(self, question: str) -> bool: ...

    def show_new_keys(self, keys: Sequence[NewKey]) -> None: ...

    def live(self, machines: Sequence[str]) -> contextlib.AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    yes: bool = False
    accept_new_host_keys: bool = False
    plan_digest: str = ""
    """The only plan that may be carried out; empty: whichever is found."""
    verbose: bool = False
    machines: tuple[str, ...] = ()
    """Only these; empty: all."""


class Run:
    """Use it as a context manager: leaving it closes connections and journal, and frees the lock."""

    def __init__(self, inventory: "Inventory", console: Console, verb: str, options: Options) -> None:
        self.inventory = inventory
        self.console = console
        self.verb = verb
        self.options = options
        self.state_dir = StateDir(inventory.state_dir)
        self.machines: dict[str, Machine] = {}
        """Open machines by name; filled by `connect`."""
        self.journal: Journal | None = None
        """Only while a changing run holds the lock."""
        self.outcome: Outcome | None = None
        """What the phases did so far, also when they failed."""
        self._store: Store | None = None
        self._fleet: Fleet | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fleet is not None:
            self._fleet.close()
        if self.journal is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            self.journal.close("done" if error is None else "interrupted" if interrupted else "failed")
        self._exit.close()

    @property
    def store(self) -> "Store":
        """The operator's artifact store."""
        if self._store is None:
            from freehold_installer.bundle.store import Store

            self._store = Store()
        return self._store

    def emit(self, event: events.Event) -> None:
        self.console.emit(event)

    def note(self, text: str, level: str = "info") -> None:
        self.emit(events.Note(text, level=level))

    def begin_changes(self) -> None:
        """Take the cluster's lock, open the journal, tell what a killed run was doing. Raises LockedError."""
        if self.journal is not None:
            return
        self.state_dir.create()
        self._exit.enter_context(locked(self.state_dir.path))
        before = unfinished(self.state_dir.journal)
        if before is not None:
            self.note(
                f"{before}; this run looks at everything again and goes on from what it finds", "warning"
            )
        self.journal = Journal(self.state_dir.journal, self.verb)

    def connect(self, names: Iterable[str] | None = None) -> None:
        """Open connections to machines of the inventory (all, or these) that are not open yet, in parallel.

        Host keys are settled first. Afterwards each machine is known to have a root shell and a Python.
        Raises UnreachableError or UnfitError listing every machine that failed.
        """
        from freehold_installer.engine.adapter import Fleet, in_parallel
        from freehold_installer.engine.machine import Machine

        wanted = [self.host(name) for name in (self.inventory.hosts if names is None else names)]
        endpoints = [endpoint_of(self.inventory, host) for host in wanted if host.name not in self.machines]
        if not endpoints:
            return
        self.state_dir.create()
        known = KnownHosts(self.state_dir.known_hosts)
        if self._fleet is None:
            self._fleet = Fleet(known)
        self._settle_host_keys(endpoints, known, self._fleet)
        clients = self._fleet.connect(endpoints)
        opened = [
            Machine(self.inventory.hosts[item.name], item, clients[item.name], known.path)
            for item in endpoints
        ]
        in_parallel(opened, lambda machine: machine.probe())
        self.machines.update((machine.name, machine) for machine in opened)

    def host(self, name: str) -> Any:
        """Return a host of the inventory. Raises InputError for another name."""
        try:
            return self.inventory.hosts[name]
        except KeyError:
            raise InputError(
                f"{name} is not in the inventory", hint="it has: " + ", ".join(self.inventory.hosts)
            ) from None

    def lanes(self, names: Iterable[str] | None = None) -> list["Lane"]:
        """Return new lanes for open machines (all, or these), in the order of the inventory."""
        from freehold_installer.engine.lanes import Lane

        wanted = set(self.machines if names is None else names)
        return [
            Lane(name, host, self.machines[name], self)
            for name, host in self.inventory.hosts.items()
            if name in wanted
        ]

    def execute(self, phases: Sequence["Phase"], names: Iterable[str] | None = None) -> "Outcome":
        """Run phases on open machines with live progress. Raises one error that lists every failure."""
        from freehold_installer.engine.lanes import Outcome, run_phases

        lanes = self.lanes(names)
        self.outcome = Outcome()
        with self.console.live([lane.name for lane in lanes]):
            return run_phases(phases, lanes, self.emit, journal=self.journal, outcome=self.outcome)

    def each(self, work: Callable[["Machine"], Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        """Do the same on open machines at once; return the results by name. Raises one error for all."""
        from freehold_installer.engine.adapter import in_parallel

        machines = [self.machines[name] for name in (self.machines if names is None else names)]
        return in_parallel(machines, work)

    def confirm(self, question: str, otherwise: str) -> None:
        """Ask on a terminal, or be content with `--yes`. Raises InputError, saying `otherwise`, when there is
        neither; DeclinedError when the answer is no."""
        if self.options.yes:
            return
        if not self.console.interactive:
            raise InputError(otherwise, hint="pass --yes to go on without being asked")
        if not self.console.ask(question):
            raise DeclinedError("nothing was changed")

    def _settle_host_keys(self, endpoints: Sequence[Endpoint], known: KnownHosts, fleet: "Fleet") -> None:
        def ask(keys: Sequence[NewKey]) -> bool:
            self.console.show_new_keys(keys)
            return self.console.ask("Are these the keys of your machines?")

        accepted = settle(
            endpoints,
            known,
            scan=fleet.scan,
            accept_new=self.options.accept_new_host_keys,
            ask=ask if self.console.interactive else None,
        )
        if accepted and self.options.accept_new_host_keys:
            self.console.show_new_keys(accepted)


class DeclinedError(InterruptedRunError):
    """A person said no."""
