"""The one value that all desired-state functions of a control-plane machine take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freehold_agent.contract import selinux
from freehold_agent.contract.artifacts import Manifest
from freehold_agent.contract.resources import Directory, File
from freehold_installer.config import Host, Inventory

PLACEHOLDER = b"to be issued\n"
"""Stands for keys and certificates that a plan before the first apply cannot know."""


@dataclass(frozen=True)
class ControlPlaneContext:
    """Everything a control-plane machine is derived from."""

    inventory: Inventory
    host: Host
    manifest: Manifest
    facts: Mapping[str, Any]
    """What `freehold_agent.facts.gather` saw on the machine."""
    issued: Mapping[str, bytes] = field(repr=False, default_factory=dict)
    """Path below the PKI directory -> bytes; missing ones are placeholders in a plan."""

    @property
    def address(self) -> str:
        return self.host.internal_address

    @property
    def api_server(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:6443"

    def labels(self, *programs: str) -> dict[str, list[str]]:
        """Return the unit settings that label these programs (`bin/etcd`) where SELinux is on."""
        return selinux.settings(self.facts, {selinux.PROGRAM: programs})

    def pki(self, name: str) -> bytes:
        """Return the bytes of a key, certificate or kubeconfig by its name in the PKI directory."""
        return self.issued.get(name, PLACEHOLDER)

    def pki_file(
        self, name: str, path: str, *, owner: str = "root", group: str = "root", mode: int | None = None
    ) -> File:
        """Return the file that holds a key or certificate; anything with a private key is a secret."""
        secret = not name.endswith((".crt", ".pub"))
        if mode is None:
            mode = 0o600 if secret else 0o644
        return File(path, self.pki(name), mode, owner, group, secret)


def directory(path: str, mode: int = 0o755, owner: str = "root", group: str = "root") -> Directory:
    """Return a directory resource; a name that reads well in lists."""
    return Directory(path, mode, owner, group)
