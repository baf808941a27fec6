"""etcd as a unit of its own user, mutual TLS on both ports. Flags: etcd's operations guide."""

from freehold_agent.contract import paths, ports
from freehold_agent.contract.resources import Resource, User
from freehold_agent.contract.unit_file import flags, service
from freehold_installer.desired.control_plane_context import ControlPlaneContext, directory

PKI = paths.PKI + "/etcd"
USER = "etcd"
_FILES = (("ca", "crt"), ("server", "crt"), ("server", "key"), ("peer", "crt"), ("peer", "key"))


def prerequisites(context: ControlPlaneContext) -> list[Resource]:
    """Return the user, directories and files that etcd needs before its program is there."""
    return [
        User(USER, home=paths.ETCD_STATE),
        directory(paths.ETCD_STATE, 0o700, USER, USER),
        directory(PKI),
        context.pki_file("etcd/ca.crt", f"{PKI}/ca.crt"),
        context.pki_file("etcd/server.crt", f"{PKI}/server.crt"),
        context.pki_file("etcd/server.key", f"{PKI}/server.key", owner=USER, group=USER),
        context.pki_file("etcd/peer.crt", f"{PKI}/peer.crt"),
        context.pki_file("etcd/peer.key", f"{PKI}/peer.key", owner=USER, group=USER),
        context.pki_file("etcd/healthcheck-client.crt", f"{PKI}/healthcheck-client.crt"),
        context.pki_file("etcd/healthcheck-client.key", f"{PKI}/healthcheck-client.key"),
    ]


def unit(context: ControlPlaneContext) -> list[Resource]:
    """Return etcd's unit file and unit."""
    address = f"[{context.address}]" if ":" in context.address else context.address
    client, peer = f"https://{address}:{ports.ETCD_CLIENT}", f"https://{address}:{ports.ETCD_PEER}"
    arguments = flags(
        {
            "name": context.host.name,
            "data-dir": paths.ETCD_STATE,
            "listen-client-urls": f"https://127.0.0.1:{ports.ETCD_CLIENT},{client}",
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"{context.host.name}={peer}",
            "initial-cluster-state": "new",
            "initial-cluster-token": context.inventory.name,
            "client-cert-auth": "true",
            "trusted-ca-file": f"{PKI}/ca.crt",
            "cert-file": f"{PKI}/server.crt",
            "key-file": f"{PKI}/server.key",
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": f"{PKI}/ca.crt",
            "peer-cert-file": f"{PKI}/peer.crt",
            "peer-key-file": f"{PKI}/peer.key",
            "tls-min-version": "TLS1.2",
            "listen-metrics-urls": f"http://127.0.0.1:{ports.ETCD_METRICS}",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1h",
        }
    )
    entry = context.manifest.entry("bin/etcd")
    return service(
        "etcd",
        description="etcd, the data store of Kubernetes (freehold)",
        command=[paths.BIN + "/etcd", *arguments],
        inputs=[entry.sha256, *(context.pki(f"etcd/{name}.crt") for name in ("ca", "server", "peer"))],
        reads=[f"{PKI}/{name}.{kind}" for name, kind in _FILES],
        slice_name=paths.CONTROL_SLICE,
        unit={"After": "network-online.target", "Wants": "network-online.target"},
        service={
            "Type": "notify",
            "User": USER,
            "NoNewPrivileges": "yes",
            "ProtectHome": "yes",
            "LimitNOFILE": "20000",
            **context.labels("bin/etcd"),
        },
    )
