"""What happens to a node in years, in two minutes: certificates expire and renew, programs die, its machine moves.

One worker is given a certificate that has expired, and then certificates of two minutes. They renew while the other
tests of this file do what they do to another worker; the last test looks.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import expired
from tests.support.cluster import CRI_LABEL, CTR, Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.pods import containers_of, from_machine, pods_by_node
from tests.support.whole import PATIENCE, Accident, network_works, nothing_to_apply

from freehold_agent.contract import paths
from freehold_agent.contract.conditions import DRIFT
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.bundle.archive import Settings, Tree, write_image

AGENT = f"python3 {paths.AGENT_ZIPAPP}"
PKI = paths.KUBELET_STATE + "/pki"
KUBELET = "/etc/systemd/system/kubelet.service"
CONFIG = paths.ETC + "/kubelet.json"
MANAGER = "kube-controller-manager.service"
LIFETIME = "2m"
"""Of certificates. The signer dates them back by 5 min and the kubelet renews after 70 to 90 % of the whole: 0 to 80 s
after it got one, with 40 s and more to go."""
ROTATIONS = 3


@dataclass
class Renewing:
    """The worker whose certificates live for minutes."""

    node: str
    begun: str = "0"
    ready_since: str = ""


@pytest.fixture(scope="module")
def renewing(cluster: Cluster) -> Iterator[Renewing]:
    """The controller manager signs for two minutes only; no inventory can say that."""
    place = f"/run/systemd/system/{MANAGER}.d"
    flag = "--cluster-signing-duration="
    cluster.run(
        cluster.control_plane,
        f"mkdir -p {place}; command=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/{MANAGER} | "
        f"sed 's/{flag}168h/{flag}{LIFETIME}/'); "
        f'printf "[Service]\\nExecStart=\\nExecStart=%s\\n" "$command" > {place}/e2e.conf; '
        f"systemctl daemon-reload; systemctl restart {MANAGER}",
    )
    node = cluster.workers[0]
    yield Renewing(node)
    cluster.run(
        cluster.control_plane,
        f"rm -r {place}; systemctl daemon-reload; systemctl restart {MANAGER}",
    )
    # Those two look every 5 min whether their certificate's file is another one: too rarely for such short ones.
    cluster.run(node, f"rm -f {PKI}/kubelet-server-*; systemctl restart kubelet flannel kube-proxy")


@pytest.fixture
def other(cluster: Cluster) -> str:
    """A worker for everything else."""
    return cluster.workers[-1]


@pytest.fixture
def moving(cluster: Cluster, other: str) -> Iterator[str]:
    """The same worker, whose network is brought back to what the inventory says, however the test ends."""
    address = cluster.address(other)
    device = cluster.run(other, f"ip -o -4 address show to {address}").split()[1]
    yield other
    found = cluster.run(other, "ip -o -4 address show scope global").splitlines()
    here = {line.split()[3].partition("/")[0]: line.split()[1] for line in found}
    moved = here.get(OTHER_ADDRESS.format(address.rpartition(".")[0]))
    if moved:
        _move(cluster, other, OTHER_ADDRESS.format(address.rpartition(".")[0]), address)
        cluster.freehold("node", "set-address", other, address)
    now = here.get(address, moved)
    if now != device:
        cluster.run(other, RENAME.format(now=now, then=device))


def test_an_expired_certificate_is_told_and_renewed(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, renewing: Renewing
) -> None:
    """The journal names the two commands; with them the node is back within seconds and nothing was wiped."""
    node = renewing.node
    before = containers_of(echo, node)
    pair = expired(PkiDirectory(str(cluster.state / "pki")), f"system:node:{node}", ("system:nodes",))
    begun = cluster.run(node, "date +%s")
    cluster.run(
        node,
        f"umask 077; cat > {PKI}/kubelet-client-e2e.pem; "
        f"ln -sfn {PKI}/kubelet-client-e2e.pem {paths.KUBELET_CLIENT_CERTIFICATE}; "
        "systemctl restart kubelet; systemctl reload freehold-agent",
        stdin=(pair.certificate_pem + pair.key_pem).decode(),
    )
    said = wait_for(lambda: _told(cluster, node, begun, "expired at"), PATIENCE, "the journal to say it")
    assert f"freehold node rejoin {node}" in said
    assert f"{AGENT} renew" in said
    wait_for(lambda: _status(cluster, node)["state"] == "failed", PATIENCE, "the status to say it")
    made = cluster.freehold("node", "rejoin", node, "--output", "json")
    assert not made.failed, str(made)
    renewing.begun = begun
    story = Accident(f"certificate of {node} expired")
    cluster.run(node, f"{AGENT} renew --token-file -", stdin=made.json["token"] + "\n", timeout=PATIENCE)
    story.tell("renewed")
    story.node_is_back(kubectl, node)
    assert containers_of(echo, node) == before, "its pods run on"
    wait_for(lambda: _looks_well(cluster, node), PATIENCE, "the agent to be content")
    renewing.ready_since = _ready(kubectl, node)["lastTransitionTime"]


def test_a_kubelet_that_keeps_dying_is_told(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, other: str
) -> None:
    """A bad flag in an operator's drop-in: the journal names the file; pods run on and answer."""
    before, begun = containers_of(echo, other), cluster.run(other, "date +%s")
    server = pods_by_node(echo, "echo")[other]
    cluster.run(
        other,
        f"mkdir {KUBELET}.d; command=$(sed -n 's/^ExecStart=//p' {KUBELET}); "
        f'printf "[Service]\\nExecStart=\\nExecStart=%s --no-such-flag\\n" "$command" > {KUBELET}.d/own.conf; '
        "systemctl daemon-reload; systemctl restart kubelet; "
        "until test $(systemctl show --property=NRestarts --value kubelet) -ge 6; do sleep 0.2; done; "
        "systemctl reload freehold-agent",
        timeout=PATIENCE,
    )
    try:
        said = wait_for(
            lambda: _told(cluster, other, begun, "kubelet does not stay up"), PATIENCE, "the journal"
        )
        assert f"{KUBELET}.d/own.conf" in said
        wait_for(lambda: "kubelet does not stay up" in _drift(kubectl, other), PATIENCE, "the Node to say it")
        (reply,) = from_machine(cluster, cluster.control_plane, [f"http://{server.address}:8080/"])
        assert reply.server == server.name
    finally:
        cluster.run(other, f"rm -r {KUBELET}.d; systemctl daemon-reload; systemctl restart kubelet")
    story = Accident(f"bad flag of the kubelet on {other} taken out")
    story.node_is_back(kubectl, other)
    assert containers_of(echo, other) == before
    wait_for(lambda: _looks_well(cluster, other), PATIENCE, "the agent to be content")


def test_pods_outlive_containerd_and_new_ones_come(
    cluster: Cluster, here: Kubectl, echo: Kubectl, other: str
) -> None:
    """containerd is killed again and again while a dozen pods are made: all of them run, and all others still do."""
    before = containers_of(echo, other)
    container = {"name": "pause", "image": cluster.bundle.image("pause")}
    pod = {"nodeName": other, "containers": [container], "terminationGracePeriodSeconds": 0}
    template = {"metadata": {"labels": {"app": "many"}}, "spec": pod}
    spec = {"replicas": 12, "selector": {"matchLabels": {"app": "many"}}, "template": template}
    here.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": spec})
    cluster.run(other, KILL, timeout=PATIENCE)
    here.rolled_out("deployment/many", timeout=PATIENCE)
    assert containers_of(echo, other) == before


def test_a_machine_with_another_address_goes_on(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, moving: str, tmp_path: Path
) -> None:
    """The agent names the command; then certificates, flannel and kubelet are on the new address, and back again."""
    other, old = moving, cluster.address(moving)
    new = OTHER_ADDRESS.format(old.rpartition(".")[0])
    changed = json.loads(json.dumps(cluster.inventory))
    changed["hosts"][other]["address"] = new
    inventory = tmp_path / "moved.yaml"
    inventory.write_text(json.dumps(changed))
    refused = cluster.freehold("node", "set-address", other, new)
    assert refused.code == 3
    assert f"the inventory says that {other} has the address {old}" in refused.stderr
    for source, target, said in ((old, new, inventory), (new, old, None)):
        begun = _move(cluster, other, source, target)
        command = f"freehold node set-address {other} {target}"
        wait_for(
            lambda begun=begun, command=command: _told(cluster, other, begun, command), PATIENCE, command
        )  # type: ignore[misc]
        story = Accident(f"{other} moved to {target}")
        answer = cluster.freehold("node", "set-address", other, target, inventory=said)
        assert not answer.failed, str(answer)
        story.node_is_back(kubectl, other)
        wait_for(
            lambda target=target: _tunnels_to(kubectl, other) == target,
            PATIENCE,
            "flannel on the new address",
        )  # type: ignore[misc]
        shell = pods_by_node(echo, "shell")[other]
        wait_for(
            lambda shell=shell: echo("logs", shell.name).stdout, PATIENCE, "logs, the certificate verified"
        )  # type: ignore[misc]
        network_works(cluster, echo)
        story.tell("network")
    answer = cluster.freehold("apply", "--yes")
    assert not answer.failed, str(answer)
    nothing_to_apply(cluster)


def test_a_renamed_interface_is_followed(cluster: Cluster, echo: Kubectl, moving: str) -> None:
    """Routes that name an interface follow it, for now and for the next boot; and back again."""
    other, address = moving, cluster.address(moving)
    device = cluster.run(other, f"ip -o -4 address show to {address}").split()[1]
    for now, then in ((device, "lan0"), ("lan0", device)):
        cluster.run(other, RENAME.format(now=now, then=then))
        network_works(cluster, echo)
        unit = f"grep -c ' dev {then} ' /etc/systemd/system/freehold-routes.service"
        wait_for(lambda unit=unit: cluster.run(other, unit, check=False) == "1", PATIENCE, "the boot's route")  # type: ignore[misc]
    # The file comes before the start of its unit.
    wait_for(lambda: nothing_to_apply(cluster), PATIENCE, "the agent to be done")


def test_collecting_images_spares_what_came_with_us(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, other: str, tmp_path: Path
) -> None:
    """On a disk that is called full the kubelet removes every image that is not used, and none of the release."""
    unused = "registry.freehold.invalid/unused:1"
    write_image(tmp_path / "unused.tar", Tree({"/text": b"unused"}), Settings(unused, "amd64"), tmp_path)
    content = (tmp_path / "unused.tar").read_bytes()
    send = f"base64 -d | {CTR} images import --label {CRI_LABEL} -"
    cluster.run(other, send, stdin=base64.b64encode(content).decode())
    ours = {entry.image for entry in cluster.bundle.manifest.for_roles("node") if entry.image}
    assert ours | {unused} <= _images(cluster, other)
    cluster.run(
        other,
        f"systemctl stop freehold-agent; cp -p {CONFIG} /run/e2e-kubelet.json; "
        f"python3 -c '{FULL}' {CONFIG}; systemctl restart kubelet",
    )
    try:
        wait_for(lambda: unused not in _images(cluster, other), PATIENCE, "the unused image to go")
    finally:
        cluster.run(
            other,
            f"mv /run/e2e-kubelet.json {CONFIG}; systemctl restart kubelet; systemctl start freehold-agent",
        )
    assert ours <= _images(cluster, other)
    cluster.load_images(other)
    # It may have evicted a pod, too.
    kubectl.wait(f"node/{other}", "condition=DiskPressure=False", timeout=PATIENCE)
    echo.rolled_out("daemonset/echo", "daemonset/shell", timeout=PATIENCE)


def test_certificates_have_renewed_meanwhile(
    cluster: Cluster, kubectl: Kubectl, echo: Kubectl, renewing: Renewing
) -> None:
    """Client and serving certificate three times in a row; the node was Ready all the time, and all of it works."""
    assert renewing.ready_since, "the first test of this file begins it"
    node = renewing.node
    for kind in ("client", "server"):
        count = wait_for(
            lambda kind=kind: _rotations(cluster, node, kind), 300, f"{ROTATIONS} rotations, {kind}"
        )  # type: ignore[misc]
        print(f"{kind} certificates: {count} rotations")
    ready = _ready(kubectl, node)
    assert (ready["status"], ready["lastTransitionTime"]) == ("True", renewing.ready_since)
    Accident("now").node_is_back(kubectl, node)
    assert echo("logs", pods_by_node(echo, "shell")[node].name).stdout
    network_works(cluster, echo)
    metrics = "/apis/metrics.k8s.io/v1beta1/nodes/" + node
    wait_for(lambda: not kubectl("get", "--raw", metrics, check=False).failed, PATIENCE, f"figures of {node}")
    wait_for(lambda: _looks_well(cluster, node), PATIENCE, "the agent to be content")
    assert not _told(cluster, node, renewing.begun, "was removed from the cluster")


OTHER_ADDRESS = "{}.219"
RENAME = "ip link set {now} down; ip link set {now} name {then}; ip link set {then} up; systemctl reload freehold-agent"
FULL = (
    "import json, sys; place = sys.argv[1]; config = json.load(open(place)); "
    'config["imageMinimumGCAge"] = "1s"; config["evictionHard"]["imagefs.available"] = "99%"; '
    'json.dump(config, open(place, "w"))'
)
"""The disk counts as full; what is called garbage collection otherwise comes every 5 min only."""
KILL = """
main() { systemctl show --property=MainPID --value containerd; }
for round in 1 2 3 4 5; do
  old=$(main); kill -9 $old
  until new=$(main); test $new != 0 && test $new != $old && systemctl is-active --quiet containerd; do sleep 0.1; done
done
"""


def _told(cluster: Cluster, node: str, since: str, words: str) -> str:
    """Return the last line of the agent's journal with these words, empty while there is none."""
    said = cluster.run(node, f"journalctl --unit=freehold-agent --since=@{since} --output=cat")
    return next((line for line in reversed(said.splitlines()) if words in line), "")


def _status(cluster: Cluster, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.run(node, f"{AGENT} status --output json", check=False))[
        "agent"
    ]
    return found


def _looks_well(cluster: Cluster, node: str) -> bool:
    cluster.run(node, "systemctl reload freehold-agent")
    status = _status(cluster, node)
    assert status["state"] == "converged", status
    return True


def _ready(kubectl: Kubectl, node: str) -> dict[str, Any]:
    conditions = kubectl.json("get", "node", node)["status"]["conditions"]
    found: dict[str, Any] = next(one for one in conditions if one["type"] == "Ready")
    return found


def _tunnels_to(kubectl: Kubectl, node: str) -> str:
    annotations = kubectl.json("get", "node", node)["metadata"]["annotations"]
    return str(annotations["flannel.alpha.coreos.com/public-ip"])


def _drift(kubectl: Kubectl, node: str) -> str:
    conditions = kubectl.json("get", "node", node)["status"]["conditions"]
    return next(str(one) for one in conditions if one["type"] == DRIFT)


def _images(cluster: Cluster, node: str) -> set[str]:
    return set(cluster.run(node, f"{CTR} images list --quiet").split())


def _move(cluster: Cluster, node: str, source: str, target: str) -> str:
    """Give a machine another address; return the time before, by its clock."""
    return cluster.run(
        node,
        f"date +%s; set -- $(ip -o -4 address show to {source}); "
        f"ip address delete $4 dev $2; ip address add {target}/24 dev $2; systemctl reload freehold-agent",
    )


def _rotations(cluster: Cluster, node: str, kind: str) -> int:
    """Return how often a certificate was replaced since the join, 0 as long as it was not often enough."""
    files = cluster.run(node, f"ls {PKI} | grep -c '^kubelet-{kind}-2'", check=False)
    return int(files) - 1 if int(files) > ROTATIONS else 0
