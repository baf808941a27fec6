"""Measure freehold on a lab of its own and print the figures.

    python -m bench [--runs 3] [--only NAME[,NAME]] [--output json] [--programs] [--cold]

Tables go to standard output, progress to standard error, every record with its events to bench/results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machines import ROOT, Lab
from bench.measurements import COLD, COLD_MEASUREMENT, MEASUREMENTS, Bench, Record, host
from bench.report import report
from bench.timeline import titles_of_bundle

RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements; return 0, or 1 when one of them failed."""
    options = parsed(arguments)
    lab = Lab(os.environ.get("FREEHOLD_LAB", "fh-bench"), os.environ.get("FREEHOLD_LAB_SHAPE", "1+2"))
    kept = RESULTS / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    kept.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="freehold-bench-") as directory:
        lab.up()
        names = {digest: name.rsplit("/", 1)[-1] for digest, name in titles_of_bundle().items()}
        bench = Bench(lab, Path(directory), _say, options.patience, options.programs, names=names)
        results = measured(bench, options.only, options.runs, kept, cold=options.cold)
    print(json.dumps(results, indent=1) if options.output == "json" else report(results), end="")
    _say(f"kept in {kept.relative_to(ROOT)}")
    return 1 if results["failed"] else 0


def measured(
    bench: Bench, names: Sequence[str], runs: int, kept: Path, *, cold: bool = False
) -> dict[str, Any]:
    """Measure round by round, so that a change of the host's mood reaches all; keep everything on the way."""
    chosen = {name: MEASUREMENTS[name] for name in names}
    titles = {name: title for name, (title, _) in chosen.items()}
    records: dict[str, list[Record]] = {name: [] for name in chosen}
    failed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    results = {
        "begun": time.time(), "commit": commit(), "host": host(), "titles": titles, "records": records,
        "failed": failed,
    }  # fmt: skip
    todo: list[tuple[int, str, Callable[[Bench], Record]]] = [
        (run, name, measure) for run in range(1, runs + 1) for name, (_, measure) in chosen.items()
    ]
    if cold:
        titles[COLD], measure_cold = COLD_MEASUREMENT
        records[COLD] = []
        todo.append((1, COLD, measure_cold))
    try:
        for run, name, measure in todo:
            _one(bench, run, name, measure, records, failed, kept)
            _write(kept / "summary.json", {**results, "records": _brief(records)})
    except KeyboardInterrupt:
        _say("interrupted: the figures are of what was measured")
    return {**results, "failed": dict(failed)}


def _one(
    bench: Bench, run: int, name: str, measure: Callable[[Bench], Record],
    records: dict[str, list[Record]], failed: dict[str, list[dict[str, Any]]], kept: Path,
) -> None:  # fmt: skip
    try:
        record = measure(bench)
    except (SystemExit, OSError, subprocess.CalledProcessError) as error:
        bench.forget()
        failed[name].append({"run": run, "why": str(error)})
        _say(f"{name} ({run}) failed: {error}")
        return
    records[name].append(record)
    _write(kept / f"{name}-{run}.json", record)
    noise = f", others used {record['others']:.0%} of the host" if "others" in record else ""
    _say(f"{name} ({run}): {record['wall']:.2f} s{noise}" if "wall" in record else f"{name} ({run}){noise}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--only", type=_names, default=list(MEASUREMENTS), metavar="NAME[,NAME]", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument(
        "--cold", action="store_true", help="also build the bundle from nothing (many minutes)"
    )
    parser.add_argument(
        "--programs",
        action="store_true",
        help="also CPU by program; costs up to a tenth of a core, so not for times",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds to wait for a quiet host before each measurement",
    )
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def commit() -> str:
    """Return what was measured: the commit, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True
        )
        return done.stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "agent", "bootstrap", "controller", "installer"
    )
    return (git("rev-parse", "--short", "HEAD") or "no commit") + (" with changes" if changed else "")


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        raise argparse.ArgumentTypeError(f"no such measurement: {', '.join(unknown)}")
    return [name for name in MEASUREMENTS if name in names]


def _brief(records: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Leave out events: they are in files of their own."""
    return {
        name: [{key: value for key, value in record.items() if key != "events"} for record in runs]
        for name, runs in records.items()
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
