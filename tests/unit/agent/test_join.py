"""A machine becomes a node: the order of steps, the credential's short life, and taking up what was begun."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.a_node import a_document, a_manifest, a_network, lab

from freehold_agent import join as join_module
from freehold_agent.certificate import read_certificate
from freehold_agent.contract import paths
from freehold_agent.contract.join_document import BootstrapCredential, JoinDocument
from freehold_agent.contract.resources import Change, Resource, key_of
from freehold_agent.converge import Summary
from freehold_agent.errors import AgentError, BadRequest, Locked, StepFailed, Unfit
from freehold_agent.join import Host, credential_valid, join, join_over_stream, prepare
from freehold_agent.machine.lock import LockBusyError, converge_lock

TOKEN = "abcdef.0123456789abcdef"
NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


def a_certificate(name: str = "system:node:w1", days: float = 7) -> bytes:
    """Return a kubelet's PEM: certificate and key in one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


class FakeSystemd:
    """A systemd whose kubelet is in a given state."""

    def __init__(self, **properties: str) -> None:
        self.properties = {"ActiveState": "inactive", **properties}
        self.stopped: list[str] = []

    def show(self, names: list[str], _properties: Any = ()) -> dict[str, dict[str, str]]:
        return dict.fromkeys(names, self.properties)

    def stop(self, *names: str, timeout: float = 90) -> None:
        self.stopped += names

    def journal(self, _name: str, _lines: int = 15) -> str:
        return "kubelet says why"


class Machine:
    """A machine on disk: converge writes the document and, with the kubelet, its certificate."""

    def __init__(
        self, root: Path, owner: str, systemd: FakeSystemd | None = None, gives: bool = True
    ) -> None:
        self.root = root
        self.systemd = systemd or FakeSystemd()
        self.gives = gives
        self.steps: list[set[str]] = []
        self.bootstrap_seen: list[tuple[int, str]] = []
        self.clock = NOW.timestamp()
        for name in (paths.ETC, paths.KUBERNETES, paths.KUBELET_STATE + "/pki"):
            (root / name[1:]).mkdir(parents=True, exist_ok=True)
        self.host = Host(
            facts=lab,
            converge=self._converge,
            systemd=self.systemd,  # type: ignore[arg-type]
            root=str(root),
            owner=owner,
            lock=self._lock,
            now=lambda: self.clock,
            sleep=lambda _seconds: None,
        )

    def path(self, name: str) -> Path:
        return self.root / name[1:]

    @contextlib.contextmanager
    def _lock(self, timeout: float = 0) -> Iterator[None]:
        yield

    def _converge(
        self, resources: list[Resource], _owner: str, _deliver: Any, _progress: Any, only: list[str] | None
    ) -> Summary:
        wanted = [r for r in resources if only is None or key_of(r) in only]
        self.steps.append({key_of(r) for r in wanted})
        for resource in wanted:
            if resource.name == paths.JOIN_DOCUMENT:
                self.path(paths.JOIN_DOCUMENT).write_bytes(resource.content)  # type: ignore[union-attr]
            if resource.name == "kubelet.service":
                bootstrap = self.path(paths.BOOTSTRAP_KUBECONFIG)
                if bootstrap.exists():
                    self.bootstrap_seen.append((bootstrap.stat().st_mode & 0o777, bootstrap.read_text()))
                if self.gives:
                    self.path(paths.KUBELET_CLIENT_CERTIFICATE).write_bytes(a_certificate())
        return Summary((Change(key_of(wanted[0]), "create", None, {}),), 0.1)


@pytest.fixture
def owner() -> str:
    import os
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def machine(tmp_path: Path, owner: str) -> Machine:
    return Machine(tmp_path, owner)


def a_source(asked: list[str]) -> Callable[[], BootstrapCredential]:
    def ask() -> BootstrapCredential:
        asked.append("asked")
        return BootstrapCredential(TOKEN)

    return ask


def run(machine: Machine, document: JoinDocument | None = None, asked: list[str] | None = None) -> Summary:
    source = a_source([] if asked is None else asked)
    return join(document or a_document(), source, lambda _a: None, lambda _e: None, host=machine.host)


def test_the_credential_comes_last(machine: Machine) -> None:
    """Everything but the kubelet is in place before the credential is asked for, the rest follows the certificate."""
    asked: list[str] = []
    summary = run(machine, asked=asked)
    first, second, third = machine.steps
    assert "unit:containerd.service" in first
    assert "unit:kubelet.service" not in first
    assert second == {"unit:kubelet.service"}
    assert {"unit:flannel.service", "unit:kube-proxy.service", "unit:freehold-agent.service"} <= third
    assert asked == ["asked"]
    assert len(summary.changes) == 3


def test_the_credential_is_secret_and_short_lived(machine: Machine) -> None:
    """The bootstrap kubeconfig is there for the kubelet's start, 0600, and gone after the join."""
    run(machine)
    ((mode, text),) = machine.bootstrap_seen
    assert mode == 0o600
    assert TOKEN in text
    assert not machine.path(paths.BOOTSTRAP_KUBECONFIG).exists()


def test_a_second_join_asks_for_nothing(machine: Machine) -> None:
    """With a valid certificate of this node, one converge is all, and no credential is used up."""
    run(machine)
    machine.steps.clear()
    asked: list[str] = []
    run(machine, asked=asked)
    assert asked == []
    assert len(machine.steps) == 1


@pytest.mark.parametrize(
    "document",
    [
        a_document(node_uid="another"),
        a_document(ca_pem="another authority"),
    ],
    ids=["a new Node of that name", "another cluster"],
)
def test_a_former_credential_is_forgotten(machine: Machine, document: JoinDocument) -> None:
    """A certificate of a removed Node or another cluster is removed, and a kubelet that uses it is stopped."""
    run(machine)
    machine.systemd.properties["ActiveState"] = "active"
    machine.path(paths.KUBELET_KUBECONFIG).write_text("former")
    former = machine.path(paths.KUBELET_STATE + "/pki/kubelet-server-current.pem")
    former.write_text("former")
    asked: list[str] = []
    run(machine, document, asked)
    assert asked == ["asked"]
    assert machine.systemd.stopped == ["kubelet.service"]
    assert not machine.path(paths.KUBELET_KUBECONFIG).exists()
    assert not former.exists()


def test_an_expired_certificate_is_renewed(machine: Machine) -> None:
    """After its end a certificate does not count."""
    run(machine)
    machine.clock += 8 * 86400
    asked: list[str] = []
    run(machine, asked=asked)
    assert asked == ["asked"]


def test_a_kubelet_of_a_killed_join_may_get_its_certificate(machine: Machine) -> None:
    """It is stopped first, and what it has by then counts: a live Node gets no second credential."""
    run(machine)
    certificate = machine.path(paths.KUBELET_CLIENT_CERTIFICATE)
    issued = certificate.read_bytes()
    certificate.unlink()

    class Late(FakeSystemd):
        def stop(self, *names: str, timeout: float = 90) -> None:
            super().stop(*names)
            certificate.write_bytes(issued)

    systemd = Late(ActiveState="active")
    machine.host = dataclasses.replace(machine.host, systemd=systemd)  # type: ignore[arg-type]
    asked: list[str] = []
    run(machine, asked=asked)
    assert asked == []
    assert systemd.stopped == ["kubelet.service"]
    assert machine.bootstrap_seen == machine.bootstrap_seen[:1]


def test_validity_needs_the_right_name(machine: Machine) -> None:
    """Another node's certificate does not count, nor does a file that is none."""
    run(machine)
    certificate = machine.path(paths.KUBELET_CLIENT_CERTIFICATE)
    assert credential_valid(a_document(), machine.clock, str(machine.root))
    certificate.write_bytes(a_certificate("system:node:w2"))
    assert not credential_valid(a_document(), machine.clock, str(machine.root))
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert not credential_valid(a_document(), machine.clock, str(machine.root))


def test_no_certificate_is_one_clear_message(
    tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no certificate comes, the join says so with the kubelet's own words, and leaves no credential behind."""
    machine = Machine(tmp_path, owner, gives=False)
    monkeypatch.setattr(join_module, "CERTIFICATE_TIMEOUT", 0.01)
    with pytest.raises(StepFailed, match="got no client certificate within") as caught:
        run(machine)
    assert caught.value.detail == "kubelet says why"
    assert not machine.path(paths.BOOTSTRAP_KUBECONFIG).exists()
    assert machine.systemd.stopped == ["kubelet.service"]


def test_a_dying_kubelet_is_not_waited_for(
    tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubelet that does not stay up ends the join long before the time is over."""
    machine = Machine(tmp_path, owner, FakeSystemd(NRestarts="9"), gives=False)
    monkeypatch.setattr(join_module, "STATE_CHECK", 0.0)
    with pytest.raises(StepFailed, match="does not stay up"):
        run(machine)


@pytest.mark.parametrize(
    ("document", "error", "words"),
    [
        (a_document(addresses=("10.9.9.9",)), Unfit, "no interface of this machine has the address 10.9.9.9"),
        (a_document(addresses=()), BadRequest, "names no address"),
        (a_document(network=a_network(node_pod_cidrs=())), BadRequest, "no pod CIDR"),
        (a_document(node_uid=""), BadRequest, "no Node object"),
        (
            a_document(manifest=a_manifest().__class__("1.37.2", "arm64", ())),
            Unfit,
            "bundle is for arm64, this machine is amd64",
        ),
    ],
)
def test_a_wrong_document_changes_nothing(
    machine: Machine, document: JoinDocument, error: type[AgentError], words: str
) -> None:
    """A document that is not for this machine or not complete is refused before anything is touched."""
    with pytest.raises(error, match=words):
        run(machine, document)
    assert machine.steps == []


def test_no_credential_is_an_error(machine: Machine) -> None:
    """A caller that has none to give ends the join with a clear message."""
    with pytest.raises(BadRequest, match="was given none"):
        join(a_document(), lambda: None, lambda _a: None, lambda _e: None, host=machine.host)


def test_prepare_needs_no_admission(machine: Machine) -> None:
    """Before admission everything is prepared but the kubelet; the unfinished document is not kept."""
    document = a_document(node_uid="", network=a_network(node_pod_cidrs=()))
    prepare(document, lambda _a: None, lambda _e: None, host=machine.host)
    (step,) = machine.steps
    assert {"unit:containerd.service", "unit:freehold-images.service"} <= step
    assert not step & {
        "unit:kubelet.service",
        "file:" + paths.JOIN_DOCUMENT,
        "file:" + paths.CNI_CONFLIST,
        "unit:flannel.service",
    }


def test_prepare_writes_the_network_when_it_is_known(machine: Machine) -> None:
    """On a machine that is a node already, its CNI configuration is part of the preparation."""
    prepare(a_document(), lambda _a: None, lambda _e: None, host=machine.host)
    assert "file:" + paths.CNI_CONFLIST in machine.steps[0]


class TestOverStream:
    """The channel to the installer."""

    @pytest.fixture
    def told(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        original = join_module.join
        monkeypatch.setattr(
            join_module, "join", lambda *args, **kw: original(*args, **{**kw, "host": machine.host})
        )
        return []

    def request(self, **changes: Any) -> dict[str, Any]:
        return {"document": a_document().to_json(), "deliver": "wait", **changes}

    def test_the_credential_is_asked_for_and_read(self, machine: Machine, told: list[Any]) -> None:
        """The installer is asked by an event and answers with one JSON line."""
        answer = io.BytesIO(json.dumps({"token": TOKEN, "expires": "soon"}).encode() + b"\n")
        result = join_over_stream(self.request(), answer, told.append)
        assert {"event": "need-credential"} in told
        assert TOKEN not in json.dumps(told) + json.dumps(result)
        assert TOKEN in machine.bootstrap_seen[0][1]

    @pytest.mark.parametrize("answer", [b"", b'{"tok', b"[1]\n", b'{"expires": ""}\n'])
    def test_no_answer_is_an_error_without_the_line(
        self, machine: Machine, told: list[Any], answer: bytes
    ) -> None:
        """What was sent instead is not quoted: it may hold the credential."""
        with pytest.raises(BadRequest, match="answer is no bootstrap credential") as caught:
            join_over_stream(self.request(), io.BytesIO(answer), told.append)
        assert caught.value.__cause__ is None

    def test_an_unknown_way_of_delivery(self, told: list[Any]) -> None:
        """Only the two known ways bring artifacts."""
        with pytest.raises(BadRequest, match="not 'carrier pigeon'"):
            join_over_stream(self.request(deliver="carrier pigeon"), io.BytesIO(), told.append)


class TestLock:
    def test_one_at_a_time(self, tmp_path: Path, machine: Machine) -> None:
        """While another process holds the lock a join ends with Locked; the same process may take it again."""
        import fcntl
        import os

        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            with pytest.raises(LockBusyError), converge_lock(0, str(tmp_path)):
                pass
        finally:
            os.close(descriptor)
        with converge_lock(0, str(tmp_path)), converge_lock(0, str(tmp_path)):
            pass

    def test_a_busy_machine(self, machine: Machine) -> None:
        """Who comes second is told so."""

        @contextlib.contextmanager
        def busy(timeout: float = 0) -> Iterator[None]:
            raise LockBusyError("another run")
            yield

        host = dataclasses.replace(machine.host, lock=busy)
        with pytest.raises(Locked, match="another run"):
            join(a_document(), lambda: None, lambda _a: None, lambda _e: None, host=host)


class TestCertificate:
    def test_agrees_with_the_library(self) -> None:
        """Name and times are those that a full parser reads, for near and far dates."""
        for days in (1, 30 * 365):
            pem = a_certificate(days=days)
            parsed = x509.load_pem_x509_certificate(pem)
            facts = read_certificate(pem)
            assert facts.common_name == "system:node:w1"
            assert facts.not_before == parsed.not_valid_before_utc.timestamp()
            assert facts.not_after == parsed.not_valid_after_utc.timestamp()

    def test_every_cut_is_a_value_error(self) -> None:
        """A damaged file is said to be one, wherever it is cut."""
        lines = a_certificate().decode().splitlines()
        for count in range(len(lines)):
            with pytest.raises(ValueError):
                read_certificate(("\n".join(lines[:count]) + "\n").encode())
