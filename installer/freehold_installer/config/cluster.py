"""The tree under `config`: the keys of a vcluster.yaml that mean something without a host cluster.

The docstring of each field is its description in the JSON Schema and in docs/reference/configuration.md. Keys
of vCluster that are not here are in `refused_keys`, each with its reason.
"""

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from freehold_agent.contract import paths
from freehold_agent.contract.volumes import base_problem
from freehold_installer.config import addresses, trusted_settings
from freehold_installer.config.scalars import (
    AbsolutePath,
    Cidr,
    Cpu,
    Domain,
    Flag,
    IpAddress,
    LabelKey,
    LabelValue,
    Memory,
    Model,
    Name,
    San,
    Seconds,
)

DEFAULT_KUBERNETES = "1.37.2"
DEFAULT_SERVICE_CIDR = "10.96.0.0/12"
DEFAULT_CLASS = "local-path"


class LeaderElection(NamedTuple):
    """Seconds, for every leader election of the cluster."""

    lease_duration: int = 15
    renew_deadline: int = 10
    retry_period: int = 2


def _version(text: str) -> str:
    plain = text.removeprefix("v")
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", plain):
        raise ValueError(f"expected a Kubernetes version such as {DEFAULT_KUBERNETES}, found {text!r}")
    return plain


class Taint(Model):
    key: LabelKey
    """As in `kubectl taint`, for example `example.org/gpu`."""
    value: LabelValue = ""
    """May be empty."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    """What happens to pods that do not tolerate it."""


class JoinNode(Model):
    enabled: Flag = True
    """The control-plane machine is a node too: a kubelet runs on it and pods may be placed there."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels of the control plane's Node, besides its host's own `labels`."""
    taints: tuple[Taint, ...] = ()
    """Taints of the control plane's Node; none by default, so that one machine is a whole cluster."""


class Standalone(Model):
    enabled: Flag = True
    """Always true: freehold is the standalone mode."""
    join_node: JoinNode = JoinNode()
    """The control-plane machine as a node."""
    advertise_address: IpAddress | None = None
    """The address under which the API server is known to the cluster; else the host's `internalAddress`. For
    machines with several networks; nothing is guessed from a default route."""


def _apiserver(args: tuple[str, ...]) -> tuple[str, ...]:
    return trusted_settings.check_arguments("kube-apiserver", args)


def _controller_manager(args: tuple[str, ...]) -> tuple[str, ...]:
    return trusted_settings.check_arguments("kube-controller-manager", args)


def _scheduler(args: tuple[str, ...]) -> tuple[str, ...]:
    return trusted_settings.check_arguments("kube-scheduler", args)


class _Component(Model):
    extra_args: tuple[StrictStr, ...] = ()

    @property
    def arguments(self) -> dict[str, str]:
        """Return the extra arguments as flag name (without dashes) -> value; a bare flag is `true`."""
        return dict(trusted_settings.split_argument(argument) for argument in self.extra_args)


class ApiServer(_Component):
    extra_args: Annotated[tuple[StrictStr, ...], AfterValidator(_apiserver)] = ()
    """Further arguments, each as one `--name=value`. Those that weaken trust or that freehold sets itself are
    errors."""


class ControllerManager(_Component):
    extra_args: Annotated[tuple[StrictStr, ...], AfterValidator(_controller_manager)] = ()
    """Further arguments, each as one `--name=value`."""


class Scheduler(_Component):
    extra_args: Annotated[tuple[StrictStr, ...], AfterValidator(_scheduler)] = ()
    """Further arguments, each as one `--name=value`."""


class K8s(Model):
    enabled: Flag = True
    """Always true: upstream Kubernetes is the only distribution."""
    version: Annotated[StrictStr, AfterValidator(_version)] = DEFAULT_KUBERNETES
    """A release this freehold has a lock for (`freehold bundle list`); with or without a leading `v`."""
    api_server: ApiServer = ApiServer()
    """kube-apiserver."""
    controller_manager: ControllerManager = ControllerManager()
    """kube-controller-manager."""
    scheduler: Scheduler = Scheduler()
    """kube-scheduler."""


class Distro(Model):
    k8s: K8s = Field(default=K8s(), alias="k8s")
    """Upstream Kubernetes."""


class EmbeddedEtcd(Model):
    enabled: Flag = True
    """etcd as a unit on the control-plane machine."""


class Etcd(Model):
    embedded: EmbeddedEtcd = EmbeddedEtcd()
    """etcd beside the API server."""


class BackingStore(Model):
    etcd: Etcd = Etcd()
    """Where the cluster's objects are kept."""


class HighAvailability(Model):
    replicas: Annotated[StrictInt, Field(ge=1, le=5)] | None = None
    """Must equal the number of hosts with the role `control-plane`; may be left out."""
    lease_duration: Seconds | None = None
    """Seconds a leader's lease lasts; 15 when left out (upstream's; vCluster's 60 would leave a restarted
    control plane without a scheduler for a minute)."""
    renew_deadline: Seconds | None = None
    """Seconds a leader tries to renew before it gives up; 10 when left out; less than `leaseDuration`."""
    retry_period: Seconds | None = None
    """Seconds between tries; 2 when left out; 1.2 times it must be less than `renewDeadline`."""

    @property
    def timings(self) -> LeaderElection:
        """Return the timings in force (seconds)."""
        default = LeaderElection()
        return LeaderElection(
            self.lease_duration or default.lease_duration,
            self.renew_deadline or default.renew_deadline,
            self.retry_period or default.retry_period,
        )


class StatefulSet(Model):
    high_availability: HighAvailability = HighAvailability()
    """Leader election and the number of control planes."""


class Quantities(Model):
    cpu: Cpu | None = None
    """Processor time: `500m` is half of one."""
    memory: Memory | None = None
    """Memory, in Ki, Mi or Gi."""


class Resources(Model):
    requests: Quantities = Quantities(cpu="20m", memory="64Mi")
    """What the scheduler keeps free."""
    limits: Quantities = Quantities()
    """The most it may use; none when left out."""

    def as_object(self) -> dict[str, dict[str, str]]:
        """Return them as a container has them."""
        found = {"requests": self.requests, "limits": self.limits}
        parts = {name: part.model_dump(exclude_none=True) for name, part in found.items()}
        return {name: part for name, part in parts.items() if part}


class CoreDnsDeployment(Model):
    replicas: Annotated[StrictInt, Field(ge=1, le=20)] = 1
    """Pods, spread over the nodes: with fewer nodes than usual some wait."""
    resources: Resources = Resources()
    """Of each pod."""


class CoreDns(Model):
    enabled: Flag = True
    """Names of Services and pods can be resolved."""
    embedded: Flag = True
    """CoreDNS is a unit on the control plane and needs no image (vCluster's default is a Deployment). `false`: pods."""
    deployment: CoreDnsDeployment = CoreDnsDeployment()
    """The pods, when it is not embedded."""


class Proxy(Model):
    extra_sans: tuple[San, ...] = Field(default=(), alias="extraSANs")
    """Further names and addresses in the API server's certificate."""


class ControlPlane(Model):
    standalone: Standalone = Standalone()
    """The control plane stands on its own machines."""
    distro: Distro = Distro()
    """Which Kubernetes."""
    backing_store: BackingStore = BackingStore()
    """Which data store."""
    stateful_set: StatefulSet = StatefulSet()
    """Named as in vCluster; here the settings of the control plane's units."""
    coredns: CoreDns = CoreDns()
    """Cluster DNS."""
    proxy: Proxy = Proxy()
    """Named as in vCluster; there is no proxy process, the API server is reached directly on port 6443."""


class Services(Model):
    cidr: Cidr | None = None
    """Addresses of Services; the same as `networking.serviceCIDR`."""


class AdvancedNetworking(Model):
    cluster_domain: Domain = "cluster.local"
    """The DNS domain of the cluster."""


class Networking(Model):
    pod_cidr: Cidr = Field(default="10.244.0.0/16", alias="podCIDR")
    """Addresses of pods; each node gets a part of it (`nodeCIDRMaskSize`)."""
    service_cidr_key: Cidr | None = Field(default=None, alias="serviceCIDR")
    """Addresses of Services; 10.96.0.0/12 when left out."""
    services: Services = Services()
    """The other spelling of `serviceCIDR`."""
    node_cidr_mask_size: Annotated[StrictInt, Field(ge=8, le=128)] = Field(
        default=24, alias="nodeCIDRMaskSize"
    )
    """Length of each node's part of `podCIDR`: 24 in a /16 makes room for 256 nodes of 254 addresses each."""
    advanced: AdvancedNetworking = AdvancedNetworking()
    """Rarely needed."""

    @property
    def service_cidr(self) -> str:
        """Return the Services' network, from whichever spelling was used."""
        return self.service_cidr_key or self.services.cidr or DEFAULT_SERVICE_CIDR

    @property
    def cluster_domain(self) -> str:
        return self.advanced.cluster_domain

    @property
    def api_service_address(self) -> str:
        """Return the ClusterIP of the Service `kubernetes`: the first address."""
        return addresses.nth_address(self.service_cidr, 1)

    @property
    def dns_address(self) -> str:
        """Return the ClusterIP of `kube-dns`: the tenth address."""
        return addresses.nth_address(self.service_cidr, 10)

    @property
    def max_nodes(self) -> int:
        """Return how many nodes get a part of `podCIDR`."""
        return int(2 ** (self.node_cidr_mask_size - addresses.prefix_length(self.pod_cidr)))


class Flannel(Model):
    enabled: Flag = True
    """flannel connects the pods of all machines. `false` leaves the place to a network of yours: nodes are NotReady
    until it comes."""
    backend: Literal["vxlan", "host-gw"] = "vxlan"
    """`vxlan` works across routers; `host-gw` is faster and needs all machines in one network. freehold's own
    key."""


class Cni(Model):
    flannel: Flannel = Flannel()
    """The pod network."""


class KubeProxy(Model):
    enabled: Flag = True
    """kube-proxy (nftables mode) makes Services reachable. `false` leaves the place to a proxy of yours."""


def _volume_path(text: str) -> str:
    problem = base_problem(text)
    if problem:
        raise ValueError(problem)
    return text


class LocalPathClass(Model):
    path: Annotated[AbsolutePath, AfterValidator(_volume_path)] = paths.VOLUMES
    """Directory on the nodes. freehold makes only its own; another one must be there, belong to root and be
    writable by root only: nodes without it get no volumes of this class."""
    reclaim_policy: Literal["Delete", "Retain"] = "Delete"
    """What happens to the data when its claim is deleted."""
    default: Flag | None = None
    """Claims that name no class get this one. `local-path` is the default class unless another one, or none, is
    to be."""


class LocalPathProvisioner(Model):
    enabled: Flag = True
    """Volumes in directories of the nodes: a StorageClass `local-path`, and those of `classes`."""
    classes: dict[Name, LocalPathClass] = Field(default_factory=dict)
    """Further StorageClasses by name, or another form of `local-path`. freehold's own key."""

    def all_classes(self) -> dict[str, LocalPathClass]:
        """Return every class by name, each with its `default` decided."""
        others = any(found.default for name, found in self.classes.items() if name != DEFAULT_CLASS)
        known = {DEFAULT_CLASS: LocalPathClass(), **self.classes}
        return {
            name: found
            if found.default is not None
            else found.model_copy(update={"default": name == DEFAULT_CLASS and not others})
            for name, found in known.items()
        }


class MetricsServer(Model):
    enabled: Flag = False
    """metrics-server, for `kubectl top` and autoscaling."""


class Deploy(Model):
    cni: Cni = Cni()
    """The pod network."""
    kube_proxy: KubeProxy = KubeProxy()
    """Services."""
    local_path_provisioner: LocalPathProvisioner = LocalPathProvisioner()
    """Local volumes."""
    metrics_server: MetricsServer = MetricsServer()
    """Resource metrics."""


def _kubelet(config: dict[str, Any]) -> dict[str, Any]:
    return trusted_settings.check_kubelet(config)


class Kubelet(Model):
    config: Annotated[dict[StrictStr, Any], AfterValidator(_kubelet)] = Field(default_factory=dict)
    """Fields of KubeletConfiguration for every node, merged last, for example `maxPods: 60`. Those that
    weaken trust or that freehold sets itself are errors."""


class PrivateNodes(Model):
    enabled: Flag = True
    """Always true: every node is a machine of its own."""
    kubelet: Kubelet = Kubelet()
    """Settings of every kubelet."""


class ClusterConfig(Model):
    """The keys of a vcluster.yaml in standalone mode."""

    control_plane: ControlPlane = ControlPlane()
    """The control plane's programs."""
    networking: Networking = Networking()
    """Addresses and names."""
    deploy: Deploy = Deploy()
    """What is installed besides Kubernetes itself."""
    private_nodes: PrivateNodes = PrivateNodes()
    """The nodes."""
