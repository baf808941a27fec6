"""Keys that are known and still cannot be used: one table, each row with its reason.

`NOT_YET` rows go when their feature arrives. `NO_SENSE` rows are keys of vCluster that need a host cluster.
`NOTE` rows are accepted without effect, with one note. A row that is only about a *value* has `when`; without
it a key may still be there while it is switched off (`enabled: false`, empty), because that is what we do.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Verdict(Enum):
    NOT_YET = "not yet"
    NO_SENSE = "makes no sense here"
    NOTE = "has no effect"


@dataclass(frozen=True)
class Refusal:
    key: str
    """Path with dots; `*` is any one step. Below `config` a path is that of a vcluster.yaml."""
    verdict: Verdict
    reason: str
    """Why, and what to use instead."""
    when: Callable[[Any], bool] | None = None
    """Refused for these values only; None: unless it is switched off."""
    shown_when: str = ""
    """The values in words, for the documentation."""

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))

    def applies(self, value: Any) -> bool:
        return asks_for_something(value) if self.when is None else self.when(value)

    @property
    def message(self) -> str:
        return f"{self.verdict.value}: {self.reason}"


def asks_for_something(value: Any) -> bool:
    """Whether a part of a vcluster.yaml switches anything on: `enabled: false` and empty values do not."""
    if isinstance(value, Mapping):
        if value.get("enabled") is False:
            return False
        return any(asks_for_something(part) for part in value.values())
    return value not in (None, False, "", "auto", 0) and value != []


def _is_false(value: Any) -> bool:
    return value is False


def _is_two_families(value: Any) -> bool:
    return isinstance(value, str) and "," in value


def _is_ipv6(value: Any) -> bool:
    return isinstance(value, str) and ":" in value and "," not in value


def _has_several_control_planes(hosts: Any) -> bool:
    if not isinstance(hosts, Mapping):
        return False
    roles = [host.get("roles") for host in hosts.values() if isinstance(host, Mapping)]
    return sum(isinstance(held, list) and "control-plane" in held for held in roles) > 1


def _has_etcd(roles: Any) -> bool:
    return isinstance(roles, list) and "etcd" in roles


def _is_moved(value: Any) -> bool:
    return isinstance(value, str) and value.rstrip("/") != "/var/lib/freehold"


def _is_many(value: Any) -> bool:
    return isinstance(value, int) and value > 1


def _each(prefix: str, *keys: str) -> list[str]:
    return [prefix + key for part in keys for key in part.split()]


def _rows() -> Iterator[Refusal]:
    def not_yet(
        key: str, reason: str, when: Callable[[Any], bool] | None = None, shown_when: str = ""
    ) -> Refusal:
        return Refusal(key, Verdict.NOT_YET, reason, when, shown_when)

    def no_sense(
        key: str, reason: str, when: Callable[[Any], bool] | None = None, shown_when: str = ""
    ) -> Refusal:
        return Refusal(key, Verdict.NO_SENSE, reason, when, shown_when)

    one_control_plane = "there is exactly one control plane for now"
    two_families = "one network of one address family for now"
    six = "IPv6 comes with dual stack"
    jump = "machines must be reachable directly for now"

    yield not_yet("hosts", one_control_plane, _has_several_control_planes, "several hosts are control planes")
    yield not_yet(
        "hosts.*.roles", "etcd stands on the control plane for now", _has_etcd, "`etcd` is among them"
    )
    yield not_yet("hosts.*.dataDir", "it is /var/lib/freehold for now", _is_moved, "another directory")
    yield not_yet("hosts.*.internalAddress", six, _is_ipv6, "an IPv6 address")
    yield not_yet("hosts.*.ssh.jumpHost", jump)
    yield not_yet("ssh.jumpHost", jump)

    cp = "config.controlPlane."
    yield no_sense(cp + "standalone.enabled", "freehold is the standalone mode", _is_false, "`false`")
    yield not_yet(
        cp + "standalone.dataDir", "it is /var/lib/freehold for now", _is_moved, "another directory"
    )
    for hook in ("preInstallCommands", "preJoinCommands", "postJoinCommands"):
        yield not_yet(cp + "standalone.joinNode." + hook, "no commands are run around a join for now")
        yield not_yet("config.privateNodes.joinNode." + hook, "no commands are run around a join for now")
    registries = "containerd has its own settings only; images come with the bundle"
    for place in (cp + "standalone.joinNode.", "config.privateNodes.joinNode."):
        yield not_yet(place + "containerd", registries)
        yield no_sense(
            place + "nodeRegistration", "no kubeadm runs; use labels, taints and privateNodes.kubelet.config"
        )
        yield no_sense(place + "skipPhases", "no kubeadm runs")
        yield no_sense(place + "caCertPath", "the CA travels over SSH, never over an unverified download")
    yield no_sense(cp + "standalone.joinNode.name", "a Node is named after its key in hosts")
    bundles = "what is installed is the release bundle of the operator (`freehold bundle build`)"
    yield no_sense(cp + "standalone.bundle", bundles)
    yield no_sense(cp + "standalone.bundleRepository", bundles)
    yield not_yet(cp + "standalone.autoNodes", "machines are those of the inventory")
    yield no_sense(cp + "standalone.syncSettings", "there is no host cluster to synchronise with")

    yield no_sense(cp + "distro.k3s", "vCluster removed it in 0.33; use controlPlane.distro.k8s")
    yield no_sense(cp + "distro.k0s", "vCluster removed it; use controlPlane.distro.k8s")
    yield no_sense(cp + "distro.eks", "vCluster removed it; use controlPlane.distro.k8s")
    yield no_sense(
        cp + "distro.k8s.enabled", "upstream Kubernetes is the only distribution", _is_false, "`false`"
    )
    image = "components are programs, not images; set controlPlane.distro.k8s.version"
    for key in ("image", "imagePullPolicy"):
        yield no_sense(cp + "distro.k8s." + key, image)
    unit = "components are systemd units of the machine; use extraArgs"
    for key in ("env", "securityContext", "resources"):
        yield no_sense(cp + "distro.k8s." + key, unit)
    for part in ("apiServer", "controllerManager", "scheduler"):
        yield no_sense(cp + f"distro.k8s.{part}.command", unit)
        yield no_sense(cp + f"distro.k8s.{part}.image", image)
        yield no_sense(cp + f"distro.k8s.{part}.imagePullPolicy", image)
        yield no_sense(
            cp + f"distro.k8s.{part}.enabled",
            "a control plane needs it",
            lambda value: value is not True,
            "`false`",
        )

    store = cp + "backingStore."
    yield not_yet(
        store + "etcd.embedded.enabled", "etcd on the control plane is the only store", _is_false, "`false`"
    )
    yield no_sense(store + "etcd.embedded.migrateFromDeployedEtcd", "there is no deployed etcd to come from")
    yield not_yet(store + "etcd.deploy", "etcd stands on the control plane for now")
    yield not_yet(store + "etcd.external", "etcd stands on the control plane for now")
    yield not_yet(store + "database", "etcd is the only store for now; kine comes later")

    sts = cp + "statefulSet."
    yield not_yet(sts + "highAvailability.replicas", one_control_plane, _is_many, "more than 1")
    yield not_yet(sts + "resources", "the control plane has no limits for now")
    yield no_sense(
        sts + "persistence.volumeClaim.storageClass",
        "no host cluster gives a volume; data is on the machine's disk",
    )
    yield not_yet(sts + "persistence", "free space is checked with fixed figures for now")
    pod = "the control plane is units of a machine, not a pod"
    for key in _each(
        sts,
        "labels annotations image imagePullPolicy workingDir command args env pods security",
        "enableServiceLinks scheduling probes dnsPolicy dnsConfig initContainers sidecarContainers",
    ):
        yield no_sense(key, pod)

    yield not_yet(cp + "coredns.enabled", "cluster DNS is always there for now", _is_false, "`false`")
    for key in _each(
        cp + "coredns.deployment.",
        "labels annotations nodeSelector affinity tolerations pods image topologySpreadConstraints",
    ):
        yield not_yet(key, "replicas and resources can be set; the rest has freehold's settings")
    for key in ("overwriteManifests", "overwriteConfig", "priorityClassName", "security", "service"):
        yield not_yet(cp + "coredns." + key, "CoreDNS has freehold's configuration")

    yield not_yet(
        cp + "endpoint", "an address in front of several control planes comes with them; use proxy.extraSANs"
    )
    yield no_sense(cp + "proxy.port", "no proxy runs; the API server listens on 6443")
    yield no_sense(cp + "proxy.bindAddress", "no proxy runs; the API server listens on 6443")
    host_service = "no host cluster exists that could make it; use controlPlane.proxy.extraSANs"
    for key in ("service", "ingress", "gateway", "hostPathMapper"):
        yield no_sense(cp + key, host_service)
    yield not_yet(cp + "serviceMonitor", "metrics are not collected for you")
    advanced = cp + "advanced."
    yield no_sense(advanced + "virtualScheduler.enabled", "a scheduler always runs", _is_false, "`false`")
    yield no_sense(advanced + "konnectivity", "the API server reaches nodes directly")
    yield not_yet(advanced + "registry", "no image registry runs in the control plane")
    yield not_yet(advanced + "kubeVip", "there is one control plane; its address is its machine's")
    yield not_yet(advanced + "defaultImageRegistry", "images come with the bundle")
    yield no_sense(advanced + "cloudControllerManager", "addresses come from the inventory")
    for key in _each(
        advanced, "serviceAccount workloadServiceAccount headlessService globalMetadata podDisruptionBudget"
    ):
        yield no_sense(key, pod)

    net = "config.networking."
    for key in ("podCIDR", "serviceCIDR", "services.cidr"):
        yield not_yet(net + key, two_families, _is_two_families, "two networks (dual stack)")
        yield not_yet(net + key, six, _is_ipv6, "an IPv6 network")
    tenants = "it belongs to virtual clusters on top of this one, which are planned"
    yield no_sense(net + "replicateServices", tenants)
    yield not_yet(net + "resolveDNS", "CoreDNS has freehold's configuration")
    yield no_sense(net + "advanced.fallbackHostCluster", tenants)
    yield no_sense(net + "advanced.proxyKubelets", tenants)
    for key in _each(
        "config.", "sync integrations policies rbac exportKubeConfig plugins plugin external sleep sleepMode"
    ):
        yield no_sense(key, tenants)

    deploy = "config.deploy."
    own_manifests = "use manifests of the inventory"
    for key in _each(deploy, "metallb ingressNginx argoCD csi volumeSnapshotController"):
        yield not_yet(key, own_manifests)
    for part in ("cni.flannel", "kubeProxy", "metricsServer"):
        images = "image initImage imagePullPolicy nodeSelector extraEnv extraArgs config replicas"
        for key in _each(f"{deploy}{part}.", images):
            yield no_sense(key, "it comes with the bundle and freehold's settings")
    yield no_sense("config.experimental.deploy", own_manifests)
    yield no_sense("config.experimental", "vCluster's experiments have no counterpart here")

    nodes = "config.privateNodes."
    yield no_sense(nodes + "enabled", "every node is a machine of its own", _is_false, "`false`")
    yield not_yet(nodes + "autoUpgrade", "machines change only with `freehold apply`")
    yield not_yet(nodes + "autoNodes", "machines are those of the inventory")
    yield not_yet(nodes + "vpn", "machines must reach each other directly")
    yield no_sense(nodes + "tunnel", "the API server reaches nodes directly")
    yield not_yet(nodes + "daemon", "kubelets speak to the one control plane directly")
    yield no_sense(nodes + "kubeProxy", "use deploy.kubeProxy")
    yield no_sense(nodes + "importNodeBinaries", bundles)

    account = "freehold has no account and no telemetry"
    for key in ("telemetry", "platform", "pro", "license"):
        yield Refusal("config." + key, Verdict.NOTE, account, lambda _: True)


REFUSALS = tuple(_rows())

_BY_STEPS: dict[tuple[str, ...], list[Refusal]] = {}
for _row in REFUSALS:
    _BY_STEPS.setdefault(_row.steps, []).append(_row)


def rows_for(path: tuple[str | int, ...]) -> list[Refusal]:
    """Return the rows about the key at `path`, in the order of the table."""
    return _BY_STEPS.get(_pattern(path), [])


def rows_below(path: tuple[str | int, ...]) -> list[Refusal]:
    """Return the rows about keys below `path`."""
    exact = _pattern(path)
    return [row for row in REFUSALS if len(row.steps) > len(exact) and row.steps[: len(exact)] == exact]


def _pattern(path: tuple[str | int, ...]) -> tuple[str, ...]:
    exact = tuple(str(step) for step in path)
    return (exact[0], "*", *exact[2:]) if exact[:1] == ("hosts",) and len(exact) > 1 else exact
