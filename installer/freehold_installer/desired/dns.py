"""CoreDNS as a unit on the control plane, and the Service that leads pods to it.

It listens on port 1053 of the machine's own address, for pods, the machine's own network and nodes only;
freehold-controller keeps the list of nodes elsewhere, and the EndpointSlice behind the Service.
"""

import ipaddress
from typing import Any

from freehold_agent.contract import paths, ports
from freehold_agent.contract.resources import File, Resource, User
from freehold_agent.contract.unit_file import service
from freehold_installer.desired.control_plane_context import ControlPlaneContext, directory

USER = "coredns"
DIRECTORY = paths.ETC + "/coredns"


def prerequisites(context: ControlPlaneContext) -> list[Resource]:
    """Return CoreDNS's user, credential and Corefile."""
    return [
        User(USER, home=DIRECTORY),
        directory(DIRECTORY),
        context.pki_file("coredns.crt", f"{DIRECTORY}/client.crt"),
        context.pki_file("coredns.key", f"{DIRECTORY}/client.key", owner=USER, group=USER),
        File(f"{DIRECTORY}/Corefile", corefile(context).encode()),
    ]


def unit(context: ControlPlaneContext) -> list[Resource]:
    """Return CoreDNS's unit."""
    return service(
        "coredns",
        description="CoreDNS, the names of the cluster (freehold)",
        command=[f"{paths.BIN}/coredns", "-conf", f"{DIRECTORY}/Corefile"],
        inputs=[
            context.manifest.entry("bin/coredns").sha256,
            corefile(context),
            context.pki("coredns.crt"),
        ],
        reads=[f"{DIRECTORY}/{name}" for name in ("Corefile", "client.crt", "client.key")],
        slice_name=paths.CONTROL_SLICE,
        unit={"After": "freehold-api-ready.service", "Wants": "freehold-api-ready.service"},
        service={
            "User": USER,
            "NoNewPrivileges": "yes",
            "LimitNOFILE": "20000",
            "ProtectHome": "yes",
            **context.labels("bin/coredns"),
        },
    )


def corefile(context: ControlPlaneContext) -> str:
    """Return the Corefile: cluster names from the API, everything else from the machine's own resolver."""
    networking = context.inventory.config.networking
    lines = [
        f".:{paths.DNS_PORT} {{",
        f"    bind {context.address}",
        "    errors",
        f"    ready {context.address}:{ports.DNS_READY}",
        # For the list of nodes; CoreDNS takes no shorter interval.
        "    reload 2s 1s",
        "    acl {",
        f"        allow net {' '.join(networks(context))}",
        # A pattern: that the file is not there yet is no fault then.
        f"        import {paths.DNS_CLIENTS}*",
        "        block",
        "    }",
        f"    kubernetes {networking.cluster_domain} in-addr.arpa ip6.arpa {{",
        f"        endpoint {context.api_server}",
        f"        tls {DIRECTORY}/client.crt {DIRECTORY}/client.key {paths.CLUSTER_CA}",
        "        pods disabled",
        "        fallthrough in-addr.arpa ip6.arpa",
        "        ttl 30",
        "    }",
    ]
    if context.facts.get("nameservers"):
        # Read at each start, so a changed resolver of the machine needs only a restart.
        lines.append(f"    forward . {context.facts.get('resolv_conf') or '/etc/resolv.conf'}")
    lines += ["    cache 30", "    loadbalance", "}", ""]
    return "\n".join(lines)


def networks(context: ControlPlaneContext) -> list[str]:
    """Return whom CoreDNS answers before it knows a node: pods, and the network of the machine's own address."""
    found = {"127.0.0.0/8", str(ipaddress.ip_network(context.address))}
    for interface in context.facts.get("interfaces", []):
        for address in map(ipaddress.ip_interface, interface.get("addresses", [])):
            if str(address.ip) == context.address:
                found.add(str(address.network))
    return [str(context.inventory.config.networking.pod_cidr), *sorted(found)]


SLICES_OF_PODS = (
    "kubernetes.io/service-name=kube-dns,"
    "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io"
)
"""Label selector of what Kubernetes itself keeps for a Service with a selector."""


def endpoint_slice() -> dict[str, Any]:
    """Return the name of what freehold-controller keeps behind the Service."""
    metadata = {"name": "kube-dns-freehold", "namespace": "kube-system"}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata}


def objects(dns_address: str) -> list[dict[str, Any]]:
    """Return the Service `kube-dns`; without a selector, because its endpoints are machines."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {
                    "k8s-app": "kube-dns",
                    "kubernetes.io/cluster-service": "true",
                    "kubernetes.io/name": "CoreDNS",
                },
            },
            "spec": {
                "clusterIP": dns_address,
                # A Deployment's Service had one.
                "selector": None,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": paths.DNS_PORT},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": paths.DNS_PORT},
                ],
            },
        }
    ]
