"""How to reach one machine: what the inventory says, resolved.

Nothing else is looked at, not even ~/.ssh/config, so that two operators with the same inventory reach the
same machines the same way.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freehold_installer.config.model import Host, Inventory

SSH_PORT = 22


@dataclass(frozen=True)
class Endpoint:
    name: str
    """The machine's name in the inventory."""
    address: str
    """Host name or IP address, without a port."""
    port: int = SSH_PORT
    user: str = ""
    """Empty: the operator's own login name."""
    key: str = ""
    """Path of a private key. Empty: keys of an SSH agent and the usual ones in ~/.ssh."""
    host_keys: tuple[str, ...] = ()
    """`ssh-ed25519 AAAA...`: pinned by the inventory, win over known hosts."""
    jump: str = ""
    """`user@host:port` of a machine to go through, as `ssh -J` takes it."""

    @property
    def known_as(self) -> str:
        """The name in a known_hosts file."""
        return self.address if self.port == SSH_PORT else f"[{self.address}]:{self.port}"

    @property
    def where(self) -> str:
        """For messages: `user@address:port`."""
        user = f"{self.user}@" if self.user else ""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{user}{address}:{self.port}"


def jump_command(jump: str, target: str) -> list[str]:
    """Return the `ssh -W TARGET` to a jump host, with the operator's own settings and known hosts for it:
    it is not a machine of ours. TARGET is `[address]:port`."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-W", target]
    login, _, port = jump.rpartition(":")
    if login and port.isdigit():
        return [*command, "-p", port, "--", login]
    return [*command, "--", jump]


def endpoint_of(inventory: "Inventory", host: "Host") -> Endpoint:
    """Return the endpoint of an inventory host."""
    ssh = inventory.ssh_for(host)
    return Endpoint(
        name=host.name,
        address=host.address,
        port=ssh.port,
        user=ssh.user,
        key=str(ssh.key) if ssh.key else "",
        host_keys=tuple(host.host_key),
        jump=ssh.jump_host or "",
    )
