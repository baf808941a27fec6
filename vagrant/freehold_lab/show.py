"""The end of `make cluster`: pods that answer each other, where they run, how long it took, what to type next.

Uses what a newcomer will use (kubectl, the kubeconfig, SSH to the machines); knows nothing of how freehold works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import ArtifactEntry
from freehold_installer.bundle.store import Store
from freehold_installer.config import Inventory, load
from freehold_installer.errors import FreeholdError

from . import places
from .shape import DEFAULT_NAME, lab_from

LAB = Path(places.VAGRANT_DIRECTORY) / "lab"
PODS = Path(places.VAGRANT_DIRECTORY) / "hello.yaml"
BIN = Path(places.CHECKOUT) / ".venv" / "bin"
NAMESPACE = "hello"
CTR = f"sudo {paths.BIN}/ctr --address {paths.CONTAINERD_SOCKET} --namespace k8s.io images"
CRI_LABEL = "io.cri-containerd.image=managed"
"""What the kubelet's runtime looks for on an image; its own pulls set it."""
ASK = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do timeout 5 wget -q -O- http://hello/; done"
"""A Service picks one of its pods by chance: among twenty answers is one of another machine's."""
PATIENCE = 120
TUTORIAL = "docs/tutorial/a-cluster-in-the-lab.md"


class ShowError(Exception):
    """What kept the cluster from being shown, in one sentence."""


@dataclass
class Show:
    """One showing."""

    inventory: Inventory
    kubeconfig: Path
    store: Store
    times: list[tuple[str, float]] = field(default_factory=list)
    """Step and seconds, in the order they were taken."""

    def nodes(self) -> list[str]:
        return [host.name for host in self.inventory.nodes]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Take the time of a step."""
        begun = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - begun))

    def link_kubectl(self) -> None:
        """Put the bundle's kubectl beside `freehold`, where one PATH finds both."""
        link = BIN / "kubectl"
        target = self._file("bin/kubectl")
        if not link.is_symlink() or os.readlink(link) != str(target):
            temporary = link.with_name(f".kubectl.{os.getpid()}")
            temporary.symlink_to(target)
            temporary.replace(link)

    def load_images(self) -> None:
        """Import the two images of the pods on every machine that lacks them. Raises ShowError."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            for _ in pool.map(self._load_images, self.nodes()):
                pass

    def start_pods(self) -> None:
        """Start a pod on each machine and wait for all of them. Raises ShowError."""
        # A machine set up anew had no image for its pod until now: the kubelet would try again in minutes.
        stuck = ("--selector=app=hello", "--field-selector=status.phase=Pending")
        self.kubectl("delete", "pods", *stuck, "--wait=false")
        self.kubectl("apply", "--server-side", f"--filename={PODS}")
        self.kubectl("rollout", "status", "daemonset/hello", f"--timeout={PATIENCE}s")

    def answers(self) -> Iterator[tuple[str, str]]:
        """Yield for each machine whose pod asked the Service: that machine, and the one whose pod answered."""
        columns = r'{range .items[*]}{.metadata.name}{" "}{.spec.nodeName}{"\n"}{end}'
        listed = self.kubectl("get", "pods", "--selector=app=hello", f"--output=jsonpath={columns}")
        node_of = dict(line.split() for line in listed.splitlines())
        for pod, node in sorted(node_of.items(), key=lambda pair: pair[1]):
            said = self.kubectl("exec", pod, "--container=shell", "--", "sh", "-c", ASK)
            names = [line.split()[1] for line in said.splitlines() if line.startswith("hostname: ")]
            others = [node_of[name] for name in names if name != pod and name in node_of]
            if not others and (len(node_of) > 1 or pod not in names):
                raise ShowError(f"the pod on {node} got no answer of another from http://hello/")
            yield node, (others or [node])[0]

    def kubectl(self, *arguments: str) -> str:
        """Run the bundle's kubectl in the namespace of the pods; return its output. Raises ShowError."""
        command = [str(BIN / "kubectl"), f"--kubeconfig={self.kubeconfig}", f"--namespace={NAMESPACE}"]
        return _run([*command, *arguments], f"kubectl {arguments[0]}")

    def _load_images(self, node: str) -> None:
        present = _run([str(LAB), "ssh", node, "--", f"{CTR} list --quiet"], f"list images on {node}").split()
        for name in ("images/echo.tar", "images/busybox.tar"):
            if self._entry(name).image not in present:
                command = [str(LAB), "ssh", node, "--", f"{CTR} import --label {CRI_LABEL} -"]
                _run(command, f"import {name} on {node}", self._file(name))

    def _file(self, name: str) -> Path:
        return self.store.path(self._entry(name).sha256)

    def _entry(self, name: str) -> ArtifactEntry:
        release = self.inventory.config.control_plane.distro.k8s.version
        for built, architecture in self.store.bundles():
            if built == release:
                try:
                    return self.store.load_manifest(release, architecture).entry(name)
                except KeyError:
                    continue
        raise ShowError(f"the bundle of {release} has no {name}: freehold bundle build")


def show(times_file: Path | None) -> None:
    """Show the cluster of this lab. Raises ShowError, FreeholdError."""
    lab = lab_from(os.environ)
    path = Path(places.inventory(lab.name, DEFAULT_NAME))
    inventory = load(path)
    view = Show(inventory, inventory.state_dir / "kubeconfig", Store())
    if not view.kubeconfig.exists():
        raise ShowError(f"there is no cluster yet: freehold apply -i {os.path.relpath(path)}")
    view.times += _earlier_times(times_file)
    view.link_kubectl()
    places.say("importing the images of two test pods on each machine")
    with view.timed("images for the pods below"):
        view.load_images()
    places.say("starting a pod on each machine (vagrant/hello.yaml)")
    with view.timed("a pod on each machine"):
        view.start_pods()
    print("\nPods answer each other through the Service name (http://hello/):", flush=True)
    with view.timed("they ask each other"):
        for asking, answering in view.answers():
            print(f"  the pod on {asking} asked, the pod on {answering} answered", flush=True)
    print("\n$ kubectl get nodes -o wide\n" + view.kubectl("get", "nodes", "--output=wide"))
    print("$ kubectl -n hello get pods -o wide\n" + view.kubectl("get", "pods", "--output=wide"))
    print(_table(view.times))
    print(_next(os.path.relpath(path), view.kubeconfig, lab.name, view.nodes()[-1]))


def _earlier_times(path: Path | None) -> list[tuple[str, float]]:
    """Read what `.ci/timed` wrote: a name, a tab and seconds on each line."""
    if path is None or not path.exists():
        return []
    pairs = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return [(name, float(seconds)) for name, seconds in pairs]


def _table(times: Sequence[tuple[str, float]]) -> str:
    width = max(len(name) for name, _ in times)
    lines = [f"  {name:{width}}  {seconds:7.1f} s" for name, seconds in times]
    return "\n".join(["How long each step took:", *lines, ""])


def _next(inventory: str, kubeconfig: Path, lab: str, machine: str) -> str:
    variable = "" if lab == DEFAULT_NAME else f"FREEHOLD_LAB={lab} "
    commands = [
        ('export PATH="$PWD/.venv/bin:$PATH"', "freehold and kubectl"),
        (f"export FREEHOLD_INVENTORY=$PWD/{inventory}", ""),
        (f"export KUBECONFIG={kubeconfig}", ""),
        ("kubectl get pods --all-namespaces -o wide", "the cluster is yours"),
        ("freehold status", "machines, units and nodes"),
        ("freehold plan", "what apply would change"),
        (f"{variable}vagrant/lab ssh {machine}", "a shell on a machine"),
        ("make test", "every test, on machines of their own"),
        (f"{variable}vagrant/lab destroy", "all of it gone"),
    ]
    lines = [f"  {command:44}  # {why}" if why else f"  {command}" for command, why in commands]
    return "\n".join(["Next, type:", *lines, f"The tutorial goes on from here: {TUTORIAL}"])


def _run(command: Sequence[str], what: str, stdin: Path | None = None) -> str:
    with open(stdin or os.devnull, "rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ShowError(f"{what}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="vagrant/show-cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=Path, metavar="FILE", help="earlier steps' times, from .ci/timed")
    try:
        show(parser.parse_args().times)
    except (ShowError, FreeholdError) as error:
        print(f"show-cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
