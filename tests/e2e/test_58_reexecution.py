"""systemd executes itself anew, as its updates have it do, while an apply starts units: machines of their own.

It is a load for the host that other tests' machines would feel.
"""

import json
from pathlib import Path

import pytest
from tests.support.cluster import Bundle, Cluster
from tests.support.kubectl import Kubectl
from tests.support.lab import Lab
from tests.support.pods import containers_of, serve_echo
from tests.support.whole import nothing_to_apply

ANEW = "until test -e /run/e2e-stop; do systemctl daemon-reexec; sleep 0.7; systemctl daemon-reload; sleep 0.4; done"
ANEW += "; rm /run/e2e-stop"


@pytest.fixture(scope="module")
def cluster(spare_lab: Lab, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The spare machines as a cluster."""
    spare_lab.clean()
    made = Cluster.applied(spare_lab, spare_lab.inventory_path, tmp_path_factory.mktemp("state"), bundle)
    made.load_images()
    return made


@pytest.fixture(scope="module")
def echo(cluster: Cluster) -> Kubectl:
    """kubectl in a namespace with a web server and a shell on each node."""
    return serve_echo(cluster, cluster.kubectl, "e2e-echo")


def test_systemd_executes_itself_anew_during_an_apply(
    cluster: Cluster, echo: Kubectl, tmp_path: Path
) -> None:
    """Reloads and re-executions in the middle of an apply, and of running: it succeeds and no container notices."""
    before = containers_of(echo, *cluster.nodes)
    changed = json.loads(json.dumps(cluster.inventory))
    changed["config"]["controlPlane"] = {"distro": {"k8s": {"scheduler": {"extraArgs": ["--v=1"]}}}}
    inventory = tmp_path / "changed.yaml"
    inventory.write_text(json.dumps(changed))
    for node in cluster.nodes:
        cluster.run(
            node,
            f"rm -f /run/e2e-stop; echo '{ANEW}' > /run/e2e-anew.sh; "
            "systemd-run --quiet --unit=e2e-anew --property=RuntimeMaxSec=300 bash /run/e2e-anew.sh",
        )
    try:
        for answer in (
            cluster.freehold("apply", "--yes", inventory=inventory),
            cluster.freehold("apply", "--yes"),
        ):
            assert not answer.failed, str(answer)
    finally:
        for node in cluster.nodes:
            cluster.run(
                node,
                "touch /run/e2e-stop; while test -e /run/e2e-stop; do sleep 0.1; done; rm /run/e2e-anew.sh",
            )
    assert containers_of(echo, *cluster.nodes) == before
    nothing_to_apply(cluster)
