"""What the API server's start costs while the release's bytes stream to the same machine, and what helps.

    python -m bench.readyz_while_streaming [--runs 3] [--only NAME ...]

On the lab's cp1, which must hold an applied control plane (`python -m bench --only apply-1+0` leaves one): all
units are stopped, etcd's data is removed, then etcd and the API server start from nothing while the whole bundle is
streamed into a directory beside the store, as apply does it. The variants change how it is sent and kept.
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import load
from bench.machines import Lab, counted
from bench.processes import Sampler

UNITS = (
    *(
        "freehold-agent",
        "kube-proxy",
        "flannel",
        "kubelet",
        "freehold-controller",
        "freehold-join",
        "coredns",
    ),
    *("kube-scheduler", "kube-controller-manager", "freehold-api-ready", "kube-apiserver", "etcd"),
    *("freehold-artifacts", "containerd"),
)
PLACE = "/opt/freehold-bench"


@dataclass(frozen=True)
class Variant:
    about: str
    stream: bool = True
    rate: float = 0.0
    """Megabytes per second, 0: as fast as it goes."""
    patches: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Module of the agent -> texts to replace, in memory only."""
    environment: str = ""
    """For the API server's unit."""


_RENAME = "        self.close()\n        os.rename(self._part, self.final)\n"
SYNC = {"freehold_agent.store": ((_RENAME, f"        os.fsync(self._descriptor)\n{_RENAME}"),)}
_RECEIVE = "    machine = machine or ThisMachine()\n    wanted = _header"
_LOWERED = "    for process in (0, os.getppid()):\n        os.setpriority(os.PRIO_PROCESS, process, 19)\n"
NICE = {"freehold_agent.fetch": ((_RECEIVE, _LOWERED + _RECEIVE),)}
VARIANTS = {
    "alone": Variant("nothing else runs", stream=False),
    "stream": Variant("the bytes stream at the same time"),
    "fsync": Variant("they stream, and each file is made durable as it comes", patches=SYNC),
    "nice": Variant("they stream to a receiver with nice 19", patches=NICE),
    "throttled": Variant("they stream at 100 MB/s", rate=100.0),
    "gogc": Variant("nothing else runs, GOGC=400 for the API server", stream=False, environment="GOGC=400"),
    "stream-gogc": Variant("the bytes stream, GOGC=400 for the API server", environment="GOGC=400"),
}


class Experiment:
    def __init__(self, lab: Lab, machine: Any, files: list[Any], sources: dict[str, str]) -> None:
        self._lab = lab
        self._machine = machine
        self._files = files
        self._sources = sources
        self._address = lab.address("cp1")
        self._pid = lab.pid("cp1")
        self._ca = lab.execute("cp1", "cat", "/etc/kubernetes/pki/ca.crt")

    def one(self, variant: Variant) -> dict[str, float]:
        """Return seconds until TLS and `/readyz`, CPU seconds by program, and what others used of the host."""
        self._prepare(variant)
        before, host = counted(self._pid), load.busy()
        sampler = Sampler({"cp1": self._pid})
        result: dict[str, float] = {}
        with sampler:
            begun = time.monotonic()
            sender = threading.Thread(target=self._send, args=(variant, result), daemon=True)
            self._lab.execute("cp1", "systemctl", "start", "--no-block", "etcd", "kube-apiserver")
            if variant.stream:
                sender.start()
            result["tls"] = self._wait(begun, self._answers_tls)
            result["readyz"] = self._wait(begun, self._is_ready)
            if variant.stream:
                sender.join()
        cpu = sampler.cpu["cp1"]
        used = counted(self._pid).since(before)
        result["cpu apiserver"] = cpu["kube-apiserver"]
        result["cpu etcd"] = cpu["etcd"]
        result["cpu machine"] = used.cpu
        result["others"] = load.share(host, load.busy(), used.cpu)
        return {name: round(value, 2) for name, value in result.items()}

    def _prepare(self, variant: Variant) -> None:
        drop_in = "/run/systemd/system/kube-apiserver.service.d"
        lines = f"[Service]\\nEnvironment={variant.environment}\\n" if variant.environment else ""
        self._lab.execute("cp1", "systemctl", "stop", *UNITS, check=False)
        self._lab.execute(
            "cp1", "sh", "-c",
            f"rm -rf /var/lib/etcd/member {PLACE} {drop_in}; mkdir -p {PLACE} {drop_in}; "
            f"printf '{lines}' > {drop_in}/bench.conf; systemctl daemon-reload; sync",
        )  # fmt: skip

    def _send(self, variant: Variant, result: dict[str, float]) -> None:
        import gevent

        from freehold_installer.engine import machine as engine

        patched = dict(self._sources)
        paths = patched["freehold_agent.contract.paths"]
        patched["freehold_agent.contract.paths"] = (
            f'{paths}\nSTORE = "{PLACE}/sha256"\nHASHES = "{PLACE}/hashes"\n'
        )
        for module, replacements in variant.patches.items():
            for old, new in replacements:
                if old not in patched[module]:
                    raise SystemExit(f"{module} has changed: this experiment must follow")
                patched[module] = patched[module].replace(old, new)
        engine._sources = lambda: patched  # type: ignore[assignment]
        started = time.monotonic()

        def pace(sent: int, _total: int) -> None:
            ahead = sent / 1e6 / variant.rate - (time.monotonic() - started) if variant.rate else 0.0
            if ahead > 0:
                gevent.sleep(ahead)

        self._machine.stream(self._files, pace)
        result["stream"] = time.monotonic() - started

    def _wait(self, begun: float, look: Callable[[], bool]) -> float:
        while not look():
            if time.monotonic() - begun > 120:
                raise SystemExit("the API server did not come up within 120 s")
            time.sleep(0.02)
        return time.monotonic() - begun

    def _answers_tls(self) -> bool:
        try:
            with socket.create_connection((self._address, 6443), 1):
                return True
        except OSError:
            return False

    def _is_ready(self) -> bool:
        from freehold_agent.machine.kubernetes_api import KubernetesApi

        api = KubernetesApi(f"https://{self._address}:6443", ca_pem=self._ca)
        try:
            return api.healthy()
        finally:
            api.close()


def _silently(_text: str) -> None:
    """Nobody is told that we wait."""


def main() -> None:
    import gevent.monkey

    gevent.monkey.patch_all()
    from freehold_agent.machine import in_memory
    from freehold_installer.config import load as load_inventory
    from freehold_installer.console import Console
    from freehold_installer.engine.run import Options, Run
    from freehold_installer.phases import release

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds to wait for a quiet host, per run"
    )
    arguments = parser.parse_args()
    lab = Lab()
    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as silent:
        inventory = load_inventory(lab.part(["cp1"], Path(directory)))
        with Run(
            inventory, Console("json", err=silent), "bench", Options(yes=True, accept_new_host_keys=True)
        ) as run:
            run.connect()
            manifest = release.manifest_for(run.store, "1.37.2", {"cp1": "amd64"}, metrics_server=True)
            files = release.local_files(run.store, manifest, [entry.sha256 for entry in manifest.entries])
            experiment = Experiment(lab, run.machines["cp1"], files, dict(in_memory.sources()))
            results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
            for _ in range(arguments.runs):
                for name in arguments.only:
                    load.wait_until_quiet(arguments.patience, _silently)
                    results[name].append(experiment.one(VARIANTS[name]))
                    print(f"{name:14} {json.dumps(results[name][-1])}", flush=True)
    print(f"\n{'median of ' + str(arguments.runs):16}" + "".join(f"{key:>15}" for key in KEYS))
    for name, rows in results.items():
        cells = [statistics.median(row.get(key, 0.0) for row in rows) for key in KEYS]
        print(f"{name:16}" + "".join(f"{cell:15.2f}" for cell in cells) + f"   {VARIANTS[name].about}")


KEYS = ("tls", "readyz", "stream", "cpu apiserver", "cpu etcd", "cpu machine", "others")

if __name__ == "__main__":
    main()
