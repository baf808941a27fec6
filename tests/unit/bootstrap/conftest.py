"""One PKI for all tests of services (making keys is cheap, making them per test is not needed)."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from tests.support.served import Client, Served

from freehold_agent.machine.https import pinned_context
from freehold_bootstrap import profiles
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest, control_plane_requests

REQUESTS = control_plane_requests("cp1", ["10.0.0.2"], ["10.96.0.0/12"], "cluster.local")


@pytest.fixture(scope="session")
def cluster_pki(tmp_path_factory: pytest.TempPathFactory) -> PkiDirectory:
    """The keys of a cluster with one control plane, `cp1`, at 10.0.0.2 and on loopback."""
    pki = PkiDirectory(str(tmp_path_factory.mktemp("pki") / "pki"))
    pki.ensure(REQUESTS)
    return pki


@pytest.fixture(scope="session")
def node_certificate(
    cluster_pki: PkiDirectory, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Return the path of a certificate with the subject of a node: (name, usage) -> PEM."""
    directory = tmp_path_factory.mktemp("nodes")

    def make(name: str, usage: str = "client", group: str = "system:nodes", authority: str = "ca") -> str:
        rules = profiles.Profile(authority, name, (usage,), (group,))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(profiles.PROFILES, "test", rules)
            names = ("localhost",) if usage == "server" else ()
            request = CertificateRequest("test", names)
            pair = cluster_pki.authority(authority).issue(request, datetime.now(timezone.utc))
        path = directory / "{}-{}.pem".format(len(list(directory.iterdir())), usage)
        Path(path).write_bytes(pair.certificate_pem + pair.key_pem)
        return str(path)

    return make


@pytest.fixture
def client(cluster_pki: PkiDirectory) -> Callable[..., Client]:
    """Return a way to talk to a served listener: (served, certificate="") -> Client."""

    def connect(served: Served, certificate: str = "") -> Client:
        return Client(served.port, pinned_context(cluster_pki.ca_pem(), certificate or None))

    return connect


@pytest.fixture
def serve(cluster_pki: PkiDirectory) -> Iterator[Callable[..., Served]]:
    """Return a way to serve an answer function on loopback with a certificate of the cluster."""
    running: List[Served] = []

    def start(answer: Any, profile: str = "freehold-join", **options: Any) -> Served:
        request = next(request for request in REQUESTS if request.profile == profile)
        served = Served(cluster_pki, request, answer, **options)
        running.append(served)
        return served

    yield start
    for served in running:
        served.stop()
