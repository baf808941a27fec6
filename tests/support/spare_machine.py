"""A worker of the shared cluster that leaves it for a while, to join in other ways."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from tests.support.cluster import Cluster
from tests.support.kubectl import wait_for

from freehold_agent.contract import paths

AGENT = f"python3 -I {paths.AGENT_ZIPAPP}"
IMAGES_COME = 180.0
"""Seconds from `load_images` until pods run that were there before: a kubelet that has missed an image twice looks
again after a minute and a half."""


@contextlib.contextmanager
def taken_out(cluster: Cluster, machine: str, directory: Path) -> Iterator[Path]:
    """Yield an inventory without a machine, which has nothing of freehold on it; an apply brings it back."""
    said = cluster.freehold("reset", "--machine", machine, "--yes")
    assert not said.failed, str(said)
    inventory = cluster.lab.inventory()
    del inventory["hosts"][machine]
    path = directory / "smaller.yaml"
    path.write_text(yaml.safe_dump(inventory, sort_keys=False), encoding="utf-8")
    yield path
    remove(cluster, machine, path)
    said = cluster.freehold("apply", "--yes")
    assert not said.failed, str(said)
    cluster.load_images()
    pending = ("--all-namespaces", f"--field-selector=spec.nodeName={machine},status.phase=Pending")
    wait_for(
        lambda: not cluster.kubectl.json("get", "pods", *pending)["items"], IMAGES_COME, "its pods to run"
    )


def remove(cluster: Cluster, machine: str, inventory: Path) -> None:
    """Have a machine out of the cluster and clean, whatever came of it before."""
    cluster.freehold("node", "remove", machine, "--no-drain", "--yes", inventory=inventory)
    cluster.run(machine, f"test ! -e {paths.AGENT_ZIPAPP} || {AGENT} leave --yes", timeout=300)
