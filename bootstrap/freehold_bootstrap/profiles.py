"""One table: subject, usages, lifetime and issuer of every certificate of a cluster.

Names and subjects are kubeadm's where kubeadm has the certificate, so that `openssl x509` shows people what
they expect; the difference is that no stored certificate carries `system:masters`: rights are bindings, which
can be taken back. Nothing here touches a file or a key.
"""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from typing import Dict, Iterable, Sequence, Tuple

from freehold_bootstrap.errors import PkiError
from freehold_bootstrap.identities import (
    ADMINS_GROUP,
    CONTROLLER_USER,
    COREDNS_USER,
    INSTALLER_USER,
    JOIN_USER,
    KUBELET_CLIENT_USER,
    POD_ROUTES_USER,
)

AUTHORITIES: Dict[str, str] = {
    "ca": "kubernetes",
    "front-proxy-ca": "front-proxy-ca",
    "etcd/ca": "etcd-ca",
}
"""Name below `pki/` -> common name. Three, because whoever holds a certificate of the etcd CA owns the data,
and whoever holds one of the front-proxy CA may say that it is anybody."""

AUTHORITY_YEARS = 10
YEAR = timedelta(days=365)

LOCAL_API_ADDRESS = "169.254.200.1"
"""Where a node's kernel will spread connections over the API servers; in their SANs from the first day."""


@dataclass(frozen=True)
class Profile:
    """What a kind of certificate says, whoever it is issued to."""

    authority: str
    common_name: str
    """Empty: the name of the machine it is for."""
    usages: Tuple[str, ...]
    """`server`, `client`."""
    organizations: Tuple[str, ...] = ()
    lifetime: timedelta = YEAR
    stored: bool = True
    """False: lives in memory, or in a file only for as long as a `with` block."""


_CLIENT = ("client",)
_SERVER = ("server",)
_BOTH = ("server", "client")

PROFILES: Dict[str, Profile] = {
    "apiserver": Profile("ca", "kube-apiserver", _SERVER),
    "apiserver-kubelet-client": Profile("ca", KUBELET_CLIENT_USER, _CLIENT),
    "apiserver-etcd-client": Profile("etcd/ca", "kube-apiserver-etcd-client", _CLIENT),
    "front-proxy-client": Profile("front-proxy-ca", "front-proxy-client", _CLIENT),
    # etcd dials itself with its serving certificate (gRPC gateway): both usages, as kubeadm does.
    "etcd/server": Profile("etcd/ca", "", _BOTH),
    "etcd/peer": Profile("etcd/ca", "", _BOTH),
    "etcd/healthcheck-client": Profile("etcd/ca", "kube-etcd-healthcheck-client", _CLIENT),
    "controller-manager": Profile("ca", "system:kube-controller-manager", _CLIENT),
    "scheduler": Profile("ca", "system:kube-scheduler", _CLIENT),
    "admin": Profile("ca", "kubernetes-admin", _CLIENT, (ADMINS_GROUP,)),
    "installer": Profile("ca", INSTALLER_USER, _CLIENT),
    # Creates the bindings of all others on a new cluster, and is gone before anyone could find it.
    "installer-bootstrap": Profile(
        "ca",
        "freehold:installer-bootstrap",
        _CLIENT,
        ("system:masters",),
        timedelta(minutes=10),
        stored=False,
    ),
    "freehold-join": Profile("ca", "freehold-join", _SERVER),
    "freehold-join-client": Profile("ca", JOIN_USER, _CLIENT),
    "freehold-artifacts": Profile("ca", "freehold-artifacts", _SERVER),
    "freehold-controller": Profile("ca", CONTROLLER_USER, _CLIENT),
    "freehold-pod-routes": Profile("ca", POD_ROUTES_USER, _CLIENT),
    "coredns": Profile("ca", COREDNS_USER, _CLIENT),
    "metrics-server": Profile("ca", "metrics-server", _SERVER),
}


@dataclass(frozen=True)
class CertificateRequest:
    """A certificate somebody needs."""

    profile: str
    """Name in PROFILES."""
    names: Tuple[str, ...] = ()
    """Subject alternative names: DNS names and IP addresses (IPv4 or IPv6) as text. Clients have none."""
    machine: str = ""
    """The control-plane machine it is for; empty when the whole cluster shares it."""

    @property
    def name(self) -> str:
        """Path below `pki/` without suffix: `admin`, `machines/cp1/etcd/server`."""
        return "machines/{}/{}".format(self.machine, self.profile) if self.machine else self.profile

    @property
    def rules(self) -> Profile:
        """Return the profile. Raises PkiError when there is none of that name."""
        try:
            return PROFILES[self.profile]
        except KeyError:
            raise PkiError("there is no certificate profile {!r}".format(self.profile)) from None

    @property
    def common_name(self) -> str:
        """Return the subject's CN. Raises PkiError when it should be a machine's name and none is given."""
        name = self.rules.common_name or self.machine
        if not name:
            raise PkiError("a certificate {} is always for one machine; none was named".format(self.profile))
        return name


def apiserver_names(
    machine: str,
    addresses: Iterable[str],
    service_cidrs: Sequence[str],
    domain: str,
    extra: Iterable[str] = (),
) -> Tuple[str, ...]:
    """Return the names an API server on this machine answers to, without repetitions.

    `addresses` are those it is reached by, `service_cidrs` the cluster's (`10.96.0.0/12`): the first address
    of each is the Service `kubernetes`.
    """
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc." + domain,
        machine,
        "localhost",
        "127.0.0.1",
        "::1",
        LOCAL_API_ADDRESS,
    ]
    names.extend(str(ipaddress.ip_network(cidr)[1]) for cidr in service_cidrs)
    names.extend(addresses)
    names.extend(extra)
    return tuple(dict.fromkeys(names))


def machine_names(machine: str, addresses: Iterable[str]) -> Tuple[str, ...]:
    """Return the names of a service that is reached by its machine's name, its addresses or from itself."""
    return tuple(dict.fromkeys([machine, "localhost", "127.0.0.1", "::1", *addresses]))


METRICS_SERVER_NAMES = ("metrics-server.kube-system.svc", "metrics-server.kube-system", "metrics-server")


def control_plane_requests(
    machine: str,
    addresses: Sequence[str],
    service_cidrs: Sequence[str],
    domain: str,
    extra: Sequence[str] = (),
    *,
    node: bool = True,
) -> Tuple[CertificateRequest, ...]:
    """Return every certificate that a control-plane machine holds itself (not the operator's own).

    One that is no `node` keeps routes to pods.
    """
    here = machine_names(machine, addresses)
    servers = {
        "apiserver": apiserver_names(machine, addresses, service_cidrs, domain, extra),
        "etcd/server": here,
        "etcd/peer": here,
        "freehold-join": here,
        "freehold-artifacts": here,
    }
    clients = [
        "apiserver-kubelet-client",
        "apiserver-etcd-client",
        "front-proxy-client",
        "etcd/healthcheck-client",
        "controller-manager",
        "scheduler",
        "freehold-join-client",
        "freehold-controller",
        "coredns",
    ]
    if not node:
        clients.append("freehold-pod-routes")
    return tuple(CertificateRequest(profile, names, machine) for profile, names in servers.items()) + tuple(
        CertificateRequest(profile, (), machine) for profile in clients
    )


OPERATOR_REQUESTS = (CertificateRequest("admin"), CertificateRequest("installer"))
