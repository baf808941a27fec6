"""What is measured, in an order in which each measurement leaves the lab as the next one needs it.

Each brings the lab to where it begins (not timed), waits for a quiet host, and returns one record as JSON values.
They use the `freehold` command as anyone would, and take its phases from its own JSON, whatever they are called.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import load, processes, product
from bench.machines import Lab
from bench.meter import Meter
from bench.watcher import Watcher

Record = dict[str, Any]
SHAPES = {"1+0": ("cp1",), "1+1": ("cp1", "w1"), "1+2": ("cp1", "w1", "w2")}
IDLE_SECONDS = 30.0
"""How long a cluster is left alone before its memory is read."""
VERIFY = "verify"
"""The phase that ends when pods resolved a name and reached a Service; the last one of apply."""


@dataclass
class Bench:
    """The lab, and what the measurements left on it."""

    lab: Lab
    directory: Path
    say: Callable[[str], None]
    patience: float = 60.0
    """Seconds to wait for a quiet host before a measurement."""
    programs: bool = False
    """Count CPU seconds by program, too; looking at all processes ten times a second makes runs slower."""
    applied: str = ""
    """The shape of the cluster that is there."""
    untouched: set[str] = field(default_factory=set)
    """Machines made anew that no run has changed."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Digest -> name, for programs that are started by their place in the store."""
    _state: Path = Path()

    def have_fresh(self, shape: str) -> None:
        """Have the machines of a shape as they come from the image, and no cluster anywhere in the lab."""
        if not self.applied and self.untouched >= set(SHAPES[shape]):
            return
        self._renew(SHAPES["1+2"])
        self.applied = ""
        self._state = Path(tempfile.mkdtemp(prefix="state-", dir=self.directory))

    def have_cluster(self, *shapes: str) -> None:
        """Have a cluster of one of these shapes; make the first where there is none."""
        if self.applied in shapes:
            return
        if (self.applied, shapes[0]) != ("1+1", "1+2") or "w2" not in self.untouched:
            self.have_fresh(shapes[0])
        self.freehold("apply", "--yes", "-i", self.inventory(shapes[0]))
        self.changed(shapes[0])

    def renew(self, machine: str) -> None:
        """Have one machine as it comes from the image, beside the cluster."""
        if machine not in self.untouched:
            self._renew((machine,))

    def changed(self, shape: str) -> None:
        """Note that an apply made a cluster of this shape."""
        self.applied = shape
        self.untouched -= set(SHAPES[shape])

    def forget(self) -> None:
        """Know nothing of the lab any more: something failed."""
        self.applied = ""
        self.untouched = set()

    def inventory(self, shape: str) -> str:
        return str(self.lab.part(SHAPES[shape], self.directory))

    def freehold(self, *arguments: str, codes: Sequence[int] = (0,)) -> product.Ran:
        return product.run(arguments, self._state, codes=codes)

    def timed(self, shape: str, *arguments: str, watch: bool = False, codes: Sequence[int] = (0,)) -> Record:
        """Run a command once the host is quiet; return its times, what was seen, and what it cost."""
        nodes = SHAPES[shape]
        command = [*arguments, "-i", self.inventory(shape)]
        load.wait_until_quiet(self.patience, self.say)
        pki = self._state / "freehold" / self.lab.name / "pki"
        watcher = Watcher(self.lab.address("cp1"), nodes, pki) if watch else None
        sampler = processes.Sampler({node: self.lab.pid(node) for node in nodes}) if self.programs else None
        meter = Meter(self.lab, [*nodes])
        with contextlib.ExitStack() as stack:
            for each in (watcher, sampler):
                if each is not None:
                    stack.enter_context(each)
            ran = self.freehold(*command, codes=codes)
            cost = meter.stop(ran.cpu)
        record: Record = {"begun": ran.begun, "wall": round(ran.wall, 3), **cost.to_json()}
        record["phases"] = ran.phases()
        record["begins"] = ran.begins()
        record["seen"] = (watcher.since(ran.begun) if watcher else {}) | _seen_by_product(ran)
        if (changes := planned(ran.result)) is not None:
            record["changes"] = changes
        if sampler is not None:
            record["programs"] = {
                machine: {
                    self.names.get(name, name): round(seconds, 2)
                    for name, seconds in cpu.items()
                    if seconds >= 0.05
                }
                for machine, cpu in sampler.cpu.items()
            }
        record["events"] = ran.events
        return record

    def _renew(self, machines: Sequence[str]) -> None:
        self.lab.fresh(machines)
        for machine in machines:
            load.wait_for_port(self.lab.address(machine), 22)
        self.untouched |= set(machines)


def _seen_by_product(ran: product.Ran) -> dict[str, float]:
    verified = [
        float(event["time"])
        for event in ran.events
        if event.get("event") == "phase-finished" and event.get("phase") == VERIFY
    ]
    return {"dns": max(verified)} if verified else {}


def planned(result: Mapping[str, Any]) -> int | None:
    """Return how many changes the plan in the output of `plan` or `apply` has; None when there is no plan."""
    plan = result.get("plan", result)
    if "machines" not in plan:
        return None
    changes = sum(len(machine["changes"]) for machine in plan["machines"])
    return changes + len(plan.get("objects", ())) + len(plan.get("toBeIssued", ()))


def _bundle(bench: Bench, extra: Mapping[str, str]) -> Record:
    load.wait_until_quiet(bench.patience, bench.say)
    ran = product.run(("bundle", "build"), bench.directory, extra=extra)
    made = ran.result.get("made", [])
    return {
        "begun": ran.begun,
        "wall": round(ran.wall, 3),
        "cpu": {"operator": round(ran.cpu, 2)},
        "made": made,
    }


def bundle_warm(bench: Bench) -> Record:
    """`freehold bundle build` when everything is there."""
    return _bundle(bench, {})


def bundle_cold(bench: Bench) -> Record:
    """The same with an empty store and an empty build cache; sources that Go downloaded before stay."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as store, tempfile.TemporaryDirectory() as cache:
        return _bundle(bench, {"FREEHOLD_CACHE": store, "GOCACHE": cache})


def _apply(shape: str) -> Callable[[Bench], Record]:
    def measure(bench: Bench) -> Record:
        bench.have_fresh(shape)
        record = bench.timed(shape, "apply", "--yes", watch=True)
        bench.changed(shape)
        return record

    return measure


def plan_fresh(bench: Bench) -> Record:
    """`plan` of 1+1 on machines that have nothing yet."""
    bench.have_fresh("1+1")
    return bench.timed("1+1", "plan", codes=(2,))


def plan_converged(bench: Bench) -> Record:
    """`plan` when there is nothing to do."""
    bench.have_cluster("1+1")
    return bench.timed("1+1", "plan")


def apply_converged(bench: Bench) -> Record:
    """`apply` when there is nothing to do."""
    bench.have_cluster("1+1")
    record = bench.timed("1+1", "apply", "--yes")
    if record.get("changes"):
        raise SystemExit(f"the cluster was not converged: apply made {record['changes']} changes")
    return record


def worker(bench: Bench) -> Record:
    """One more worker for a running cluster: 1+1 becomes 1+2."""
    bench.have_cluster("1+1")
    bench.renew("w2")
    record = bench.timed("1+2", "apply", "--yes", watch=True)
    bench.changed("1+2")
    return record


def idle(bench: Bench) -> Record:
    """Memory of every program, and the CPU they use, when nobody asks anything."""
    bench.have_cluster("1+1", "1+2")
    time.sleep(IDLE_SECONDS / 2)
    machines = ["cp1", "w1"]
    meter = Meter(bench.lab, machines)
    begun = time.time()
    time.sleep(IDLE_SECONDS / 2)
    cost = meter.stop()
    seconds = time.time() - begun
    return {
        "begun": begun,
        **{key: value for key, value in cost.to_json().items() if key in ("others", "load")},
        "cores": {name: round(machine.cpu / seconds, 3) for name, machine in cost.machines.items()},
        "memory": {
            machine: [
                {**entry.to_json(), "name": bench.names.get(entry.name, entry.name)}
                for entry in processes.memory(bench.lab.pid(machine))
            ]
            for machine in machines
        },
    }


def reset_worker(bench: Bench) -> Record:
    """One worker leaves: 1+2 becomes 1+1."""
    bench.have_cluster("1+2")
    record = bench.timed("1+2", "reset", "--yes", "--machine", "w2")
    bench.applied = "1+1"
    return record


def reset_all(bench: Bench) -> Record:
    """The cluster of 1+1 goes."""
    bench.have_cluster("1+1")
    record = bench.timed("1+1", "reset", "--yes")
    bench.forget()
    return record


MEASUREMENTS: dict[str, tuple[str, Callable[[Bench], Record]]] = {
    "bundle-warm": ("bundle build, all there", bundle_warm),
    "apply-1+0": ("apply 1+0, fresh machine", _apply("1+0")),
    "plan-fresh": ("plan 1+1, fresh machines", plan_fresh),
    "apply-1+1": ("apply 1+1, fresh machines", _apply("1+1")),
    "plan-converged": ("plan 1+1, nothing to do", plan_converged),
    "apply-converged": ("apply 1+1, nothing to do", apply_converged),
    "worker": ("one more worker, 1+1 to 1+2", worker),
    "idle": (f"idle for {IDLE_SECONDS:.0f} s", idle),
    "reset-worker": ("reset of one worker", reset_worker),
    "reset-all": ("reset of 1+1", reset_all),
    "apply-1+2": ("apply 1+2, fresh machines", _apply("1+2")),
}
"""Name -> title and what does it, in the order of a round."""
COLD = "bundle-cold"
COLD_MEASUREMENT = ("bundle build from nothing", bundle_cold)


def host() -> dict[str, Any]:
    """Return what this host is, for the record."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cores": os.cpu_count(), "memory": memory, "kernel": os.uname().release}
