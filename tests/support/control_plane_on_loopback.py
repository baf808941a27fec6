"""A real control plane on an address of loopback: etcd, API server and controller manager of the built bundle with the
flags that the product renders, and the services as processes of the zipapp.

Nothing is pretended but systemd, whose units are read for their command lines, and the machine, whose root is a
directory. Each control plane has an address of its own, so the ports are the product's.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import itertools
import json
import platform
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tests.support.a_control_plane import FACTS
from tests.support.certificates import signed
from tests.support.follower import Follower
from tests.support.loopback import Client, Program, free_address, oldest_python

from freehold_agent.contract import paths
from freehold_agent.contract.artifacts import ArtifactEntry, Manifest
from freehold_agent.contract.resources import Directory, File, Resource
from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi
from freehold_bootstrap import node_record, rbac, tokens
from freehold_bootstrap.authority import Issued
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.identities import NAMESPACE, NODES_GROUP
from freehold_bootstrap.join_service.joining import SETTINGS, SETTINGS_KEY
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest
from freehold_installer.bundle.store import Store
from freehold_installer.bundle.zipapps import build_zipapps
from freehold_installer.config import Inventory, loads
from freehold_installer.desired.cluster import control_plane_resources
from freehold_installer.phases import trust
from freehold_installer.phases.cluster_state import ClusterState, Seen

T = TypeVar("T")
R = TypeVar("R")
RELEASE = "1.37.2"
HOST = "cp1"
INVENTORY = """
name: loopback
hosts: {cp1: {address: 192.0.2.1, roles: [control-plane]}}
config:
  networking: {podCIDR: 10.128.0.0/12}
"""
AT_ONCE = 16
"""Threads of whoever makes many requests here; more only slow each other down."""
PATIENCE = 120.0
"""Seconds to wait for what takes a moment on an idle machine."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ROOTED = re.compile(r"(?<![\w/])/(?=(?:etc|opt|var)/)")


class ControlPlane:
    """What tests see of it; made by `running`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.address = free_address()
        self.inventory = _inventory_at(self.address)
        self.pki = PkiDirectory(str(directory / "pki"))
        self.programs: dict[str, Program] = {}
        self.times: dict[str, float] = {}
        self.secrets: list[str] = []
        """Every secret that tests made: none may be written down anywhere."""
        self.python = oldest_python()
        """Runs the services."""
        self.requests: Follower
        self.bootstrap_tokens: Follower
        self._begun = time.monotonic()
        self._numbers = itertools.count(1)
        trust.issue(self.inventory, self.pki)
        self.state = ClusterState(self.inventory, self.pki, self._manifest(), {HOST: Seen(FACTS, None, ())})
        self.commands = self._lay_out(control_plane_resources(self.state.context(self._host)))
        self.server = f"https://{self.address}:{paths.API_PORT}"
        self._connections: list[http.client.HTTPConnection] = []
        self.admin_pair = self.pair(trust.ADMIN)
        self.admin = self.api(self.admin_pair, keep=True)
        self.installer = self.api(self.pair(trust.INSTALLER), keep=True)
        self.pool = ThreadPoolExecutor(AT_ONCE, "many")

    @property
    def settings(self) -> ClusterSettings:
        return self.state.settings()

    def start(self) -> None:
        """Start everything; the controller and the join service first, long before the API answers them."""
        self.start_program("freehold-join")
        self.start_controller()
        self.start_program("etcd")
        # An API server announces no address of loopback; nobody here goes where it announces itself.
        elsewhere = ("--bind-address=" + self.address, "--advertise-address=192.0.2.1")
        self.start_program("kube-apiserver", *elsewhere)
        gate = self.start_program("freehold-api-ready")
        deadline = time.monotonic() + PATIENCE
        while gate.running:
            assert self.programs["kube-apiserver"].running, self.last_words()
            assert time.monotonic() < deadline, self.last_words()
            time.sleep(0.05)
        self.note("API ready")
        self.start_program("kube-controller-manager")
        with self.pki.short_lived(trust.INSTALLER_BOOTSTRAP) as certificate:
            first = self.api(certificate)
            for body in rbac.trust_objects():
                first.apply(rbac.path_of(body), body)
            first.close()
        self._write_settings()
        self._await_policies()
        self.note("rights, policies and settings")
        self.requests = Follower(self.admin, "/apis/certificates.k8s.io/v1/certificatesigningrequests")
        self.bootstrap_tokens = Follower(self.admin, tokens.BOOTSTRAP_TOKENS)

    def stop(self) -> None:
        """End all programs, the API server before its store; nothing may be left."""
        self.pool.shutdown()
        order = ["freehold-", "kube-controller-manager", "kube-apiserver", ""]
        for prefix in order:
            chosen = [program for name, program in self.programs.items() if name.startswith(prefix)]
            for program in chosen:
                program.signal(signal.SIGCONT)
                program.signal(signal.SIGTERM)
            for program in chosen:
                program.stop()
        for name in ("requests", "bootstrap_tokens"):
            if hasattr(self, name):
                getattr(self, name).join()
        for connection in self._connections:
            connection.close()

    def start_program(
        self, unit: str, *more: str, name: str = "", python: str = "", config: Mapping[str, Any] | None = None
    ) -> Program:
        """Start what a unit runs, with more arguments; `config` replaces keys of a service's configuration."""
        command = [*self.commands[unit], *more]
        if command[0] == "/usr/bin/python3":
            command[0] = python or self.python
        name = name or unit
        if config is not None:
            original = Path(command[-1])
            changed = original.with_name(name + ".json")
            changed.write_text(json.dumps({**json.loads(original.read_text()), **config}))
            command[-1] = str(changed)
        program = Program(name, command, self.directory)
        self.programs[name] = program
        return program

    def start_controller(self, identity: str = HOST, python: str = "", **config: Any) -> Program:
        """Start a controller; without DNS, because no EndpointSlice may name an address of loopback."""
        name = "freehold-controller" + ("" if identity == HOST else "-" + identity)
        settings = {"dns": [], "identity": identity, **config}
        return self.start_program("freehold-controller", name=name, python=python, config=settings)

    def api(
        self, certificate: str | None = None, token: str | None = None, keep: bool = False
    ) -> KubernetesApi:
        """Return a client with a credential: path of certificate and key in one file, or a bootstrap token."""
        return Client(
            self.server,
            self._connections if keep else None,
            ca_pem=self.pki.ca_pem(),
            client_certificate=certificate,
            token=token,
            timeout=PATIENCE,
        )

    def pair(self, request: CertificateRequest) -> str:
        """Return the path of a stored pair as one file."""
        return self.keep(self.pki.issued(request))

    def pair_of(self, profile: str) -> str:
        """Return the path of the control-plane machine's pair of that profile as one file."""
        requests = trust.machine_requests(self.inventory, self._host)
        return self.pair(next(request for request in requests if request.profile == profile))

    def keep(self, pair: Issued) -> str:
        """Write certificate and key into one file; return its path."""
        self.secrets.append(pair.key_pem.decode().splitlines()[1])
        path = self.directory / f"pair-{self.number()}.pem"
        path.touch(mode=0o600)
        path.write_bytes(pair.certificate_pem + pair.key_pem)
        return str(path)

    def many(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do the work for all items, several at once; return the results in order."""
        return list(self.pool.map(work, items))

    def number(self) -> int:
        """Return a number that no one else got."""
        return next(self._numbers)

    def name(self, what: str) -> str:
        """Return a node's name that no other test has."""
        return f"{what}-{self.number()}"

    def node_address(self) -> str:
        """Return an address that no other node has."""
        number = self.number()
        return f"10.77.{number >> 8}.{number & 255}"

    def remove_all_nodes(self) -> None:
        """Remove every Node and what is known of it: hundreds of them make the next tests slow."""
        for path in ("/api/v1/nodes", f"{node_record.RECORDS}?labelSelector={node_record.RECORD_LABEL}"):
            self.admin.delete(path)

    def note(self, what: str) -> None:
        """Remember how long after the first process something was reached."""
        self.times[what] = time.monotonic() - self._begun

    def last_words(self) -> str:
        """Return the end of every journal, for the message of a failed start."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(program.said().splitlines()[-15:])
            for name, program in self.programs.items()
        )

    @property
    def _host(self) -> Any:
        return self.inventory.control_planes[0]

    def _manifest(self) -> Manifest:
        """Return the bundle's manifest with the services made from the sources of this checkout."""
        bundle = Store().load_manifest(RELEASE, ARCHITECTURES[platform.machine()])
        services = build_zipapps()["services"]
        entry = ArtifactEntry(
            "bin/freehold-services.pyz",
            hashlib.sha256(services).hexdigest(),
            len(services),
            ("control-plane",),
        )
        return dataclasses.replace(bundle, entries=(*bundle.entries, entry))

    def _lay_out(self, resources: Sequence[Resource]) -> dict[str, list[str]]:
        """Write files below our root, link programs; return the command line of each unit."""
        commands: dict[str, list[str]] = {}
        for resource in resources:
            if isinstance(resource, Directory):
                (self.root / resource.path[1:]).mkdir(parents=True, exist_ok=True)
            elif isinstance(resource, File):
                content = resource.content
                if resource.path.startswith((paths.UNITS, paths.ETC + "/")) and b"PRIVATE KEY" not in content:
                    content = self._moved(content.decode()).encode()
                target = self.root / resource.path[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch(mode=resource.mode)
                target.write_bytes(content)
                if resource.path.endswith(".service"):
                    commands[target.stem] = _command(content.decode())
        programs = self.root / paths.BIN[1:]
        programs.mkdir(parents=True)
        store = Store()
        for entry in self.state.manifest.entries:
            if entry.name.startswith("bin/") and not entry.name.endswith(".pyz"):
                (programs / entry.name[4:]).symlink_to(store.path(entry.sha256))
        (programs / "freehold-services.pyz").write_bytes(build_zipapps()["services"])
        return commands

    def _moved(self, text: str) -> str:
        """Return text whose paths lie below our root and whose local address is ours."""
        return _ROOTED.sub(f"{self.root}/", text).replace("127.0.0.1", self.address)

    def _write_settings(self) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": SETTINGS.rpartition("/")[2], "namespace": NAMESPACE},
            "data": {SETTINGS_KEY: json.dumps(self.settings.to_json())},
        }
        for _ in self.attempts():
            try:
                self.admin.apply(SETTINGS, body)
                return
            except ApiError as error:
                if error.status != 403:  # rights just granted take a moment
                    raise

    def _await_policies(self) -> None:
        """Wait until admission policies deny: a new one takes effect about a second after it was written."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "probe"}}
        pair = self.certificate("system:node:probe", NODES_GROUP)
        node = self.api(pair)
        for _ in self.attempts():
            try:
                node.create("/api/v1/nodes?dryRun=All", body)
            except ApiError as error:
                if "admission" in error.message:
                    return

    def certificate(self, common_name: str, *groups: str, usage: str = "client") -> str:
        """Return the path of a certificate of the cluster's CA for any subject, as no program of ours makes."""
        return self.keep(signed(self.pki, common_name, groups, usage))

    def attempts(self, seconds: float = PATIENCE, pause: float = 0.05) -> Iterator[float]:
        """Yield until the time is up, with pauses; then fail with everybody's last words."""
        begun = time.monotonic()
        while True:
            elapsed = time.monotonic() - begun
            assert elapsed < seconds, "it never happened\n" + self.last_words()
            yield elapsed
            time.sleep(pause)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[ControlPlane]:
    """Yield a control plane that answers and admits; end all of it."""
    plane = ControlPlane(directory)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _inventory_at(address: str) -> Inventory:
    """Return an inventory with one control plane on loopback, which a file may not ask for."""
    inventory = loads(INVENTORY)
    host = inventory.hosts[HOST].model_copy(update={"address": address, "internal_address": address})
    return dataclasses.replace(inventory, hosts={HOST: host})


def _command(unit: str) -> list[str]:
    """Return the command line in a unit file."""
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart="))
    return [word.replace("%%", "%").replace("$$", "$") for word in words]
