"""The machines as nodes: ready, healthy, and each program with no more power than it needs."""

import socket
import ssl
from collections.abc import Sequence

from tests.support.cluster import CTR, RELEASE, Cluster
from tests.support.kubectl import Kubectl
from tests.support.pods import pods_by_node
from tests.support.traces import Watched

from freehold_agent.contract import paths

NODE_UNITS = ("containerd", "freehold-images", "kubelet", "kube-proxy", "flannel", "freehold-agent")
CONTROL_UNITS = (
    "etcd",
    "kube-apiserver",
    "freehold-api-ready",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    "freehold-join",
    "freehold-artifacts",
    "freehold-controller",
)
OWN_USERS = ("etcd", "coredns", "freehold-join", "freehold-artifacts", "freehold-controller")
SECRET_PLACES = "/etc/kubernetes /etc/freehold /var/lib/kubelet/pki /var/lib/freehold"
FIND_SECRETS = f"grep -rlE 'PRIVATE KEY|key-data|^ *-? *secret:' {SECRET_PLACES} | xargs readlink -f"


def test_all_nodes_are_ready(cluster: Cluster, kubectl: Kubectl) -> None:
    """Each machine is a Ready node of the release's version, with its role and its own address."""
    found = {node["metadata"]["name"]: node for node in kubectl.json("get", "nodes")["items"]}
    assert set(found) == set(cluster.nodes)
    for name, node in found.items():
        conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
        assert conditions["Ready"] == "True", name
        assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{RELEASE}", name
        role = "control-plane" if name == cluster.control_plane else "worker"
        assert f"node-role.kubernetes.io/{role}" in node["metadata"]["labels"], name
        addresses = {item["type"]: item["address"] for item in node["status"]["addresses"]}
        assert addresses["InternalIP"] == cluster.address(name), name
        assert node["spec"]["podCIDR"], name


def test_versions_are_those_of_the_release(kubectl: Kubectl) -> None:
    """The API server says the release's version, not v0.0.0."""
    assert kubectl.json("version")["serverVersion"]["gitVersion"] == f"v{RELEASE}"


def test_units_run_and_never_failed(cluster: Cluster) -> None:
    """Every unit of ours is active and was never restarted by systemd; no unit at all has failed."""
    for machine in cluster.nodes:
        units = (*NODE_UNITS, *(CONTROL_UNITS if machine == cluster.control_plane else ()))
        shown = _show(cluster, machine, units, "ActiveState", "NRestarts")
        assert shown == {f"{unit}.service": {"ActiveState": "active", "NRestarts": "0"} for unit in units}, (
            machine
        )
        assert cluster.run(machine, "systemctl list-units --state=failed --plain --no-legend") == "", machine


def test_everything_says_it_is_healthy(cluster: Cluster) -> None:
    """Each program's own health check answers yes."""
    address = cluster.address(cluster.control_plane)
    control = (
        f"--cacert {paths.PKI}/ca.crt https://{address}:6443/readyz",
        f"--cacert {paths.PKI}/ca.crt https://{address}:6443/livez",
        "http://127.0.0.1:2381/health",
        f"http://{address}:8181/ready",
        # These two make a certificate of their own at each start and listen on loopback only.
        "--insecure https://127.0.0.1:10257/healthz",
        "--insecure https://127.0.0.1:10259/healthz",
    )
    for machine in cluster.nodes:
        checks = ("http://127.0.0.1:10248/healthz", "http://127.0.0.1:10256/healthz")
        checks = (*checks, *(control if machine == cluster.control_plane else ()))
        lines = (f"echo {check}; curl --silent --show-error --fail --max-time 30 {check}" for check in checks)
        cluster.run(machine, "\n".join(lines))


def test_services_have_own_users_that_read_no_foreign_key(cluster: Cluster) -> None:
    """A service runs as its own user, who cannot read any secret file but its own: not the CA's key."""
    machine = cluster.control_plane
    secret = cluster.run(machine, FIND_SECRETS).split()
    assert f"{paths.PKI}/ca.key" in secret
    for user in OWN_USERS:
        pid = f"$(systemctl show --property=MainPID --value {user}.service)"
        find = f"find {SECRET_PLACES} -type f -readable 2>/dev/null || true"
        script = f"stat --format=%U /proc/{pid}; runuser -u {user} -- sh -c '{find}'"
        running_as, *readable = cluster.run(machine, script).split()
        assert running_as == user
        assert paths.CLUSTER_CA in readable, "the check itself works"
        own = f"{paths.PKI}/etcd/" if user == "etcd" else f"{paths.ETC}/{user.removeprefix('freehold-')}/"
        assert [path for path in secret if path in readable and not path.startswith(own)] == [], user


def test_secret_files_are_private(cluster: Cluster) -> None:
    """No file that holds a key or a credential is open to others than its owner."""
    for machine in cluster.nodes:
        found = cluster.run(machine, f"{FIND_SECRETS} | xargs stat --format='%a %n'")
        for line in found.splitlines():
            mode, path = line.split(maxsplit=1)
            assert int(mode, 8) & 0o077 == 0, f"{path} on {machine} has mode {mode}"


def test_the_control_plane_has_no_default_memory_limit(cluster: Cluster) -> None:
    """The slice that holds etcd is never killed for memory unless somebody asked for a limit."""
    machine = cluster.control_plane
    shown = _show(cluster, machine, (paths.CONTROL_SLICE,), "MemoryMax", "MemoryHigh")
    assert shown == {paths.CONTROL_SLICE: {"MemoryMax": "infinity", "MemoryHigh": "infinity"}}
    for unit, properties in _show(cluster, machine, CONTROL_UNITS, "MemoryMax", "Slice").items():
        assert properties == {"MemoryMax": "infinity", "Slice": paths.CONTROL_SLICE}, unit


def test_kubelets_reserve_and_protect(cluster: Cluster, kubectl: Kubectl) -> None:
    """Kubelets run with reserved resources, eviction thresholds, default seccomp and no anonymous access."""
    for node in cluster.nodes:
        config = kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/configz").json["kubeletconfig"]
        for reserved in ("kubeReserved", "systemReserved"):
            assert {"cpu", "memory"} <= set(config[reserved]), node
        assert {"memory.available", "nodefs.available"} <= set(config["evictionHard"]), node
        assert config["seccompDefault"] is True, node
        assert config["authentication"]["anonymous"]["enabled"] is False, node
        assert config["authorization"]["mode"] == "Webhook", node
        assert config.get("readOnlyPort", 0) == 0, node
        status = kubectl.json("get", "node", node)["status"]
        assert status["allocatable"]["memory"] != status["capacity"]["memory"], node
        assert status["allocatable"]["cpu"] != status["capacity"]["cpu"], node


def test_kubelets_serve_certificates_of_the_cluster(cluster: Cluster) -> None:
    """A kubelet's own certificate is for its address and from the cluster's CA."""
    trusting = ssl.create_default_context(cafile=str(cluster.state / "pki" / "ca.crt"))
    for node in cluster.nodes:
        address = cluster.address(node)
        with (
            socket.create_connection((address, 10250), timeout=30) as raw,
            trusting.wrap_socket(raw, server_hostname=address) as secured,
        ):
            assert secured.getpeercert()


def test_the_pause_image_is_pinned(cluster: Cluster) -> None:
    """The kubelet's image collection never removes the image that no registry could bring back."""
    for node in cluster.nodes:
        reference = cluster.bundle.image("pause")
        assert "io.cri-containerd.pinned=pinned" in cluster.run(node, f"{CTR} images list name=={reference}")


def test_pods_run_on_every_node(cluster: Cluster, echo: Kubectl) -> None:
    """A DaemonSet has a ready pod on each node, with an address of that node's own range."""
    for app in ("echo", "shell"):
        assert set(pods_by_node(echo, app)) == set(cluster.nodes)


def test_containers_get_the_default_seccomp_profile(echo: Kubectl) -> None:
    """A container that asks for nothing runs under a seccomp filter, on each node."""
    for pod in pods_by_node(echo, "shell").values():
        status = echo.exec(pod.name, "cat", "/proc/1/status").stdout
        assert "Seccomp:\t2" in status, pod


def test_a_worker_is_watched_from_now_on(watched: Watched) -> None:
    """It is as its document says, and test_19_quiet.py will see whether anything was written meanwhile."""
    (condition,) = watched.before.told["condition"]
    assert (condition["status"], condition["reason"]) == ("False", "AsDocumented")


def _show(cluster: Cluster, machine: str, units: Sequence[str], *names: str) -> dict[str, dict[str, str]]:
    """Return properties of units by the units' full names."""
    shown = cluster.run(machine, f"systemctl show --property=Id,{','.join(names)} {' '.join(units)}")
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    return {block.pop("Id"): block for block in blocks}
