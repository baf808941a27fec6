"""A cluster that `freehold apply` made on the lab's machines, as the end-to-end tests see it."""

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from tests.support.kubectl import Kubectl
from tests.support.lab import Lab
from tests.support.program import Freehold

from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import Manifest
from freehold_installer.bundle.store import Store

RELEASE, ARCHITECTURE = "1.37.2", "amd64"
MANIFESTS = Path(__file__).with_name("manifests")
CTR = f"{paths.BIN}/ctr --address {paths.CONTAINERD_SOCKET} --namespace k8s.io"
CRI_LABEL = "io.cri-containerd.image=managed"
"""What the kubelet's runtime looks for on an image; its own imports set it."""


class Bundle:
    """The built release bundle on this machine. Raises BundleError when it is not there."""

    def __init__(self, release: str = RELEASE, architecture: str = ARCHITECTURE) -> None:
        self._store = Store()
        self.manifest: Manifest = self._store.load_manifest(release, architecture)

    def file(self, name: str) -> Path:
        """Return the file of an entry: `bin/kubectl`, `images/echo.tar`. Raises KeyError."""
        return self._store.path(self.manifest.entry(name).sha256)

    def image(self, name: str) -> str:
        """Return the reference of an image: `echo`."""
        return self.manifest.entry(f"images/{name}.tar").image


@dataclass(frozen=True)
class Cluster:
    """Where everything is; the parts do the work."""

    lab: Lab
    freehold: Freehold
    bundle: Bundle

    @cached_property
    def inventory(self) -> Mapping[str, Any]:
        """Return what the generated inventory says."""
        return self.lab.inventory()

    @property
    def name(self) -> str:
        return str(self.inventory["name"])

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the machines' names, which are the Nodes' names; control planes first."""
        return tuple(self.inventory["hosts"])

    @property
    def control_plane(self) -> str:
        return self.nodes[0]

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(name for name in self.nodes if "worker" in self.inventory["hosts"][name]["roles"])

    @classmethod
    def applied(cls, lab: Lab, inventory: Path, state: Path, bundle: Bundle) -> "Cluster":
        """Make a cluster of fresh machines, with an operator's directory of its own. Without the test images."""
        made = cls(lab, Freehold(inventory, state), bundle)
        answer = made.freehold("apply", "--yes")
        assert answer.code == 0, str(answer)
        return made

    def address(self, node: str) -> str:
        return str(self.inventory["hosts"][node]["address"])

    @property
    def state(self) -> Path:
        """Return the operator's state directory: `pki`, `kubeconfig`, `journal.jsonl`."""
        return self.freehold.state(self.name)

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @cached_property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.bundle.file("bin/kubectl"), self.kubeconfig)

    def run(
        self, machine: str, script: str, *, stdin: str = "", check: bool = True, timeout: float = 120
    ) -> str:
        """Run a shell script as root on a machine; return its standard output without the last newline.

        Raises AssertionError with both outputs when it fails and `check` is set.
        """
        done = self.lab.exec(machine, "bash", "-euc", script, input=stdin, check=False, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(
                f"on {machine}: {script}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout.rstrip("\n")

    def load_images(self, *nodes: str) -> None:
        """Import the test images on these nodes (all, without names) if they lack them; no registry exists here."""
        wanted = [entry for entry in self.bundle.manifest.for_roles("test") if entry.image]

        def load(node: str) -> None:
            present = self.run(node, f"{CTR} images list --quiet").split()
            for entry in wanted:
                if entry.image not in present:
                    self.send(node, entry.name, f"{CTR} images import --label {CRI_LABEL} -")

        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(load, nodes or self.nodes))

    def send(self, machine: str, entry: str, script: str) -> str:
        """Run a shell script on a machine with a file of the bundle as its standard input."""
        content = base64.b64encode(self.bundle.file(entry).read_bytes()).decode()
        return self.run(machine, f"base64 -d | ({script})", stdin=content)

    def objects(self, name: str, **values: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of `manifests/NAME.yaml`; `@echo@`, `@busybox@` and each `@value@` replaced."""
        content = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
        known = {"echo": self.bundle.image("echo"), "busybox": self.bundle.image("busybox"), **values}
        for key, value in known.items():
            content = content.replace(f"@{key}@", value)
        yield from yaml.safe_load_all(content)

    def events(self, kubectl: Kubectl) -> str:
        """Return the warnings of a namespace, for a failure's message."""
        return kubectl("get", "events", "--field-selector=type=Warning", check=False).stdout
