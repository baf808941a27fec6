"""One client of an API server that reads and writes a small object again and again, and how long each request took.

    python -m bench.prober SERVER CA-FILE PAIR-FILE

asks until its standard input ends, then prints [moment, read, write] in seconds for each round: a process of its own,
because threads of a busy one would measure each other. It counts what a client sees: requests over one kept connection.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from freehold_agent.machine.kubernetes_api import KubernetesApi

PLACE = "/api/v1/namespaces/default/configmaps/probe"
PAUSE = 0.02
"""Seconds between two rounds."""

Sample = tuple[float, float, float]


class Prober:
    """Asks from construction to `stop`."""

    def __init__(self, server: str, ca: str, pair: str) -> None:
        """`ca` and `pair` are paths."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.prober", server, ca, pair],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> list[Sample]:
        """Return the samples; moments are those of the monotonic clock, which all processes share."""
        told, _ = self._process.communicate()
        return [(moment, read, write) for moment, read, write in json.loads(told)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share (0 to 1) of them lies; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def latencies(samples: Sequence[Sample], begin: float, end: float) -> dict[str, float]:
    """Return how many requests fell between two moments, and p50 and p99 of reads and writes in milliseconds."""
    chosen = [sample for sample in samples if begin <= sample[0] <= end]
    found: dict[str, float] = {"requests": 2 * len(chosen)}
    for title, column in (("read", 1), ("write", 2)):
        for share in (0.5, 0.99):
            found[f"{title} p{share * 100:.0f}"] = percentile([one[column] for one in chosen], share) * 1000
    return found


def ask(api: KubernetesApi, stop: threading.Event) -> list[Sample]:
    """Ask until told to stop. Raises ApiError, OSError."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}
    api.apply(PLACE, {**body, "data": {}})
    samples: list[Sample] = []
    while not stop.wait(PAUSE):
        begun = time.monotonic()
        api.get(PLACE)
        middle = time.monotonic()
        api.apply(PLACE, {**body, "data": {"number": str(len(samples))}})
        samples.append((begun, middle - begun, time.monotonic() - middle))
    return samples


def main() -> int:
    """Ask until standard input ends."""
    server, ca, pair = sys.argv[1:]
    api = KubernetesApi(server, ca_pem=Path(ca).read_text(), client_certificate=pair, timeout=30)
    stop = threading.Event()

    def end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=end, daemon=True).start()
    print(json.dumps(ask(api, stop)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
