"""The inventory: what stands in the file (`InventoryFile`) and what the rest of the installer works with.

`Inventory` is made by `loading` only, after every check; whoever holds one may believe it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictStr

from freehold_installer.config.cluster import ClusterConfig, Taint
from freehold_installer.config.scalars import (
    AbsolutePath,
    ClusterName,
    HostAddress,
    HostKeys,
    IpAddress,
    LabelKey,
    LabelValue,
    Login,
    Model,
    Name,
    Port,
    Text,
)

Role = Literal["control-plane", "worker", "etcd"]
DEFAULT_DATA_DIR = "/var/lib/freehold"


class Ssh(Model):
    user: Login | None = None
    """Who logs in; needs root or sudo without a password. `root` when left out."""
    port: Port | None = None
    """TCP port of the SSH server; 22 when left out."""
    key: Text | None = None
    """Private key file, relative to the inventory; `~` is the home directory. When left out: the SSH agent
    and the usual files in `~/.ssh`."""


class HostEntry(Model):
    address: HostAddress
    """Where SSH connects to: an IP address or a DNS name."""
    internal_address: IpAddress | None = None
    """The address by which the machines know each other; `address` when left out. It must be one of the
    machine's own."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    """`control-plane` or `worker`."""
    host_key: HostKeys = ()
    """The machine's public SSH key or keys, as in `known_hosts` without the name. When given, nobody is asked
    whether to trust the machine."""
    ssh: Ssh = Ssh()
    """Settings for this host only; what is left out comes from the inventory's `ssh`."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels of its Node."""
    taints: tuple[Taint, ...] = ()
    """Taints of its Node."""
    data_dir: AbsolutePath = DEFAULT_DATA_DIR
    """Where freehold keeps its state on the machine."""


class InventoryFile(Model):
    """A cluster: its machines, how to reach them, and what is to run on them."""

    name: ClusterName
    """Name of the cluster: of its kubeconfig context and of the directory for its keys and journal."""
    ssh: Ssh = Ssh()
    """How to reach the machines; a host's own `ssh` wins."""
    hosts: Annotated[dict[Name, HostEntry], Field(min_length=1)]
    """The machines. The key is the name of the Node; the machine's own hostname is left alone."""
    manifests: tuple[Text, ...] = ()
    """Files with Kubernetes objects, relative to the inventory; applied once the API is ready."""
    config: ClusterConfig = ClusterConfig()
    """The keys of a vcluster.yaml, here or as the path of such a file."""


class Host(HostEntry):
    """A machine, with its name and every address decided."""

    name: StrictStr
    internal_address: IpAddress
    """Never empty here."""

    @property
    def is_control_plane(self) -> bool:
        return "control-plane" in self.roles


@dataclass(frozen=True)
class SshSettings:
    """How to reach one machine, everything decided."""

    user: str = "root"
    port: int = 22
    key: Path | None = None
    """Absolute; None: the SSH agent and the usual files."""
    jump_host: str | None = None
    """Always None until connections over other machines are built."""


@dataclass(frozen=True)
class Inventory:
    """A checked inventory. `hosts` is in the order of the file."""

    name: str
    ssh: Ssh
    hosts: dict[str, Host]
    config: ClusterConfig
    manifests: tuple[Path, ...]
    """Absolute; each was a readable file when the inventory was loaded."""
    path: Path
    """Absolute path of the inventory file."""
    notes: tuple[str, ...] = ()
    """What was accepted but has no effect, one sentence each."""
    warnings: tuple[str, ...] = ()
    """What works today and may not tomorrow, one sentence each."""

    @property
    def control_planes(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts.values() if host.is_control_plane)

    @property
    def workers(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts.values() if "worker" in host.roles)

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Return the hosts that run a kubelet."""
        return tuple(host for host in self.hosts.values() if self.is_node(host))

    def is_node(self, host: Host) -> bool:
        """Say whether a host runs a kubelet."""
        joined = self.config.control_plane.standalone.join_node.enabled
        return "worker" in host.roles or (joined and host.is_control_plane)

    @property
    def max_nodes(self) -> int:
        """Return how many nodes the pod network has room for."""
        return self.config.networking.max_nodes

    @property
    def state_dir(self) -> Path:
        """Return where keys, journal, lock, known hosts and kubeconfig of this cluster are kept."""
        base = os.environ.get("XDG_STATE_HOME", "")
        root = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
        return root / "freehold" / self.name

    def ssh_for(self, host: Host) -> SshSettings:
        """Return the settings in force for a host: its own, else the inventory's, else the defaults."""
        key = host.ssh.key or self.ssh.key
        return SshSettings(
            user=host.ssh.user or self.ssh.user or SshSettings.user,
            port=host.ssh.port or self.ssh.port or SshSettings.port,
            key=None if key is None else resolve(key, self.path),
        )

    def advertise_address(self, host: Host) -> str:
        """Return the address under which a control plane's API server is known to the cluster."""
        return self.config.control_plane.standalone.advertise_address or host.internal_address

    def labels_for(self, host: Host) -> dict[str, str]:
        """Return the labels of a host's Node; the host's own win over those of `joinNode`."""
        shared = self.config.control_plane.standalone.join_node.labels if host.is_control_plane else {}
        return {**shared, **host.labels}

    def taints_for(self, host: Host) -> tuple[Taint, ...]:
        """Return the taints of a host's Node, one per key and effect; the host's own win."""
        shared = self.config.control_plane.standalone.join_node.taints if host.is_control_plane else ()
        merged = {(taint.key, taint.effect): taint for taint in (*shared, *host.taints)}
        return tuple(merged.values())


def resolve(text: str, beside: Path) -> Path:
    """Return the absolute path meant by `text` in the file `beside`; `~` is expanded, nothing is read."""
    path = Path(os.path.expanduser(text))
    return Path(os.path.normpath(path if path.is_absolute() else beside.parent / path))
