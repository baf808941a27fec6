"""What one apply or plan works with: everything read and derived before the first change.

Made by `workflow.look`; phases only read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import JoinDocument, Network
from freehold_agent.contract.paths import API_PORT, ARTIFACT_PORT, JOIN_PORT
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_installer.bundle import coredns_image
from freehold_installer.config import Host, Inventory
from freehold_installer.desired import dns, dns_deployment
from freehold_installer.desired.control_plane_context import ControlPlaneContext
from freehold_installer.phases import release, trust


@dataclass(frozen=True)
class Seen:
    """What a machine said of itself."""

    facts: Mapping[str, Any]
    document: JoinDocument | None
    """The document it was converged from last."""
    owners: tuple[str, ...]
    """Who has a record there: `control`, `node`."""
    ahead: float = 0.0
    """Seconds by which its clock is certainly ahead of ours; negative: behind."""

    @property
    def installed(self) -> bool:
        return bool(self.owners)


@dataclass(frozen=True)
class ClusterState:
    inventory: Inventory
    pki: PkiDirectory
    manifest: Manifest
    seen: Mapping[str, Seen] = field(default_factory=dict)

    def context(self, host: Host) -> ControlPlaneContext:
        """Return what a control-plane machine is derived from, with the keys issued so far."""
        api_server = url(host.internal_address, API_PORT)
        issued = trust.issued_for(self.inventory, host, self.pki, api_server)
        return ControlPlaneContext(self.inventory, host, self.manifest, self.seen[host.name].facts, issued)

    @property
    def metrics_server_image(self) -> str:
        if not self.inventory.config.deploy.metrics_server.enabled:
            return ""
        return self.manifest.entry(release.METRICS_SERVER_IMAGE).image

    def dns_objects(self) -> list[dict[str, Any]]:
        """Return the objects of cluster DNS."""
        networking = self.inventory.config.networking
        coredns = self.inventory.config.control_plane.coredns
        if coredns.embedded:
            return dns.objects(str(networking.dns_address))
        resolvers = [self.seen[host.name].facts.get("nameservers") for host in self.inventory.nodes]
        return dns_deployment.objects(
            str(networking.dns_address),
            networking.cluster_domain,
            self.manifest.entry(coredns_image.ENTRY).image,
            coredns.deployment,
            nodes=len(resolvers),
            # CoreDNS does not start when it is told to ask resolvers and its node knows none.
            forward=bool(resolvers) and all(resolvers),
        )

    def settings(self) -> ClusterSettings:
        """Return what all node documents say alike."""
        config = self.inventory.config
        planes = [host.internal_address for host in self.inventory.control_planes]
        ca = "" if "ca" in self.pki.missing([]) else self.pki.ca_pem()
        return ClusterSettings(
            cluster=self.inventory.name,
            endpoints=tuple(url(address, API_PORT) for address in planes),
            artifact_endpoints=tuple(url(address, ARTIFACT_PORT) for address in planes),
            join_endpoints=tuple(url(address, JOIN_PORT) for address in planes),
            ca_pem=ca,
            network=Network(
                pod_cidrs=(str(config.networking.pod_cidr),),
                service_cidrs=(str(config.networking.service_cidr),),
                node_pod_cidrs=(),
                dns_addresses=(str(config.networking.dns_address),),
                domain=config.networking.cluster_domain,
                backend=config.deploy.cni.flannel.backend,
                flannel=config.deploy.cni.flannel.enabled,
                kube_proxy=config.deploy.kube_proxy.enabled,
            ),
            manifest=release.node_manifest(self.manifest),
            kubelet=config.private_nodes.kubelet.config,
        )


def url(address: str, port: int) -> str:
    """Return `https://address:port`, with brackets around IPv6."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
