"""Many machines at once, and one among many, on a control plane on loopback.

    python -m bench.joins [--only api,crowd,thousand] [--joins 50] [--crowd 200] [--nodes 1000] [--repeat 5]

It needs the built bundle and no lab: etcd, API server and controller manager run here with the product's flags, join
service and the controller as in the product (see tests/support/control_plane_on_loopback.py). A machine that joins runs
the agent's own `join-node` from token to `finish`: real TLS, requests and files; its kubelet only asks for its
certificate and reports once. Nothing is converged and no artifact fetched: this measures the control plane.
Figures go to standard output, progress to standard error.

crowd     CROWD machines start to join in the same moment
api       latency of the API server as one other client sees it, before and while JOINS machines join
thousand  one machine joins, REPEAT times, with 3 nodes and with NODES (leases kept every 10 s)
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.at_once import all_at_once
from tests.support.control_plane_on_loopback import ControlPlane, running
from tests.support.joiner import Joiner

from bench import load, pretend_nodes
from bench.figures import table
from bench.prober import Prober, latencies
from bench.watcher import is_ready
from freehold_bootstrap import node_admission
from freehold_bootstrap.node_admission import NODES, NodeRequest

ALONE = 10.0
"""Seconds that it is watched before the joins."""
SETTLE = 20.0
"""Seconds between many nodes and the first join beside them: two rounds of leases."""
KINDS = ("crowd", "api", "thousand")


class Crowd:
    """Machines that join in the same moment; times in seconds after it."""

    def __init__(self, plane: ControlPlane, directory: Path, count: int) -> None:
        places = [directory / f"crowd-{plane.number()}" for _ in range(count)]
        self._joiners = plane.many(lambda place: Joiner(plane, place), places)
        self.times: list[float] = []
        self.failed: list[str] = []

    def join(self) -> None:
        """Return when all have joined or failed."""
        self.times, self.failed = all_at_once(self._joiners, Joiner.join, lambda joiner: joiner.known.node)


def crowd(plane: ControlPlane, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All at once."""
    machines = Crowd(plane, directory, options.crowd)
    machines.join()
    plane.remove_all_nodes()
    return {"machines": options.crowd, "failed": machines.failed, **spread(machines.times)}


def api(plane: ControlPlane, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Another client's latency."""
    machines = Crowd(plane, directory, options.joins)
    prober = Prober(plane.server, authority(plane, directory), plane.admin_pair)
    time.sleep(ALONE)
    begun = time.monotonic()
    machines.join()
    ended = time.monotonic()
    samples = prober.stop()
    plane.remove_all_nodes()
    return {
        "machines": options.joins, "failed": machines.failed, "seconds": ended - begun,
        "alone": latencies(samples, begun - ALONE, begun), "during": latencies(samples, begun, ended),
    }  # fmt: skip


def authority(plane: ControlPlane, directory: Path) -> str:
    """Return the path of the CA certificate."""
    path = directory / "ca.pem"
    path.write_text(plane.pki.ca_pem())
    return str(path)


def thousand(plane: ControlPlane, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One machine among few and among many, which were admitted as it is: with records and documents."""
    result: dict[str, Any] = {}
    for count in (3, options.nodes):
        begun = time.monotonic()
        leases = pretend_nodes.Leases(plane.server, authority(plane, directory), plane.admin_pair, count)
        try:
            plane.many(lambda number: pretend(plane, number), range(count))
            say(f"{count} pretended nodes after {time.monotonic() - begun:.0f} s")
            time.sleep(SETTLE)
            times = []
            for number in range(options.repeat):
                joiner = Joiner(plane, directory / f"one-of-{count}-{number}")
                began = time.monotonic()
                joiner.join()
                times.append(time.monotonic() - began)
            alive = sum(is_ready(node) for node in plane.admin.list(NODES)["items"])
        finally:
            kept = leases.stop()
        result[str(count)] = {**spread(times), **kept, "ready": alive, "resident MiB": resident(plane)}
        plane.remove_all_nodes()
    return result


def pretend(plane: ControlPlane, number: int) -> None:
    """Admit one node and report for it."""
    name, address = pretend_nodes.name(number), f"10.78.{number >> 8}.{number & 255}"
    node_admission.admit(plane.installer, NodeRequest(name, (address,)), plane.settings)
    pretend_nodes.report_ready(plane.admin, name)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return least, median and most, in seconds."""
    if not times:
        return {}
    return {"first": min(times), "median": statistics.median(times), "last": max(times)}


def resident(plane: ControlPlane) -> dict[str, int]:
    """Return what each program of the control plane has in memory, MiB."""
    return {name: resident_of(program.pid) for name, program in plane.programs.items() if program.running}


def resident_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("VmRSS"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 when a machine failed to join."""
    options = parsed(arguments)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="freehold-joins-") as place, running(Path(place)) as plane:
        for kind in options.only:
            # What others used: our own control plane counts as ours, with this process.
            before, ours, begun = load.busy(), cpu(plane), time.monotonic()
            results[kind] = {"crowd": crowd, "api": api, "thousand": thousand}[kind](
                plane, Path(place), options
            )
            results[kind]["others"] = load.share(before, load.busy(), cpu(plane) - ours)
            for failure in results[kind].get("failed", ())[:10]:
                say(failure)
            say(f"{kind}: {time.monotonic() - begun:.0f} s, others used {results[kind]['others']:.0%}")
    print(json.dumps(results, indent=1) if options.output == "json" else report(results))
    return 1 if any(results.get(kind, {}).get("failed") for kind in ("crowd", "api")) else 0


def cpu(plane: ControlPlane) -> float:
    """Return CPU seconds of the control plane and of this process so far."""
    own = os.times()
    total = own.user + own.system
    for program in plane.programs.values():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / load.TICKS
    return total


def report(results: dict[str, Any]) -> str:
    """Return the figures as tables."""
    parts = []
    rows = []
    for kind, found in results.items():
        if kind == "crowd":
            rows.append(
                [f"{found['machines']} at once", *_times(found), str(len(found["failed"])), _noise(found)]
            )
        elif kind == "thousand":
            for count, one in found.items():
                if count.isdigit():
                    rows.append([f"one, beside {count} nodes", *_times(one), "0", _noise(found)])
    if rows:
        parts.append(table(["machines that join", "first s", "median s", "last s", "failed", "others"], rows))
    if found := results.get("api"):
        head = ["API server", "requests", "read p50 ms", "read p99", "write p50", "write p99", "others"]
        parts.append(
            table(
                head,
                [
                    [title, *(f"{value:.0f}" for value in found[key].values()), _noise(found)]
                    for key, title in (("alone", "no joins"), ("during", f"{found['machines']} joins"))
                ],
            )
        )
    if found := results.get("thousand"):
        for count, one in found.items():
            if count.isdigit():
                memory = ", ".join(f"{name} {size}" for name, size in one["resident MiB"].items())
                parts.append(
                    f"{count} nodes: {one['ready']} ready at the end; {one['renewed']} leases renewed, "
                    f"{one['missed']} missed, slowest round {one['slowest']:.1f} s; MiB: {memory}"
                )
    return "\n\n".join(parts)


def _times(found: dict[str, float]) -> list[str]:
    return [f"{found[name]:.2f}" if name in found else "-" for name in ("first", "median", "last")]


def _noise(found: dict[str, Any]) -> str:
    return f"{found['others']:.0%}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.joins",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--joins", type=int, default=50)
    parser.add_argument("--crowd", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(KINDS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    return options


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
