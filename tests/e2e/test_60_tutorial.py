"""The tutorial, typed by a test: every block of docs/tutorial/a-cluster-in-the-lab.md that is not shown only."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.repository import CHECKOUT

PAGE = CHECKOUT / "docs" / "tutorial" / "a-cluster-in-the-lab.md"
PATIENCE = 420
"""Seconds for the whole page; a person takes 10 minutes."""


def test_every_command_of_the_tutorial_works(cluster: Cluster, tmp_path: Path) -> None:
    """The page's commands, in one shell and in order, end without an error on the lab's cluster."""
    applied = cluster.freehold("apply", "--yes")  # earlier tests may have taken machines out
    assert not applied.failed, str(applied)
    cluster.load_images()
    script = tmp_path / "tutorial.sh"
    script.write_text("set -euo pipefail\n" + "".join(blocks(cluster)), encoding="utf-8")
    (tmp_path / "kubectl").symlink_to(cluster.bundle.file("bin/kubectl"))
    environment = {
        **os.environ,
        "FREEHOLD_LAB": cluster.lab.name,
        "FREEHOLD_LAB_SHAPE": cluster.lab.shape,
        "XDG_STATE_HOME": str(cluster.freehold.state_home),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", str(script)],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    said = done.stdout
    assert len(re.findall(r"^hostname: web-", said, re.MULTILINE)) == 3, said
    assert re.search(r"update: \S*kubelet\.service", said), said
    *_, before, after = said.split("==> ")  # the two lists of nodes around the last apply
    assert not re.search(r"^w2 ", before.rsplit("NAME", 1)[-1], re.MULTILINE), said
    assert re.search(r"^w2 +Ready ", after, re.MULTILINE), said


def blocks(cluster: Cluster) -> list[str]:
    """Return the commands of the page, each block under a heading, with this cluster's places in them."""
    page = PAGE.read_text(encoding="utf-8")
    places = {
        "$PWD/inventories/generated/lab.yaml": str(cluster.lab.inventory_path),
        "~/.local/state/freehold/lab/kubeconfig": str(cluster.kubeconfig),
    }
    for written, here in places.items():
        assert written in page
        page = page.replace(written, here)
    found = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(found) > 10
    return [f"echo '==> block {number}'\n{block}" for number, block in enumerate(found, start=1)]
