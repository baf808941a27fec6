"""A machine with a token and the real join service: over TLS on loopback, with a pretended cluster behind it."""

import dataclasses
import hashlib
import json
import ssl
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, gives_pod_cidrs, goes_live
from tests.support.joining_machine import JoiningMachine
from tests.support.served import Served

from freehold_agent import join_client
from freehold_agent import join_node as join_node_module
from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.join_document import Network
from freehold_agent.errors import AgentError, BadRequest, StepFailed, Unfit
from freehold_agent.join_client import JoinClient, Refused, Unreachable
from freehold_agent.join_node import Wish, proxy_of, read_token
from freehold_bootstrap import exchange, node_record, profiles, tokens
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.join_service.audit import Audit
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.joining import SETTINGS, Joining
from freehold_bootstrap.join_service.routes import Routes
from freehold_bootstrap.node_record import NodeRecord
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest

ADDRESS = "10.73.0.12"
"""One of the pretended machine's own."""
NOW = datetime.now(timezone.utc)


class Cluster:
    """A join service on loopback and what it knows."""

    def __init__(self, pki: PkiDirectory, serve: Callable[..., Served]) -> None:
        self.pki = pki
        self.api = FakeKubernetes()
        self.api.on("create", "/api/v1/nodes", gives_pod_cidrs)
        self.now = NOW
        watch = DocumentWatch(self.api)
        watch.start()
        joining = Joining(self.api, Audit(self.api), lambda: self.now)
        self.requests: List[str] = []
        routes = Routes(joining, watch)

        def answer(asked: Any) -> None:
            self.requests.append("{} {}".format(asked.method, asked.path.split("?")[0]))
            routes.answer(asked)

        self.served = serve(answer)
        self.server = "https://localhost:{}".format(self.served.port)
        settings = ClusterSettings(
            cluster="lab",
            endpoints=("https://10.73.0.11:6443",),
            artifact_endpoints=("https://10.73.0.11:6445",),
            join_endpoints=(self.server,),
            ca_pem=pki.ca_pem(),
            network=Network(("10.244.0.0/16",), ("10.96.0.0/12",), (), ("10.96.0.10",), "cluster.local"),
            manifest=Manifest("1.37.2", "amd64", ()),
        )
        self.api.add(SETTINGS, {"data": {"settings": json.dumps(settings.to_json())}})

    def token(self, node: str = "w1", **options: Any) -> str:
        options.setdefault("addresses", (ADDRESS,))
        token, record = tokens.mint(node, self.now, **options)
        self.api.create(tokens.JOIN_TOKENS, record.to_object())
        return token.reveal()

    def issued(self, certificate: bytes) -> None:
        """Do what controller and kubelet do once a certificate was issued: write it down, report."""
        pem = certificate.decode().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        stored = node_record.read_object(self.api, "w1")
        assert stored is not None
        record = NodeRecord.from_object(stored)
        node_record.write(self.api, dataclasses.replace(record, credentials=(fingerprint,)), stored)
        goes_live(self.api, "w1")

    def wish(self, **changes: Any) -> Wish:
        return Wish(**{"servers": (self.server,), "ca_pem": self.pki.ca_pem(), "node": "w1", **changes})


@pytest.fixture
def cluster(cluster_pki: PkiDirectory, serve: Callable[..., Served]) -> Cluster:
    return Cluster(cluster_pki, serve)


@pytest.fixture
def machine(tmp_path: Path, cluster: Cluster, node_certificate: Callable[..., str]) -> JoiningMachine:
    """A machine whose kubelet gets a certificate and reports at once."""
    return JoiningMachine(
        tmp_path,
        certificate=lambda: Path(node_certificate("system:node:w1")).read_bytes(),
        reports=cluster.issued,
    )


def test_a_machine_joins(cluster: Cluster, machine: JoiningMachine) -> None:
    """Document, credential last, certificate, finish: and nothing of token or credential is left anywhere."""
    token = cluster.token()
    machine.join(cluster.wish(), token)
    assert [request.rpartition("/")[2] for request in cluster.requests] == [
        "healthz",
        "join",
        "credential",
        "finish",
    ]
    assert machine.bootstrap_seen
    assert cluster.api.paths(tokens.BOOTSTRAP_TOKENS) == []
    texts = machine.texts()
    assert paths.JOIN_DOCUMENT in texts
    assert paths.JOIN_STATE not in texts
    secrets = [token.rpartition(".")[2], *machine.bootstrap_seen]
    assert [path for path, text in texts.items() if any(secret in text for secret in secrets)] == []


def test_a_member_needs_no_token(cluster: Cluster, machine: JoiningMachine) -> None:
    """Run again, nothing is asked for and what is missing is put in place; after its removal a token is needed."""
    machine.join(cluster.wish(), cluster.token())
    machine.join(cluster.wish(), None)
    assert machine.asked == 1
    cluster.api.delete("/api/v1/nodes/w1")
    with pytest.raises(AssertionError, match="asked for a token"):
        machine.join(cluster.wish(), None)


@pytest.mark.parametrize("killed_after", ["join", "credential"])
def test_a_killed_join_goes_on(cluster: Cluster, machine: JoiningMachine, killed_after: str) -> None:
    """The same machine continues with the same token; another machine cannot."""
    token = cluster.token()
    machine.dies_after = killed_after
    with pytest.raises(KeyboardInterrupt):
        machine.join(cluster.wish(), token)
    other = JoiningMachine(machine.root / "other", machine.certificate, machine.reports)
    with pytest.raises(Refused, match="used by another machine"):
        other.join(cluster.wish(), token)
    machine.dies_after = ""
    machine.join(cluster.wish(), token)
    assert paths.JOIN_STATE not in machine.texts()


def test_a_killed_join_of_a_machine_that_was_a_node_before(
    cluster: Cluster, machine: JoiningMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its former certificate is young, and of no Node any more: it is not waited for until it grows old."""
    machine.join(cluster.wish(), cluster.token())
    cluster.api.delete("/api/v1/nodes/w1")
    token = cluster.token()
    machine.dies_after = "join"
    with pytest.raises(KeyboardInterrupt):
        machine.join(cluster.wish(), token)
    machine.dies_after = ""
    monkeypatch.setattr(join_node_module, "ONE_LOOK", 0.1)
    machine.join(cluster.wish(), token)
    assert paths.JOIN_STATE not in machine.texts()
    assert machine.asked == 3


def _expired(cluster: Cluster) -> str:
    token = cluster.token()
    cluster.now += timedelta(minutes=11)
    return token


REFUSALS: Dict[str, Callable[[Cluster], str]] = {
    "is not valid": lambda cluster: cluster.token()[:-8] + "aaaaaaaa",
    "has expired": _expired,
    "for another node": lambda cluster: cluster.token("w2"),
    "may not be used from 127.0.0.1": lambda cluster: cluster.token(cidr="192.0.2.0/24"),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_each_refusal_is_one_sentence(cluster: Cluster, machine: JoiningMachine, said: str) -> None:
    """What the service says is what a person reads; the machine is as it was."""
    with pytest.raises(Refused) as caught:
        machine.join(cluster.wish(), REFUSALS[said](cluster))
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert machine.texts() == {}


def test_an_existing_node_is_not_taken_over(cluster: Cluster, machine: JoiningMachine) -> None:
    """A token for a live node's name joins nothing unless it was made to replace it."""
    machine.join(cluster.wish(), cluster.token())
    other = JoiningMachine(machine.root / "other", machine.certificate, machine.reports)
    with pytest.raises(Refused, match="--replace"):
        other.join(cluster.wish(), cluster.token())
    other.join(cluster.wish(), cluster.token(replace=True))


def test_a_foreign_cluster_gets_no_token(cluster: Cluster, machine: JoiningMachine, tmp_path: Path) -> None:
    """A service whose certificate another authority signed is said to be one, and is sent nothing."""
    foreign = PkiDirectory(str(tmp_path / "foreign"))
    foreign.ensure([CertificateRequest("admin")])
    with pytest.raises(Unreachable, match="not of the cluster"):
        machine.join(cluster.wish(ca_pem=foreign.ca_pem()), cluster.token())
    assert cluster.requests == []
    assert machine.asked == 0


@pytest.mark.parametrize(("seconds", "said"), [(3 * 86400, "3 days ahead"), (-1200, "20 minutes behind")])
def test_a_clock_that_is_off_is_said(cluster: Cluster, seconds: float, said: str) -> None:
    """The verified answer's date tells how far the clock is off, before any token is sent."""
    client = JoinClient([cluster.server], cluster.pki.ca_pem(), now=lambda: time.time() + seconds)
    with pytest.raises(Unreachable, match=said):
        client.check_clock()


def test_a_clock_before_the_certificate(
    cluster: Cluster, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that is not valid yet by our clock: the server's own time says by how much, chain verified."""
    ahead = timedelta(days=40)
    _serve_at(cluster, NOW + ahead, serve, monkeypatch)
    client = JoinClient([cluster.server], cluster.pki.ca_pem())
    with pytest.raises(Unreachable, match="40 days behind"):
        client.check_clock()


def _serve_at(
    cluster: Cluster, moment: datetime, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the service live at another time: its certificate and its clock."""
    rules = profiles.Profile("ca", "freehold-join", ("server",), ())
    with monkeypatch.context() as patch:
        patch.setitem(profiles.PROFILES, "later", rules)
        pair = cluster.pki.authority("ca").issue(CertificateRequest("later", ("localhost",)), moment)
    path = Path(cluster.pki.path) / "later.pem"
    path.write_bytes(pair.certificate_pem + pair.key_pem)
    monkeypatch.setattr(
        exchange.Handler, "date_time_string", lambda _self: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    )

    class Paths:
        path = cluster.pki.path

        def certificate_path(self, _request: Any) -> str:
            return str(path)

        def key_path(self, _request: Any) -> str:
            return str(path)

    from tests.support.served import Served as Listening

    served = Listening(Paths(), None, lambda asked: asked.answer(200, b"ok\n"))
    monkeypatch.setattr(cluster, "server", "https://localhost:{}".format(served.port))
    cluster.served.stop()
    cluster.served.listener = served.listener
    cluster.served._thread = served._thread


def test_a_control_plane_that_is_not_ready_is_waited_for(cluster: Cluster, machine: JoiningMachine) -> None:
    """Settings that are not there yet are worth another try, and one line."""
    settings = cluster.api.get(SETTINGS)
    cluster.api.delete(SETTINGS)

    def comes_up(_seconds: float) -> None:
        if SETTINGS not in cluster.api.objects:
            cluster.api.add(SETTINGS, settings)

    machine.sleep = comes_up
    machine.join(cluster.wish(), cluster.token())
    assert len([text for text in machine.said if text.startswith("waiting: ")]) == 1


def test_an_address_of_another_machine(cluster: Cluster, machine: JoiningMachine) -> None:
    """Told another, or behind NAT and told nothing, it hears which it has, and no Node is begun."""
    for told, said in ((("10.73.0.99",), "the token names"), ((), "behind NAT")):
        token = cluster.token(addresses=told)
        with pytest.raises(Refused) as caught:
            machine.join(cluster.wish(), token)
        assert caught.value.reason == "address-not-here"
        assert said in caught.value.message
        assert ADDRESS in caught.value.message
        assert "token create --address" in caught.value.message
    assert cluster.api.paths("/api/v1/nodes") == []
    assert machine.texts() == {}
    machine.join(cluster.wish(), cluster.token())


def test_a_machine_that_says_nothing_of_its_addresses(
    cluster: Cluster, machine: JoiningMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older agent, or one with too many: it looks itself, once it has been admitted."""
    monkeypatch.setattr(join_client, "MOST_ADDRESSES", 0)
    with pytest.raises(Unfit) as caught:
        machine.join(cluster.wish(), cluster.token(addresses=("10.73.0.99",)))
    assert ADDRESS in caught.value.hint


def test_networks_that_this_machine_uses(cluster: Cluster, machine: JoiningMachine) -> None:
    """A route of the machine into the pods' network keeps it from joining."""
    machine.facts["routes"] = [
        {"destination": "10.244.0.0/17", "device": "eth1", "protocol": 3, "via": "10.73.0.1"}
    ]
    with pytest.raises(Unfit, match=r"pod network 10\.244\.0\.0/16 overlaps"):
        machine.join(cluster.wish(), cluster.token())


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 10249), ("tcp", 10256), ("udp", 8472)])
def test_ports_that_this_clusters_network_needs(
    cluster: Cluster, machine: JoiningMachine, protocol: str, port: int
) -> None:
    """Only the document says which network the cluster has: its ports are looked at then, before any change."""
    machine.facts["listening"] = [{"protocol": protocol, "port": port, "process": "other"}]
    with pytest.raises(Unfit, match=f"{protocol} port {port}, which .* needs, is in use by other"):
        machine.join(cluster.wish(), cluster.token())


def test_a_machine_that_is_not_fit_asks_nobody(cluster: Cluster, machine: JoiningMachine) -> None:
    """Missing tools, taken ports, another container runtime: said together, before anything is sent."""
    machine.facts["tools"] = {**machine.facts["tools"], "nft": None}
    machine.facts["listening"] = [{"protocol": "tcp", "port": 10250, "process": "other"}]
    machine.facts["foreign"] = ["docker.service"]
    with pytest.raises(Unfit) as caught:
        machine.join(cluster.wish(), cluster.token())
    for part in ("apt-get install nftables", "port 10250", "docker.service"):
        assert part in caught.value.message
    assert cluster.requests == []


def test_a_node_of_another_cluster_or_name(cluster: Cluster, machine: JoiningMachine, tmp_path: Path) -> None:
    """A machine that is somebody already does not become another one in passing."""
    machine.join(cluster.wish(), cluster.token())
    with pytest.raises(BadRequest, match="is node w1 of this cluster, not w2"):
        machine.join(cluster.wish(node="w2"), cluster.token("w2"))
    foreign = PkiDirectory(str(tmp_path / "foreign"))
    foreign.ensure([CertificateRequest("admin")])
    with pytest.raises(BadRequest, match="of another cluster, lab"):
        machine.join(cluster.wish(ca_pem=foreign.ca_pem()), cluster.token())
    machine.owners = ["control"]
    with pytest.raises(BadRequest, match="is a control plane"):
        machine.join(cluster.wish(), cluster.token())


def test_a_proxy_is_a_fact_of_the_machine(cluster: Cluster, machine: JoiningMachine) -> None:
    """The cluster is reached past the proxy; containerd will be told of it."""
    machine.environment = {"HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "example.org"}
    machine.join(cluster.wish(), cluster.token())
    assert '"https": "http://127.0.0.1:9"' in machine.texts()[paths.PROXY]
    assert proxy_of({"NO_PROXY": "example.org"}) == {}
    with pytest.raises(BadRequest, match="not one line"):
        proxy_of({"HTTP_PROXY": "http://a\nEnvironment=b"})


def test_a_failed_step_is_taken_up(cluster: Cluster, machine: JoiningMachine) -> None:
    """A kubelet that does not start leaves no credential behind, and the same line goes on."""
    token = cluster.token()
    machine.fails = StepFailed("unit:kubelet.service", "no")
    with pytest.raises(StepFailed):
        machine.join(cluster.wish(), token)
    assert paths.BOOTSTRAP_KUBECONFIG not in machine.texts()
    machine.fails = None
    machine.join(cluster.wish(), token)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "none was given"),
        ("fh1.abc", "not all of it"),
        ("fh1.{}.{}".format("a" * 10, "B" * 52), "no join token"),
    ],
)
def test_what_is_no_token_is_not_repeated(tmp_path: Path, text: str, said: str) -> None:
    """A mistyped token may be most of the right one: the message does not show it."""
    path = tmp_path / "token"
    path.write_text(text + "\n")
    with pytest.raises(AgentError, match=said) as caught:
        read_token(str(path), "w1")
    assert not text or text not in caught.value.message
