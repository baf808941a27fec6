"""A kubelet whose certificate nobody vouched for gets no secrets of ours and gives us no lies."""

from collections.abc import Iterator

import pytest
from tests.support.cluster import Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.pods import Pod, pods_by_node
from tests.support.whole import PATIENCE

from freehold_agent.contract import paths

CONFIG = paths.ETC + "/kubelet.json"
PKI = paths.KUBELET_STATE + "/pki"
KEPT = "/run/e2e-kubelet"


@pytest.fixture
def impostor(cluster: Cluster, echo: Kubectl) -> Iterator[Pod]:
    """A pod on a worker whose kubelet serves a certificate that it made itself; mended afterwards."""
    machine = cluster.workers[-1]
    shell = pods_by_node(echo, "shell")[machine]
    assert echo("logs", shell.name).stdout, "logs work before"
    cluster.run(
        machine,
        "systemctl stop freehold-agent; "  # it would mend this within a minute
        f"mkdir -m 700 {KEPT}; cp -p {CONFIG} {KEPT}/; mv {PKI}/kubelet-server-*.pem {KEPT}/; "
        f'sed -i \'s/"serverTLSBootstrap": true/"serverTLSBootstrap": false/\' {CONFIG}; '
        "systemctl restart kubelet",
    )
    yield shell
    cluster.run(
        machine,
        f"cp -p {KEPT}/kubelet.json {CONFIG}; rm -f {PKI}/kubelet.crt {PKI}/kubelet.key; "
        f"mv {KEPT}/kubelet-server-*.pem {PKI}/; systemctl restart kubelet; rm -r {KEPT}; "
        "systemctl start freehold-agent",
    )
    cluster.kubectl.wait(f"node/{machine}", "condition=Ready")
    wait_for(lambda: echo("logs", shell.name, timeout=10).stdout, PATIENCE, "logs to work again")


def test_a_self_signed_kubelet_is_not_believed(cluster: Cluster, echo: Kubectl, impostor: Pod) -> None:
    """`logs` and `exec` end with a TLS error, though the kubelet runs and its node is Ready."""
    healthz = "curl --silent --fail --max-time 2 http://127.0.0.1:10248/healthz"
    wait_for(lambda: cluster.run(impostor.node, healthz), PATIENCE, "the kubelet to be up")
    wait_for(
        lambda: "x509" in echo("logs", impostor.name, check=False, timeout=15).stderr, PATIENCE, "a TLS error"
    )
    for command in (("logs", impostor.name), ("exec", impostor.name, "--", "true")):
        answer = echo(*command, check=False)
        assert answer.failed, command
        assert "tls: failed to verify certificate: x509" in answer.stderr, command
    cluster.kubectl.wait(f"node/{impostor.node}", "condition=Ready")
    elsewhere = pods_by_node(echo, "shell")[cluster.workers[0]]
    assert echo("logs", elsewhere.name).stdout, "other nodes are not affected"
