"""A machine that the installer has never seen joins by one pasted line, lives as its document says, and is removed.

The second worker leaves the cluster for this and comes back by an apply at the end.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import volumes
from tests.support.api_from_machine import ApiFromMachine
from tests.support.cluster import Cluster
from tests.support.inventory_of_machine import Inventory, differences, inventory_of
from tests.support.kubectl import Answer, Kubectl, wait_for
from tests.support.node_rights import (
    NO_RIGHTS,
    asked_document,
    asked_for_certificates,
    passwords_told,
    rights,
    watch_secret,
)
from tests.support.paste_on_machine import Pasted, paste
from tests.support.secrets_of_cluster import traces
from tests.support.spare_machine import AGENT, taken_out

from freehold_agent.contract import paths

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def spare(cluster: Cluster) -> str:
    """The name of the machine that joins without SSH."""
    return cluster.workers[-1]


@pytest.fixture(scope="module")
def smaller(cluster: Cluster, spare: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An inventory without that machine, which has nothing of freehold on it; it comes back at the end."""
    with taken_out(cluster, spare, tmp_path_factory.mktemp("inventory")) as path:
        yield path


@pytest.fixture(scope="module")
def operator(cluster: Cluster, smaller: Path) -> Callable[..., Answer]:
    """The command with the smaller inventory."""

    def run(*arguments: str) -> Answer:
        return cluster.freehold(*arguments, inventory=smaller)

    return run


@pytest.fixture(scope="module")
def make(operator: Callable[..., Answer], spare: str) -> Make:
    """Make a token for the spare machine (or another name)."""

    def token(*options: str, node: str = spare) -> dict[str, Any]:
        said = operator("token", "create", "--node", node, "--output", "json", *options)
        assert not said.failed, str(said)
        made: dict[str, Any] = said.json
        return made

    return token


@pytest.fixture(scope="module")
def joined(cluster: Cluster, spare: str, make: Make) -> tuple[dict[str, Any], Pasted]:
    """The machine after the line was pasted there; what was made, and what a person saw."""
    made = make("--label", "example.org/rack=r1", "--taint", "example.org/new=:NoSchedule")
    dead = "http://user:proxysecret@192.0.2.1:3128"
    proxies = {"https_proxy": dead, "http_proxy": dead, "no_proxy": "example.org"}
    return made, paste(cluster.lab, spare, made, environment=proxies)


def test_refusals_are_one_sentence_and_change_nothing(cluster: Cluster, spare: str, make: Make) -> None:
    """Wrong, mistyped, expired, revoked and other machines' tokens each say what they are; the machine stays empty."""
    good, other, short = make(), make(node="other"), make("--ttl", "1s")
    wrong = good["token"][:-4] + ("aaaa" if not good["token"].endswith("aaaa") else "bbbb")
    revoked = make()
    assert not cluster.freehold("token", "revoke", revoked["id"]).failed
    wait_for(lambda: _listed(cluster, short["id"]) == "expired", 20, "the short token to expire")
    said = {
        "is not valid": paste(cluster.lab, spare, good, token=wrong),
        "not all of it": paste(cluster.lab, spare, good, token=good["token"][:-5]),
        "for another node": paste(cluster.lab, spare, good, token=other["token"]),
        "has expired": paste(cluster.lab, spare, short),
        "valid;": paste(cluster.lab, spare, revoked),
    }
    for text, pasted in said.items():
        assert pasted.code == 3, pasted.shown
        assert text in pasted.shown
        assert "Traceback" not in pasted.shown
    left = "ls -d /opt/freehold /etc/freehold /etc/kubernetes /var/lib/freehold /run/freehold/join.json 2>/dev/null"
    assert cluster.run(spare, f"{left} || true") == ""
    for made in (good, other, short):
        assert not cluster.freehold("token", "revoke", made["id"]).failed


def _listed(cluster: Cluster, token_id: str) -> str:
    rows = cluster.freehold("token", "list", "--output", "json").json
    return str({row["id"]: row["state"] for row in rows}.get(token_id))


def test_a_pasted_line_makes_a_node(
    cluster: Cluster, kubectl: Kubectl, spare: str, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """One line and a typed token: the node is Ready with its labels and taints, whatever proxy is set."""
    _, pasted = joined
    assert pasted.code == 0, pasted.shown
    assert "is a node of the cluster" in pasted.last
    kubectl.wait(f"node/{spare}", "condition=Ready")
    node = kubectl.json("get", "node", spare)
    assert node["metadata"]["labels"]["example.org/rack"] == "r1"
    assert {"key": "example.org/new", "effect": "NoSchedule"} in node["spec"]["taints"]


def test_the_token_was_seen_nowhere(
    cluster: Cluster, spare: str, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """Not echoed, in no command line or environment while it ran, in no file, journal or audit log afterwards."""
    made, pasted = joined
    secret = made["token"].rpartition(".")[2]
    assert secret not in pasted.shown
    assert secret not in made["line"]
    assert pasted.seen == []
    for machine in (spare, cluster.control_plane):
        assert traces(cluster.lab, machine, secret) == ([], 0), machine
    # The same search finds what may be there: the token's id, in the audit log and in what freehold-join says.
    found, lines = traces(cluster.lab, cluster.control_plane, made["id"])
    assert "/var/log/kubernetes/audit.log" in found
    assert lines > 0


def test_a_proxy_is_for_images_only(
    cluster: Cluster, spare: str, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """containerd knows the proxy and what not to ask it for; its password is for root only."""
    found = cluster.run(spare, "stat -c '%a %U' /etc/freehold/proxy.env; cat /etc/freehold/proxy.env")
    assert found.startswith("600 root")
    direct = re.search(r'NO_PROXY="(.*)"', found)
    assert direct is not None
    entries = direct[1].split(",")
    address = cluster.address(cluster.control_plane)
    assert {"example.org", "10.96.0.0/12", "10.244.0.0/16", ".svc", ".cluster.local", address} <= set(entries)
    units = cluster.run(spare, "systemctl cat containerd kubelet; journalctl --no-pager -u freehold-agent")
    assert "proxysecret" not in units
    assert units.count("EnvironmentFile=/etc/freehold/proxy.env") == 2


def test_apply_leaves_it_alone(
    operator: Callable[..., Answer], spare: str, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """The inventory does not name it: plan has nothing to change and names it, status shows it."""
    plan = operator("plan", "--output", "json")
    assert plan.code == 0, str(plan)
    assert plan.json["otherNodes"] == [spare]
    status = operator("status", "--output", "json").json
    assert {node["name"]: node["inventory"] for node in status["nodes"]}[spare] is False
    rows = {row["name"]: row for row in operator("node", "list", "--output", "json").json}
    assert rows[spare]["joined"] == "token"
    assert rows[spare]["ready"] is True


def test_a_token_joins_once(
    cluster: Cluster, spare: str, make: Make, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """The same line again finds a member and asks for nothing; a new token for the name is refused at once."""
    made, _ = joined
    again = paste(cluster.lab, spare, made, token="")
    assert again.code == 0, again.shown
    assert "join token for" not in again.shown
    said = cluster.freehold("token", "create", "--node", spare)
    assert said.code == 3
    assert "--replace" in said.stderr


def test_labels_and_taints_arrive(
    cluster: Cluster,
    operator: Callable[..., Answer],
    kubectl: Kubectl,
    spare: str,
    joined: tuple[dict[str, Any], Pasted],
) -> None:
    """`node set` changes the Node, and the document on the machine within seconds: a newer generation."""
    before = _document(cluster, spare)["generation"]
    said = operator("node", "set", spare, "--label", "example.org/rack=r2", "--taint", "example.org/new-")
    assert not said.failed, str(said)
    node = kubectl.json("get", "node", spare)
    assert node["metadata"]["labels"]["example.org/rack"] == "r2"
    assert not [taint for taint in node["spec"].get("taints", ()) if taint["key"] == "example.org/new"]
    wait_for(
        lambda: _document(cluster, spare)["labels"].get("example.org/rack") == "r2", 60, "the newer document"
    )
    assert _document(cluster, spare)["generation"] > before


def _document(cluster: Cluster, machine: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cluster.run(machine, f"cat {paths.JOIN_DOCUMENT}"))
    return document


def test_local_volumes_work_there(
    cluster: Cluster, here: Kubectl, spare: str, joined: tuple[dict[str, Any], Pasted]
) -> None:
    """A claim becomes a directory on that machine, and goes with it; documents and lists share one long poll."""
    cluster.load_images()
    image = cluster.bundle.image("busybox")
    here.apply(volumes.claim("data"), volumes.pod("writer", image, ["data"], node=spare))
    here.wait("pod/writer", "condition=Ready")
    here.exec("writer", "sh", "-c", "echo hello > /data/0/file")
    name = here.json("get", "pvc", "data")["spec"]["volumeName"]
    assert cluster.run(spare, f"cat {paths.VOLUMES}/{name}/file") == "hello"
    address = cluster.address(cluster.control_plane)
    polls = f"ss -Htn state established dst {address} dport = :{paths.JOIN_PORT} | wc -l"
    # A report about volumes takes a connection of its own for a moment.
    wait_for(lambda: cluster.run(spare, polls) == "1", 30, "one connection, and no other")
    here("delete", "pod/writer", "pvc/data")
    here.wait(f"pv/{name}", "delete")
    assert cluster.run(spare, f"ls {paths.VOLUMES}") == ""


def test_drain_lets_pods_go_elsewhere(
    cluster: Cluster,
    operator: Callable[..., Answer],
    here: Kubectl,
    kubectl: Kubectl,
    spare: str,
    joined: tuple[dict[str, Any], Pasted],
) -> None:
    """A disruption budget is honoured: the last pod leaves once another one is ready elsewhere; `--undo` undoes it."""
    here.apply(*cluster.objects("budget", preferred=spare))
    here.rolled_out("deployment/web")
    assert _nodes_of(here, "web") == {spare}
    short = operator("node", "drain", spare, "--timeout", "1s")
    assert short.code == 1, str(short)
    assert "disruption budget" in short.stderr
    assert _nodes_of(here, "web") == {spare}
    here("scale", "deployment/web", "--replicas=2")
    here.rolled_out("deployment/web")
    said = operator("node", "drain", spare, "--timeout", "2m", "--output", "json")
    assert not said.failed, str(said)
    assert spare not in _nodes_of(here, "web")
    here.rolled_out("deployment/web")
    assert kubectl.json("get", "node", spare)["spec"]["unschedulable"] is True
    wait_for(lambda: not _logs_of(cluster, spare, "web-"), LOGS_STAY, "its containers to end")
    assert not operator("node", "drain", spare, "--undo").failed
    assert "unschedulable" not in kubectl.json("get", "node", spare)["spec"]


def _nodes_of(here: Kubectl, app: str) -> set[str]:
    pods = here.json("get", "pods", f"--selector=app={app}")["items"]
    return {pod["spec"].get("nodeName", "") for pod in pods if "deletionTimestamp" not in pod["metadata"]}


LOGS_STAY = 180.0
"""Seconds: a kubelet looks only once a minute for logs that nobody needs any more."""


def _logs_of(cluster: Cluster, machine: str, name: str) -> list[str]:
    """Return the pods of that name of which a machine has logs: the kubelet removes them after the containers."""
    logs = cluster.run(machine, "ls /var/log/pods || true").split()
    return [entry for entry in logs if f"_{name}" in entry]


def test_a_removed_node_is_nobody(
    cluster: Cluster,
    operator: Callable[..., Answer],
    kubectl: Kubectl,
    here: Kubectl,
    spare: str,
    joined: tuple[dict[str, Any], Pasted],
) -> None:
    """From the moment of its removal its certificate gets no Node, Pod, certificate or token and reads no Secret."""
    here("create", "secret", "generic", "password", "--from-literal=password=swordfish")
    cluster.load_images()
    here.apply(*cluster.objects("with-secret", node=spare), *cluster.objects("job-with-secret", node=spare))
    here.wait("pod/with-secret", "condition=Ready")
    wait_for(lambda: here.json("get", "job", "job")["status"].get("ready") == 1, 120, "the pod of a Job")
    pod = here.json("get", "pod", "with-secret")
    api = ApiFromMachine(cluster, spare)
    secret = f"/api/v1/namespaces/{here.namespace}/secrets/password"
    assert api.get(secret).status == 200
    cluster.run(spare, f"cp {paths.KUBELET_CLIENT_CERTIFICATE} {OLD_DISK}")
    watched = watch_secret(cluster, spare, secret)
    begun = time.monotonic()
    said = operator("node", "remove", spare, "--no-drain", "--yes")
    assert not said.failed, str(said)
    print(f"node remove: {time.monotonic() - begun:.1f} s")
    assert rights(api, here.namespace, pod) == NO_RIGHTS
    here("patch", "secret", "password", "--patch", '{"stringData": {"password": "marlin"}}')
    assert passwords_told(cluster, spare, watched) == ["swordfish"], "a watch that was open has ended"
    assert asked_document(cluster, spare) == "410"
    wait_for(
        lambda: "was removed from the cluster" in cluster.run(spare, f"{AGENT} status || true"),
        120,
        "the agent to say so",
    )
    assert spare not in [node["metadata"]["name"] for node in kubectl.json("get", "nodes")["items"]]
    assert operator("plan").code == 0


OLD_DISK = "/root/kubelet-client.pem"
"""Where a copy of the certificate stays on the machine: as on a disk that was put back."""
KILLS = ("admitted as", "bootstrap credential", "certificate")
"""What stands on the terminal when a join is killed: its Node is there, all is in place, a kubelet asks."""


def test_it_comes_back_after_kills(
    cluster: Cluster,
    kubectl: Kubectl,
    spare: str,
    make: Make,
    joined: tuple[dict[str, Any], Pasted],
) -> None:
    """Killed again and again and run again with the same token, it joins: nothing has to be wiped."""
    made = make()
    for place in KILLS:
        killed = paste(cluster.lab, spare, made, kill_at=place)
        # A kubelet that was left running may make a node of it meanwhile.
        assert killed.killed or killed.code == 0, (place, killed.shown)
    again = paste(cluster.lab, spare, made)
    assert again.code == 0, again.shown
    kubectl.wait(f"node/{spare}", "condition=Ready")
    # What was killed could not clean up after itself: copies of agent and CA.
    cluster.run(spare, "rm -rf /tmp/tmp*")
    _the_old_disk_is_worth_nothing(cluster, spare)


def _the_old_disk_is_worth_nothing(cluster: Cluster, spare: str) -> None:
    """The certificate that the machine had before its removal cannot be renewed, though the name is back."""
    old = ApiFromMachine(cluster, spare, OLD_DISK)
    assert (
        cluster.run(spare, f"cmp -s {old.credential} {paths.KUBELET_CLIENT_CERTIFICATE} || echo other")
        == "other"
    )
    assert set(asked_for_certificates(old).values()) == {"Denied"}
    cluster.run(spare, f"rm {OLD_DISK}")


def test_a_lost_certificate_is_renewed_with_a_token(
    cluster: Cluster, operator: Callable[..., Answer], kubectl: Kubectl, spare: str, make: Make
) -> None:
    """`node rejoin` and `freehold-agent renew`: a new certificate, pods and data stay."""
    kubectl.wait(f"node/{spare}", "condition=Ready")
    uid = kubectl.json("get", "node", spare)["metadata"]["uid"]
    cluster.run(spare, f"systemctl stop kubelet; rm {paths.KUBELET_STATE}/pki/kubelet-client-*")
    made = operator("node", "rejoin", spare, "--output", "json").json
    cluster.run(spare, f"{AGENT} renew --token-file -", stdin=made["token"] + "\n", timeout=300)
    kubectl.wait(f"node/{spare}", "condition=Ready")
    assert kubectl.json("get", "node", spare)["metadata"]["uid"] == uid


def test_leaving_leaves_nothing(
    cluster: Cluster,
    operator: Callable[..., Answer],
    spare: str,
    untouched: dict[str, Inventory],
    joined: tuple[dict[str, Any], Pasted],
) -> None:
    """`node remove` and `freehold-agent leave` on the machine: nothing of freehold is left there."""
    said = operator("node", "remove", spare, "--timeout", "3m", "--yes")
    assert not said.failed, str(said)
    cluster.run(spare, f"{AGENT} leave --yes", timeout=300)
    found = differences(untouched[spare], inventory_of(cluster.lab, spare), expected=("/etc/cni",))
    assert not found, "\n".join(found)
