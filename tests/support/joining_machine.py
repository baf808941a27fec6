"""A pretended machine that joins by itself: real files below a directory, a converge that only writes what counts."""

import contextlib
import os
import pwd
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from tests.support.a_node import lab

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import File, key_of
from freehold_agent.converge import Summary
from freehold_agent.join import Host
from freehold_agent.join_client import JoinClient
from freehold_agent.join_node import Surroundings, Wish, join_node

KEPT = (paths.JOIN_DOCUMENT, paths.PROXY)


class _Systemd:
    def show(self, names: List[str], _properties: Any = ()) -> Dict[str, Dict[str, str]]:
        return {name: {"ActiveState": "inactive"} for name in names}

    def stop(self, *names: str, timeout: float = 90) -> None:
        pass

    def journal(self, _name: str, _lines: int = 15) -> str:
        return ""


class _Fetcher:
    def __call__(self, _artifact: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _Mortal(JoinClient):
    """A client whose process is killed after an answer."""

    machine: "JoiningMachine"

    def join(self, token: str, request: Any) -> JoinDocument:
        document = super().join(token, request)
        self.machine.dies("join")
        return document

    def credential(self, token: str, request: Any) -> Any:
        given = super().credential(token, request)
        self.machine.dies("credential")
        return given


class JoiningMachine:
    """`join(wish, token)`; its kubelet gets what `certificate` returns, then `reports` is called with it."""

    def __init__(
        self, root: Path, certificate: Callable[[], bytes], reports: Callable[[bytes], None]
    ) -> None:
        self.root = root
        self.certificate = certificate
        self.reports = reports
        self.facts: Dict[str, Any] = {
            **lab(),
            "python": "3.11.2",
            "kernel": "6.1.0",
            "tools": dict.fromkeys(
                ("systemctl", "conntrack", "ip", "iptables", "modprobe", "mount", "umount"), "/bin/x"
            ),
            "foreign": [],
            "listening": [],
            "memory": 4 << 30,
            "disk": {
                "/opt": {"free": 9 << 30, "total": 9 << 30},
                "/var/lib": {"free": 9 << 30, "total": 9 << 30},
            },
            "routes": [],
        }
        self.facts["tools"]["nft"] = "1.0.6"
        self.environment: Dict[str, str] = {}
        self.owners: List[str] = []
        self.asked = 0
        self.said: List[str] = []
        self.bootstrap_seen: List[str] = []
        self.dies_after = ""
        self.fails: Optional[Exception] = None
        self.sleep: Callable[[float], None] = lambda _seconds: None
        self.patience = 20.0
        for name in (paths.ETC, paths.KUBERNETES, paths.KUBELET_STATE + "/pki"):
            (root / name[1:]).mkdir(parents=True, exist_ok=True)

    def join(self, wish: Wish, token: Optional[str]) -> Summary:
        """Run `join-node`; without a token, asking for one is an AssertionError."""

        def ask() -> str:
            assert token is not None, "asked for a token"
            self.asked += 1
            return token

        return join_node(wish, ask, self.said.append, lambda _event: None, self._surroundings())

    def dies(self, place: str) -> None:
        """End like a process that is killed, if it is to die here."""
        if self.dies_after == place:
            raise KeyboardInterrupt

    def texts(self) -> Dict[str, str]:
        """Return every file below the root by its path on the machine."""
        return {
            "/" + str(path.relative_to(self.root)): path.read_text()
            for path in self.root.rglob("*")
            if path.is_file() and "other" not in path.relative_to(self.root).parts
        }

    def _surroundings(self) -> Surroundings:
        def client(servers: Any, ca_pem: str, **options: Any) -> JoinClient:
            made = _Mortal(servers, ca_pem, **options, patience=self.patience, sleep=self.sleep)
            made.machine = self
            return made

        host = Host(
            facts=lambda: dict(self.facts),
            converge=self._converge,
            systemd=_Systemd(),  # type: ignore[arg-type]
            root=str(self.root),
            owner=pwd.getpwuid(os.geteuid()).pw_name,
            lock=self._lock,
            now=time.time,
            sleep=lambda _seconds: None,
        )
        return Surroundings(
            host=host,
            client=client,
            environment=self.environment,
            owners=lambda: self.owners,
            fetch=lambda _document: _Fetcher(),
        )

    @contextlib.contextmanager
    def _lock(self, timeout: float = 0) -> Iterator[None]:
        yield

    def _converge(self, resources: Any, _owner: str, _deliver: Any, _progress: Any, only: Any) -> Summary:
        for resource in resources:
            if only is not None and key_of(resource) not in only:
                continue
            if isinstance(resource, File) and resource.path in KEPT:
                (self.root / resource.path[1:]).write_bytes(resource.content)
            if key_of(resource) == "unit:kubelet.service":
                self._kubelet()
        return Summary((), 0.1)

    def _kubelet(self) -> None:
        if self.fails is not None:
            raise self.fails
        bootstrap = self.root / paths.BOOTSTRAP_KUBECONFIG[1:]
        if bootstrap.exists():
            text = bootstrap.read_text()
            self.bootstrap_seen.append(text.split('"token": "')[1].split('"')[0])
            certificate = self.certificate()
            (self.root / paths.KUBELET_CLIENT_CERTIFICATE[1:]).write_bytes(certificate)
            self.reports(certificate)
