"""How long a pod waits for its local volume: from its creation to its running, with and without a claim.

    python -m bench.claims [--rounds 20] [--state DIRECTORY] [--output json]

On an applied cluster (its state directory, by default the newest of the operator's) whose nodes have the bundle's
busybox image. Each round makes, one after the other: a pod without a volume; a claim with its pod; and what a
provisioner with helper pods has to do first, a pod that makes a directory and ends. The last plus the first is the
least that such a provisioner can take, on the same machines in the same minutes: its own work is not even in it. All
pods go to one node, so that each round does the same. What is counted is seen by a watch of this program, not by
freehold.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from freehold_agent.machine.kubernetes_api import KubernetesApi, NotFound
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.phases import trust

IMAGE = "registry.freehold.invalid/busybox:1"
NAMESPACE = "bench-claims"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CLAIMS = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"
PATIENCE = 120.0
ROWS = {
    "pod": "pod without a volume, running",
    "claim": "claim and pod, running",
    "helper": "helper pod that makes a directory, ended",
}


def main() -> int:
    """Measure, print, clean up."""
    options = _options()
    api = administrator(options.state)
    node = options.node or _a_worker(api)
    _fresh_namespace(api)
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    try:
        for number in range(-1, options.rounds):
            for name in ROWS:
                taken = measure(api, name, f"{name}-{number + 1}", node)
                if number >= 0:  # the first is to warm up
                    seconds[name].append(taken)
    finally:
        api.delete(f"/api/v1/namespaces/{NAMESPACE}")
    if options.output == "json":
        sys.stdout.write(json.dumps(seconds, indent=1) + "\n")
        return 0
    rows = dict(ROWS)
    seconds["more"] = [one - two for one, two in zip(seconds["claim"], seconds["pod"], strict=True)]
    seconds["way"] = [one + two for one, two in zip(seconds["helper"], seconds["pod"], strict=True)]
    rows |= {"more": "what the claim adds", "way": "helper pod, then pod: the least of the other way"}
    sys.stdout.write(f"node {node}, {options.rounds} rounds; seconds, least / median / most\n")
    for name, about in rows.items():
        found = seconds[name]
        sys.stdout.write(
            f"{about:<52} {min(found):6.2f} / {statistics.median(found):.2f} / {max(found):.2f}\n"
        )
    return 0


def measure(api: KubernetesApi, kind: str, name: str, node: str) -> float:
    """Return the seconds from the creation of a pod (and its claim) to its phase; remove both."""
    wanted = "Succeeded" if kind == "helper" else "Running"
    begun = time.monotonic()
    if kind == "claim":
        api.create(CLAIMS, claim(name))
    made = api.create(PODS, pod(name, node, kind))
    taken = _await(api, made, wanted) - begun
    api.delete(f"{PODS}/{name}", gracePeriodSeconds=0)
    if kind == "claim":
        api.delete(f"{CLAIMS}/{name}")
    _await_gone(api, name)
    return taken


def claim(name: str) -> dict[str, Any]:
    """Return a claim of the default class."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def pod(name: str, node: str, kind: str) -> dict[str, Any]:
    """Return a pod; a helper makes a directory on its node and ends."""
    command = "mkdir -m 0777 -p /base/volume" if kind == "helper" else "sleep 100000"
    container: dict[str, Any] = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", command],
    }
    volumes: list[dict[str, Any]] = []
    if kind == "claim":
        volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
    elif kind == "helper":
        volumes = [{"name": "data", "hostPath": {"path": "/tmp/freehold-bench", "type": "DirectoryOrCreate"}}]
    if volumes:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/base"}]
    spec = {
        "containers": [container],
        "volumes": volumes,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def administrator(state: Path) -> KubernetesApi:
    """Return a client with the administrator's certificate of a state directory."""
    kubeconfig = yaml.safe_load((state / "kubeconfig").read_text())
    pki = PkiDirectory(str(state / "pki"))
    return KubernetesApi(
        kubeconfig["clusters"][0]["cluster"]["server"],
        ca_pem=pki.ca_pem(),
        client_certificate=pki.certificate_path(trust.ADMIN),
        client_key=pki.key_path(trust.ADMIN),
    )


def _await(api: KubernetesApi, made: dict[str, Any], phase: str) -> float:
    name, version = made["metadata"]["name"], made["metadata"]["resourceVersion"]
    selector = f"metadata.name={name}"
    for _, obj in api.watch(PODS, version, timeout=PATIENCE, fieldSelector=selector):
        found = (obj.get("status") or {}).get("phase")
        if found == phase:
            return time.monotonic()
        if found == "Failed":
            break
    raise SystemExit(f"pod {name} did not come to {phase} within {PATIENCE:.0f} s")


def _await_gone(api: KubernetesApi, name: str) -> None:
    """Wait until pod and claim are gone: what a round leaves behind must not slow the next one."""
    deadline = time.monotonic() + PATIENCE
    for path in (f"{PODS}/{name}", f"{CLAIMS}/{name}"):
        while time.monotonic() < deadline:
            try:
                api.get(path)
            except NotFound:
                break
            time.sleep(0.1)


def _a_worker(api: KubernetesApi) -> str:
    names = [item["metadata"]["name"] for item in api.list("/api/v1/nodes")["items"]]
    return str(sorted(names)[-1])


def _fresh_namespace(api: KubernetesApi) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}"
    deadline = time.monotonic() + PATIENCE
    try:
        api.delete(path)
        while time.monotonic() < deadline:
            api.get(path)
            time.sleep(0.2)
    except NotFound:
        pass
    api.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    )
    while time.monotonic() < deadline:  # pods are refused until it is there
        try:
            api.get(f"{path}/serviceaccounts/default")
            return
        except NotFound:
            time.sleep(0.05)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.claims", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=20, help="how often (20)")
    parser.add_argument("--state", type=Path, default=_newest_state(), help="state directory of the cluster")
    parser.add_argument("--node", default="", help="where pods run (the last one by name)")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    return parser.parse_args()


def _newest_state() -> Path:
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "freehold"
    found = sorted(home.glob("*/kubeconfig"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else home


if __name__ == "__main__":
    sys.exit(main())
