"""Keys and certificates of the cluster: what has to be issued, and what each control-plane machine gets.

They are made on the operator's machine and leave it only over SSH. Nothing here talks to a machine.
"""

from collections.abc import Sequence

from freehold_bootstrap import kubeconfig
from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import (
    METRICS_SERVER_NAMES,
    OPERATOR_REQUESTS,
    CertificateRequest,
    control_plane_requests,
)
from freehold_installer.config import Host, Inventory
from freehold_installer.errors import InputError

METRICS_SERVER = CertificateRequest("metrics-server", METRICS_SERVER_NAMES)
INSTALLER_BOOTSTRAP = CertificateRequest("installer-bootstrap")
INSTALLER = next(request for request in OPERATOR_REQUESTS if request.profile == "installer")
ADMIN = next(request for request in OPERATOR_REQUESTS if request.profile == "admin")


def requests_for(inventory: Inventory) -> list[CertificateRequest]:
    """Return every certificate that the cluster needs, in the order they are issued."""
    requests: list[CertificateRequest] = []
    for host in inventory.control_planes:
        requests += machine_requests(inventory, host)
    requests += OPERATOR_REQUESTS
    if inventory.config.deploy.metrics_server.enabled:
        requests.append(METRICS_SERVER)
    return requests


def machine_requests(inventory: Inventory, host: Host) -> Sequence[CertificateRequest]:
    """Return the certificates that one control-plane machine holds."""
    config = inventory.config
    addresses = [host.internal_address]
    advertised = config.control_plane.standalone.advertise_address
    for extra in (advertised, host.address):
        if extra and str(extra) not in addresses:
            addresses.append(str(extra))
    return control_plane_requests(
        host.name,
        addresses,
        [str(config.networking.service_cidr)],
        config.networking.cluster_domain,
        [str(name) for name in config.control_plane.proxy.extra_sans],
        node=inventory.is_node(host),
    )


def to_be_issued(inventory: Inventory, pki: PkiDirectory) -> list[str]:
    """Return what apply would issue, with the reason where it is not simply missing. Raises InputError."""
    try:
        reasons = pki.reasons(requests_for(inventory))
    except PkiError as error:
        raise InputError(str(error), hint=getattr(error, "hint", "")) from error
    return [name if reason == "missing" else f"{name} ({reason})" for name, reason in reasons.items()]


def issue(inventory: Inventory, pki: PkiDirectory) -> list[str]:
    """Issue what is missing or about to expire; return the names. Raises InputError."""
    try:
        return pki.ensure(requests_for(inventory))
    except PkiError as error:
        raise InputError(str(error), hint=getattr(error, "hint", "")) from error


def issued_for(inventory: Inventory, host: Host, pki: PkiDirectory, api_server: str) -> dict[str, bytes]:
    """Return what the desired state of a control-plane machine refers to, as far as it exists already.

    Keys are paths as in kubeadm's pki directory (`etcd/ca.crt`, `apiserver.key`), kubeconfigs by file name.
    """
    missing = set(pki.missing(requests_for(inventory)))
    issued: dict[str, bytes] = {}
    for name in ("ca", "front-proxy-ca", "etcd/ca"):
        if name not in missing:
            issued[f"{name}.crt"] = pki.read(f"{name}.crt")
    if "ca" not in missing:
        # The controller manager signs with it; the other two authorities stay with the operator.
        issued["ca.key"] = pki.read("ca.key")
    if "sa" not in missing:
        issued |= {name: pki.read(name) for name in ("sa.key", "sa.pub")}
    if "encryption-at-rest" not in missing:
        issued["encryption.yaml"] = pki.encryption_configuration()
    for request in machine_requests(inventory, host):
        if request.name in missing:
            continue
        pair = pki.issued(request)
        issued[f"{request.profile}.crt"] = pair.certificate_pem
        issued[f"{request.profile}.key"] = pair.key_pem
        if request.profile in ("controller-manager", "scheduler"):
            config = pki.kubeconfig(inventory.name, api_server, request)
            issued[f"{request.profile}.conf"] = kubeconfig.dumps(config)
    return issued
