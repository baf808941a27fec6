"""A node that is injured heals by itself, at its own pace: nobody tells the agent to look.

All injuries of a batch are done at once; the machine itself notes when each is healed. Batches that take away what a
start makes stand apart: the agent must have seen it after the last start.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support.cluster import CTR, Cluster
from tests.support.kubectl import Kubectl, wait_for
from tests.support.traces import AGENT, Traces
from tests.support.whole import PATIENCE, nothing_to_apply

from freehold_agent.contract import paths

HEALED_WITHIN = 30.0
"""Seconds, as promised."""
QUIET = 20.0
"""Seconds in which nothing is to be written: glances, and most likely a whole look."""
PAUSE = "$(" + CTR + " images list -q | grep pause | head -n 1)"
PORTMAP = f"$(readlink -f {paths.CURRENT}/cni/portmap)"
BRIDGE = f"$(readlink -f {paths.CURRENT}/cni/bridge)"
UNITS = paths.UNITS


@dataclass(frozen=True)
class Injury:
    """What is done to a machine, how it shows that it is healed (both shell), and what the journal says then."""

    name: str
    done: str
    healed: str
    told: str


def _same(path: str) -> str:
    """Return a check that a file is again what it was before the batch, with mode, owner and target."""
    return f'test "$(look {path})" = "$(cat /dev/shm/e2e/$(echo {path} | tr / _))"'


FILES = [
    Injury("file-deleted", f"rm {paths.MODULES_DROPIN}", _same(paths.MODULES_DROPIN), paths.MODULES_DROPIN),
    Injury(
        "file-edited", f"echo x >> {paths.SYSCTL_DROPIN}", _same(paths.SYSCTL_DROPIN), paths.SYSCTL_DROPIN
    ),
    Injury(
        "mode-changed",
        f"chmod 644 {paths.NODE_KUBECONFIG}",
        _same(paths.NODE_KUBECONFIG),
        paths.NODE_KUBECONFIG,
    ),
    Injury("owner-changed", f"chown nobody {paths.CLUSTER_CA}", _same(paths.CLUSTER_CA), paths.CLUSTER_CA),
    Injury(
        "kubeconfig-gone",
        f"rm {paths.KUBELET_KUBECONFIG}",
        _same(paths.KUBELET_KUBECONFIG),
        paths.KUBELET_KUBECONFIG,
    ),
    Injury(
        "cni-configuration-gone", f"rm {paths.CNI_CONFLIST}", _same(paths.CNI_CONFLIST), paths.CNI_CONFLIST
    ),
    Injury("link-turned", f"ln -sfn /bin/false {paths.BIN}/runc", _same(paths.BIN + "/runc"), "/bin/runc"),
    Injury(
        "volumes-directory-mode",
        f"chmod 755 {paths.VOLUMES}",
        f"test $(stat -c %a {paths.VOLUMES}) = 700",
        paths.VOLUMES,
    ),
    Injury(
        "byte-of-a-program-changed",
        f"printf X | dd of={PORTMAP} bs=1 seek=4096 conv=notrunc status=none",
        f"test $(basename {PORTMAP}) = $(sha256sum {PORTMAP} | cut -d' ' -f1)",
        "cni/portmap",
    ),
    Injury("mode-of-a-program", f"chmod 644 {BRIDGE}", f"test -x {BRIDGE}", "cni/bridge"),
    Injury(
        "sysctl-changed",
        "sysctl --quiet net.ipv4.ip_forward=0",
        "test $(sysctl -n net.ipv4.ip_forward) = 1",
        "ip_forward",
    ),
    Injury(
        "route-gone",
        "ip route del 10.96.0.0/12",
        "ip route show proto 70 | grep 10.96.0.0/12",
        "10.96.0.0/12",
    ),
    Injury("unit-stopped", "systemctl stop kube-proxy", "systemctl is-active kube-proxy", "unit:kube-proxy"),
    Injury(
        "unit-disabled", "systemctl disable --quiet flannel", "systemctl is-enabled flannel", "unit:flannel"
    ),
    Injury(
        "unit-file-edited",
        f"sed -i s/RestartSec=1/RestartSec=99/ {UNITS}/containerd.service",
        f"{_same(UNITS + '/containerd.service')} && test $(systemctl show -p RestartUSec --value containerd) = 1s",
        UNITS + "/containerd.service",
    ),
    Injury(
        "unit-masked",
        f"ln -sfn /dev/null {UNITS}/kubelet.service; systemctl daemon-reload; systemctl kill --signal=KILL kubelet",
        f"{_same(UNITS + '/kubelet.service')} && systemctl is-active kubelet",
        UNITS + "/kubelet.service",
    ),
]
EFFECTS = [
    Injury(
        "rules-of-kube-proxy-flushed",
        "nft flush table ip kube-proxy",
        "nft list chain ip kube-proxy nat-prerouting | grep jump",
        "kube-proxy.service lost table ip kube-proxy",
    ),
    Injury(
        "table-of-flannel-deleted",
        "nft delete table ip flannel-ipv4",
        "nft list table ip flannel-ipv4 | grep masquerade",
        "flannel.service lost",
    ),
    Injury(
        "route-to-other-pods-gone",
        "ip route flush dev flannel.1 scope global",
        "ip route show dev flannel.1 | grep via",
        "routes to other nodes",
    ),
    Injury(
        "pause-image-removed",
        f"{CTR} images remove --sync {PAUSE}",
        f"{CTR} images list -q | grep pause",
        "freehold-images.service lost image",
    ),
    # containerd ends by itself when the directory it watches goes.
    Injury(
        "directory-gone",
        f"rm -r {paths.CNI_CONFIG}",
        f"{_same(paths.CNI_CONFLIST)}",
        "directory:" + paths.CNI_CONFIG,
    ),
]
RUNTIME = [
    Injury(
        "table-of-kube-proxy-deleted",
        "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy",
        "nft list chain ip kube-proxy nat-prerouting | grep jump",
        "kube-proxy.service lost table",
    ),
    # flannel ends by itself then.
    Injury(
        "link-of-flannel-gone",
        "ip link del flannel.1",
        "ip route show dev flannel.1 | grep via",
        "",
    ),
    Injury(
        "socket-of-containerd-gone",
        f"rm {paths.CONTAINERD_SOCKET}",
        f"{CTR} version",
        "containerd.service lost socket",
    ),
]
FULL = [
    Injury(
        "with-a-full-run-file",
        f"rm {paths.ETC}/kubelet.json",
        _same(paths.ETC + "/kubelet.json"),
        "kubelet.json",
    ),
    Injury("with-a-full-run-unit", "systemctl stop flannel", "systemctl is-active flannel", "unit:flannel"),
]
SERVICES, MASQUERADE = "ip kube-proxy services", "ip flannel-ipv4 postrtg"
A_POD = "$(ls /var/lib/cni/networks/freehold | grep --max-count=1 ^10)"
SINGLE = [
    Injury(
        "rule-of-kube-proxy-deleted",
        f"nft delete rule {SERVICES} handle "
        f"$(nft --handle list chain {SERVICES} | sed -n 's/.*vmap @service-ips # handle //p')",
        f"nft list chain {SERVICES} | grep 'vmap @service-ips'",
        "kube-proxy.service lost table ip kube-proxy chain services",
    ),
    Injury(
        "rule-of-flannel-deleted",
        f"nft delete rule {MASQUERADE} handle "
        f"$(nft --handle list chain {MASQUERADE} | sed -n '0,/masquerade/s/.*masquerade.* # handle //p')",
        f"test $(nft list chain {MASQUERADE} | grep -c 'masquerade fully') = 2",
        "flannel.service lost table ip flannel-ipv4 chain postrtg",
    ),
    Injury("bridge-of-pods-deleted", "ip link del cni0", f"ping -q -c 1 -W 1 {A_POD}", "cni0 for"),
]
KEPT = (
    paths.MODULES_DROPIN,
    paths.SYSCTL_DROPIN,
    paths.NODE_KUBECONFIG,
    paths.CLUSTER_CA,
    paths.KUBELET_KUBECONFIG,
    paths.CNI_CONFLIST,
    paths.BIN + "/runc",
    UNITS + "/containerd.service",
    UNITS + "/kubelet.service",
    paths.ETC + "/kubelet.json",
)
_TOLD: dict[int, str] = {}
"""The journal of a batch, by its outcome: asking a machine takes a second."""
LOOK = 'look() { stat -c "%F %a %U %G" $1 && { readlink $1 || sha256sum < $1; }; }'


@pytest.fixture(scope="module")
def worker(cluster: Cluster, echo: Kubectl) -> Iterator[str]:
    """A worker that is as it should be, with pods, and is so again afterwards."""
    name = cluster.workers[0]
    kept = "; ".join(f"look {path} > /dev/shm/e2e/$(echo {path} | tr / _)" for path in KEPT)
    cluster.run(name, f"{LOOK}; mkdir -p /dev/shm/e2e; {kept}")
    yield name
    cluster.run(name, "rm -rf /dev/shm/e2e")


@pytest.fixture(scope="module")
def files(cluster: Cluster, worker: str) -> dict[str, float]:
    """Files, programs, settings and units, all injured at once: the seconds until each was healed."""
    return _injured(cluster, worker, FILES)


@pytest.fixture(scope="module")
def full(cluster: Cluster, worker: str, kubectl: Kubectl) -> dict[str, float]:
    """A file and a unit, while nothing can be written to /run, which the Node has said by the end."""
    size = cluster.run(worker, "findmnt --noheadings --output SIZE --bytes /run").strip()
    fill = "dd if=/dev/zero of=/run/e2e-full bs=4096 status=none 2> /dev/null || true"
    used = "$(df --output=used --block-size=1 /run | tail --lines=1)"
    shrink = f"until mount -o remount,size={used} /run; do sleep 0.1; done"  # others write there, too
    cluster.run(worker, f"{shrink}; {fill}")
    try:
        seconds = _injured(cluster, worker, FULL)
        wait_for(lambda: "/run" in _condition(kubectl, worker)["message"], HEALED_WITHIN, "the condition")
    finally:
        cluster.run(worker, f"rm /run/e2e-full; mount -o remount,size={size} /run")
    wait_for(lambda: _condition(kubectl, worker)["status"] == "False", HEALED_WITHIN, "the condition to end")
    return seconds


@pytest.fixture(scope="module")
def effects(cluster: Cluster, worker: str) -> dict[str, float]:
    """What running programs made and lost."""
    return _injured(cluster, worker, EFFECTS)


@pytest.fixture(scope="module")
def runtime(cluster: Cluster, worker: str) -> dict[str, float]:
    """containerd's socket, and whole tables and links."""
    return _injured(cluster, worker, RUNTIME)


@pytest.fixture(scope="module")
def single(cluster: Cluster, worker: str) -> dict[str, float]:
    """Single rules, and the pods' bridge. How many rules there were the agent must have seen since the last start."""
    begun = int(cluster.run(worker, f"date +%s; systemctl reload {AGENT}"))
    ask = f"python3 -I {paths.AGENT_ZIPAPP} status --output json"
    wait_for(
        lambda: json.loads(cluster.run(worker, ask))["agent"].get("looked", 0) >= begun, PATIENCE, "a look"
    )
    return _injured(cluster, worker, SINGLE)


def _names(injuries: list[Injury]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("injury", injuries, ids=[injury.name for injury in injuries])


@_names(FILES)
def test_what_is_on_disk_heals(
    cluster: Cluster, worker: str, files: dict[str, float], injury: Injury
) -> None:
    """Files, links, modes, programs, settings, routes and units are as they were, and the journal says so."""
    _healed_and_told(cluster, worker, files, injury)


@_names(FULL)
def test_a_full_run_keeps_nothing_from_healing(
    cluster: Cluster, worker: str, full: dict[str, float], injury: Injury
) -> None:
    """Files and units heal though nothing can be written to /run; the Node said so while it lasted."""
    _healed_and_told(cluster, worker, full, injury)


@_names(EFFECTS)
def test_what_programs_made_comes_back(
    cluster: Cluster, worker: str, effects: dict[str, float], injury: Injury
) -> None:
    """Rules, routes and images that only a start makes are there again."""
    _healed_and_told(cluster, worker, effects, injury)


def test_settings_of_others_are_reported_and_left(cluster: Cluster, worker: str, kubectl: Kubectl) -> None:
    """A drop-in and a foreign CNI file stay where they are; condition, Event, `node show` and the agent name them."""
    dropin, foreign = "/etc/systemd/system/kubelet.service.d/50-mine.conf", paths.CNI_CONFIG + "/99-mine.conf"
    cluster.run(
        worker,
        f"mkdir -p {dropin.rpartition('/')[0]}; printf '[Service]\\nNice=1\\n' > {dropin}; echo {{}} > {foreign}",
    )
    try:
        for one in (dropin, foreign):  # a glance may come between the two
            wait_for(
                lambda one=one: one in _condition(kubectl, worker)["message"], HEALED_WITHIN, "the condition"
            )  # type: ignore[misc]
        assert _condition(kubectl, worker)["status"] == "True"
        for reason in ("FreeholdDrift", "FreeholdRepaired"):  # which are sent after the condition
            wait_for(lambda reason=reason: _events(kubectl, worker, reason), HEALED_WITHIN, reason)  # type: ignore[misc]
        assert dropin in str(cluster.freehold("node", "show", worker))
        assert dropin in cluster.run(worker, f"python3 -I {paths.AGENT_ZIPAPP} status")
        assert cluster.run(worker, f"cat {foreign}") == "{}"
    finally:
        cluster.run(worker, f"rm -r {dropin.rpartition('/')[0]} {foreign}")
    wait_for(lambda: _condition(kubectl, worker)["status"] == "False", HEALED_WITHIN, "the condition to end")


@_names(RUNTIME)
def test_what_is_gone_altogether_comes_back(
    cluster: Cluster, worker: str, runtime: dict[str, float], injury: Injury
) -> None:
    """Its socket; kube-proxy's whole tables and flannel's link."""
    _healed_and_told(cluster, worker, runtime, injury)


@_names(SINGLE)
def test_what_was_taken_out_of_the_middle_comes_back(
    cluster: Cluster, worker: str, single: dict[str, float], injury: Injury
) -> None:
    """One rule of many; the bridge, with the pods that were on it."""
    _healed_and_told(cluster, worker, single, injury)


def test_nothing_more_is_written_when_all_is_healed(cluster: Cluster, worker: str, kubectl: Kubectl) -> None:
    """The agent comes to rest: test_19_quiet.py says for how long, and what it takes."""
    wait_for(lambda: nothing_to_apply(cluster), PATIENCE, "the node to be whole")
    failed = "systemctl is-failed '*' || true"
    wait_for(lambda: "failed" not in cluster.run(worker, failed), PATIENCE, "no failed unit")
    wait_for(lambda: _rests(cluster, worker), PATIENCE, "the agent to come to rest")
    kubectl("wait", f"node/{worker}", "--for=condition=Ready", "--timeout=60s")


def _injured(cluster: Cluster, machine: str, injuries: list[Injury]) -> dict[str, float]:
    """Injure a machine in all these ways; return the seconds until each was healed, for those that were."""
    functions = "\n".join(
        f"injure_{number}() {{ {{ {injury.done}; }} > /dev/null; }}\n"
        f"healed_{number}() {{ {{ {injury.healed}; }} > /dev/null 2>&1; }}"
        for number, injury in enumerate(injuries)
    )
    script = f"""
    {LOOK}
    {functions}
    left=$(seq 0 {len(injuries) - 1})
    date +%s > /dev/shm/e2e/begun
    for number in $left; do injure_$number; if healed_$number; then echo "$number 0"; fi; done
    begun=$(date +%s%N)
    while test -n "$left" && test $(( ($(date +%s%N) - begun) / 1000000000 )) -lt {HEALED_WITHIN:.0f}; do
      sleep 0.5; rest=
      for number in $left; do
        if healed_$number; then echo "$number $(( ($(date +%s%N) - begun) / 1000000 ))"; else rest="$rest $number"; fi
      done
      left=$rest
    done
    """
    seconds: dict[str, float] = {}
    for line in cluster.run(machine, script, timeout=HEALED_WITHIN * 3).splitlines():
        number, after = line.split()
        seconds.setdefault(injuries[int(number)].name, int(after) / 1000)
    print(json.dumps(seconds, indent=1))
    return seconds


def _healed_and_told(cluster: Cluster, machine: str, seconds: dict[str, float], injury: Injury) -> None:
    assert injury.name in seconds, f"not healed within {HEALED_WITHIN:.0f} s"
    assert seconds[injury.name] > 0, "the injury did nothing"
    if injury.told not in _TOLD.get(id(seconds), ""):
        wait_for(lambda: injury.told in _journal(cluster, machine), 10, f"a line about {injury.told}")
        _TOLD[id(seconds)] = _journal(cluster, machine)


def _rests(cluster: Cluster, machine: str) -> bool:
    """Look twice: the thread that tells the cluster of the last repair may still have something to say at first."""
    before = Traces.of(cluster, machine)
    time.sleep(QUIET)
    assert Traces.of(cluster, machine) == before
    return True


def _events(kubectl: Kubectl, node: str, reason: str) -> str:
    about = f"involvedObject.name={node},reason={reason}"
    return kubectl("get", "events", "--field-selector", about, "--output=name").stdout


def _condition(kubectl: Kubectl, node: str) -> dict[str, str]:
    found = kubectl.json("get", "node", node)["status"]["conditions"]
    return next((c for c in found if c["type"] == "FreeholdDrift"), {"status": "", "message": ""})


def _journal(cluster: Cluster, machine: str) -> str:
    since = "--since=@$(cat /dev/shm/e2e/begun)"
    return cluster.run(machine, f"journalctl --no-pager --output=cat --unit={AGENT} {since}")
