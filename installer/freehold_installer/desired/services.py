"""The units of the services zipapp, each with its own user and credential.

freehold-join takes tokens, freehold-artifacts gives files by digest, freehold-controller approves and keeps;
where the machine is no node, freehold-pod-routes keeps the API server's way to pods. None can read the CA's key.
"""

import json
from typing import Any

from freehold_agent.contract import paths, ports
from freehold_agent.contract.resources import File, Resource, User
from freehold_agent.contract.unit_file import service
from freehold_installer.desired import dns
from freehold_installer.desired.control_plane_context import ControlPlaneContext, directory


def prerequisites(context: ControlPlaneContext) -> list[Resource]:
    """Return users, credentials and configuration files of the services."""
    resources: list[Resource] = [directory(paths.ETC), directory(paths.STATE, 0o755)]
    for name in names(context):
        pairs = _PAIRS[name]
        user = f"freehold-{name}"
        folder = f"{paths.ETC}/{name}"
        resources += [User(user, home=folder), directory(folder)]
        for pair in pairs:
            resources += [
                context.pki_file(f"{pair}.crt", f"{folder}/{pair}.crt"),
                context.pki_file(f"{pair}.key", f"{folder}/{pair}.key", owner=user, group=user),
            ]
        resources.append(File(f"{paths.ETC}/{name}.json", _config(context, name)))
        if name == "controller":
            resources.append(directory(paths.CONTROLLER_STATE, 0o755, user, user))
    return resources


_PAIRS = {
    "artifacts": ("freehold-artifacts",),
    "join": ("freehold-join", "freehold-join-client"),
    "controller": ("freehold-controller",),
    "pod-routes": ("freehold-pod-routes",),
}


def names(context: ControlPlaneContext) -> list[str]:
    """Return which services this machine runs."""
    is_node = context.inventory.is_node(context.host)
    return [name for name in _PAIRS if name != "pod-routes" or not is_node]


def unit(context: ControlPlaneContext, name: str) -> list[Resource]:
    """Return the unit of `artifacts`, `join`, `controller` or `pod-routes`."""
    # The artifact service needs no API and starts first: bytes flow while the API server comes up.
    after = "network-online.target" if name == "artifacts" else "freehold-api-ready.service"
    return service(
        f"freehold-{name}",
        description=_DESCRIPTIONS[name],
        command=[
            "/usr/bin/python3",
            paths.SERVICES_ZIPAPP,
            name,
            "--config",
            f"{paths.ETC}/{name}.json",
        ],
        inputs=[
            context.manifest.entry("bin/freehold-services.pyz").sha256,
            _config(context, name),
            *(context.pki(f"{pair}.crt") for pair in _PAIRS[name]),
        ],
        reads=[
            f"{paths.ETC}/{name}.json",
            *(f"{paths.ETC}/{name}/{pair}.{kind}" for pair in _PAIRS[name] for kind in ("crt", "key")),
        ],
        slice_name=paths.CONTROL_SLICE,
        unit={"After": after, "Wants": after},
        service={
            "Type": "notify",
            "User": f"freehold-{name}",
            "NoNewPrivileges": "yes",
            "ProtectHome": "yes",
            "ProtectSystem": "full",
            "WatchdogSec": "60",
            **_RIGHTS.get(name, {}),
        },
    )


_RIGHTS = {
    "pod-routes": {"AmbientCapabilities": "CAP_NET_ADMIN", "CapabilityBoundingSet": "CAP_NET_ADMIN"},
}
_DESCRIPTIONS = {
    "artifacts": "files of the release by digest (freehold)",
    "join": "join service: tokens and node documents (freehold)",
    "controller": "approver, DNS endpoints, node documents, local volumes (freehold)",
    "pod-routes": "routes from the API server to pods (freehold)",
}


def _config(context: ControlPlaneContext, name: str) -> bytes:
    folder = f"{paths.ETC}/{name}"
    common: dict[str, Any] = {"ca": paths.CLUSTER_CA}
    if name == "artifacts":
        settings = {
            "listen": context.address,
            "port": paths.ARTIFACT_PORT,
            "certificate": f"{folder}/freehold-artifacts.crt",
            "key": f"{folder}/freehold-artifacts.key",
            "store": paths.STORE,
            "digests": sorted(entry.sha256 for entry in context.manifest.for_roles("node")),
            "transfers": 8,
        }
    elif name == "join":
        settings = {
            "listen": context.address,
            "port": paths.JOIN_PORT,
            "certificate": f"{folder}/freehold-join.crt",
            "key": f"{folder}/freehold-join.key",
            "server": context.api_server,
            "client_certificate": f"{folder}/freehold-join-client.crt",
            "client_key": f"{folder}/freehold-join-client.key",
        }
    elif name == "pod-routes":
        settings = {
            "server": context.api_server,
            "certificate": f"{folder}/freehold-pod-routes.crt",
            "key": f"{folder}/freehold-pod-routes.key",
            "pod_cidrs": [str(context.inventory.config.networking.pod_cidr)],
        }
    else:
        embedded = context.inventory.config.control_plane.coredns.embedded
        settings = {
            "server": context.api_server,
            "certificate": f"{folder}/freehold-controller.crt",
            "key": f"{folder}/freehold-controller.key",
            "identity": context.host.name,
            "single": len(context.inventory.control_planes) == 1,
            "volumes": context.inventory.config.deploy.local_path_provisioner.enabled,
            "dns": [
                {
                    "node": host.name if context.inventory.is_node(host) else "",
                    "address": host.internal_address,
                    "ready_url": f"http://{host.internal_address}:{ports.DNS_READY}/ready",
                }
                for host in context.inventory.control_planes
                if embedded
            ],
            "dns_clients": (
                {"path": paths.DNS_CLIENTS, "networks": dns.networks(context)} if embedded else None
            ),
        }
    return (json.dumps({**common, **settings}, indent=1, sort_keys=True) + "\n").encode()
