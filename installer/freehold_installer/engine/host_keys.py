"""SSH host keys: shown once, pinned per cluster, then strict. Nothing here accepts a key in silence.

The inventory's `hostKey` wins; else the cluster's own known_hosts file; else somebody must say yes: a person
on the terminal, or `--accept-new-host-keys`. The operator's ~/.ssh/known_hosts is neither read nor written.
"""

import base64
import binascii
import hashlib
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold_installer.engine.endpoint import Endpoint
from freehold_installer.errors import InputError, UnreachableError

KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
"""What we pin, the one we ask a machine for first."""


@dataclass(frozen=True)
class HostKey:
    kind: str
    blob: str
    """Base64, as in known_hosts."""

    @classmethod
    def parse(cls, text: str) -> "HostKey":
        """Read `TYPE BASE64 [comment]`. Raises InputError."""
        words = text.split()
        try:
            kind, blob = words[0], words[1]
            base64.b64decode(blob, validate=True)
        except (IndexError, binascii.Error, ValueError) as error:
            raise InputError(
                f"not an SSH host key: {text!r}",
                hint="it looks like `ssh-ed25519 AAAA...`, the content of /etc/ssh/ssh_host_ed25519_key.pub",
            ) from error
        if kind not in KEY_TYPES:
            raise InputError(f"host key type {kind!r} is not known", hint="known: " + ", ".join(KEY_TYPES))
        return cls(kind, blob)

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.blob}"


@dataclass(frozen=True)
class NewKey:
    """A key that a machine offered and nobody has vouched for yet."""

    endpoint: Endpoint
    key: HostKey


class KnownHosts:
    """The known_hosts file of one cluster, in OpenSSH's format, never hashed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self, endpoint: Endpoint) -> tuple[HostKey, ...]:
        return tuple(key for name, key in self._entries() if name == endpoint.known_as)

    def pin(self, keys: Iterable[NewKey]) -> None:
        """Make these the only keys of their endpoints. Writes the file only when something differs."""
        new = [(item.endpoint.known_as, item.key) for item in keys]
        names = {name for name, _ in new}
        before = self._entries()
        after = [(name, key) for name, key in before if name not in names] + new
        if sorted(after, key=str) == sorted(before, key=str):
            return
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.touch(0o600)
        temporary.write_text("".join(f"{name} {key}\n" for name, key in after))
        temporary.replace(self.path)

    def _entries(self) -> list[tuple[str, HostKey]]:
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            name, _, rest = line.strip().partition(" ")
            if name and not name.startswith("#"):
                entries.append((name, HostKey.parse(rest)))
        return entries


Scan = Callable[[Sequence[Endpoint]], Sequence[NewKey]]
Ask = Callable[[Sequence[NewKey]], bool]


def settle(
    endpoints: Sequence[Endpoint],
    known: KnownHosts,
    *,
    scan: Scan,
    accept_new: bool = False,
    ask: Ask | None = None,
) -> Sequence[NewKey]:
    """Make sure every endpoint has a pinned key; return those accepted now.

    `scan` asks machines for their keys, `ask` shows new ones to a person (None: there is no terminal).
    Raises UnreachableError, with fingerprints and both ways on, when new keys stay unaccepted.
    """
    known.pin([NewKey(item, HostKey.parse(key)) for item in endpoints for key in item.host_keys])
    unknown = [item for item in endpoints if not known.keys(item)]
    if not unknown:
        return ()
    offered = scan(unknown)
    if accept_new or (ask is not None and ask(offered)):
        known.pin(offered)
        return offered
    raise UnreachableError(
        "host keys that nobody has vouched for yet:\n"
        + "\n".join(f"  {item.endpoint.name}  {item.key.kind}  {item.key.fingerprint}" for item in offered),
        hint="compare them with the machines' own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then "
        "either pass --accept-new-host-keys once, or write each into the inventory:\n"
        + "\n".join(f"  {item.endpoint.name}: hostKey: {item.key}" for item in offered),
    )


def changed(
    endpoint: Endpoint, pinned: Sequence[HostKey], offered: HostKey, known: KnownHosts
) -> UnreachableError:
    """Return the error for a machine that shows another key than the pinned one."""
    if endpoint.host_keys:
        forget = "correct its hostKey in the inventory"
    else:
        forget = f"forget the old one: ssh-keygen -R '{endpoint.known_as}' -f {known.path}"
    return UnreachableError(
        f"{endpoint.name}: the host key of {endpoint.where} has changed\n"
        f"  pinned:  {', '.join(f'{key.kind} {key.fingerprint}' for key in pinned)}\n"
        f"  offered: {offered.kind} {offered.fingerprint}",
        hint=f"if the machine was reinstalled, {forget}; if not, somebody may be in between: do not go on",
    )


def scan_one(endpoint: Endpoint, sock: socket.socket, timeout: float = 10.0) -> HostKey:
    """Ask the SSH server on a connected socket, which is closed, for its key. Raises UnreachableError."""
    import paramiko

    transport = paramiko.Transport(sock)
    try:
        options = transport.get_security_options()
        first = [kind for kind in KEY_TYPES if kind in options.key_types]
        options.key_types = [*first, *(kind for kind in options.key_types if kind not in first)]
        transport.start_client(timeout=timeout)
        key = transport.get_remote_server_key()
        return HostKey(key.get_name(), key.get_base64())
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnreachableError(
            f"{endpoint.name}: {endpoint.where} does not speak SSH: {error}",
            hint="check address and port in the inventory",
        ) from error
    finally:
        transport.close()
