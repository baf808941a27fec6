"""The only module that touches pyinfra: one State for all machines, strict host keys, all connected at once.

What pyinfra's interface gets wrong for us is handled here and nowhere else (docs/adr/0001): it swallows
which host key was offered, asks for passphrases on the terminal, leaves transports open, delays packets.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from freehold_installer.engine.endpoint import Endpoint, jump_command
from freehold_installer.engine.host_keys import KEY_TYPES, HostKey, KnownHosts, NewKey, changed, scan_one
from freehold_installer.errors import FreeholdError, UnreachableError, joined

CONNECT_TIMEOUT = 10
"""Seconds, for each of: TCP, key exchange, login."""
RSA = ("rsa-sha2-512", "rsa-sha2-256")
ALGORITHMS = (*KEY_TYPES, *RSA)
"""Host key algorithms that paramiko may negotiate."""
KEEPALIVE = 15
"""Seconds between keepalives: a machine that lost power is noticed, idle connections survive NAT."""


Value = TypeVar("Value")


class Fleet:
    """The open connections of one run. Call `connect` once per set of machines, `close` at the end."""

    def __init__(self, known_hosts: KnownHosts) -> None:
        self._known_hosts = known_hosts
        self._states: list[Any] = []
        self._clients: dict[str, Any] = {}

    def scan(self, endpoints: Sequence[Endpoint]) -> Sequence[NewKey]:
        """Ask each machine for its host key, in parallel. Raises UnreachableError."""
        keys = in_parallel(endpoints, lambda item: scan_one(item, open_socket(item), CONNECT_TIMEOUT))
        return [NewKey(item, keys[item.name]) for item in endpoints]

    def connect(self, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
        """Log in to all, in parallel; return a paramiko client by machine name.

        Their host keys must be in the known_hosts file already. Raises UnreachableError listing every machine
        that failed; the others stay connected until `close`.
        """
        logins = {item.name: _login(item) for item in endpoints}
        state = _new_state([(item.name, self._data(item, logins[item.name])) for item in endpoints])
        state.is_executing = True
        self._states.append(state)
        _forget_known_hosts()
        hosts = {host.name: host for host in state.inventory}
        self._clients.update(in_parallel(endpoints, lambda item: self._connect(item, hosts[item.name])))
        return {item.name: self._clients[item.name] for item in endpoints}

    def close(self) -> None:
        """Close every transport: pyinfra's own disconnect leaves them open."""
        for state in self._states:
            for host in state.inventory:
                client = getattr(host.connector, "client", None)
                if client is not None:
                    with contextlib.suppress(Exception):
                        client.close()
                host.connected = False
        self._states.clear()
        self._clients.clear()

    def _data(self, endpoint: Endpoint, login: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ssh_hostname": endpoint.address,
            "ssh_port": endpoint.port,
            "ssh_config_file": os.devnull,
            "ssh_known_hosts_file": str(self._known_hosts.path),
            "ssh_strict_host_key_checking": "yes",
            "ssh_forward_agent": False,
            **({"ssh_user": endpoint.user} if endpoint.user else {}),
            **login,
        }

    def _connect(self, endpoint: Endpoint, host: Any) -> Any:
        import paramiko
        from pyinfra.api.exceptions import ConnectError

        pinned = self._known_hosts.keys(endpoint)
        host.connector.data["ssh_paramiko_connect_kwargs"] = {
            # Our own socket: TCP_NODELAY from the first byte (4 ms a command instead of 46), and its errors
            # are about the network and not about SSH.
            "sock": open_socket(endpoint),
            "disabled_algorithms": {"keys": _other_key_types(pinned)},
            "banner_timeout": CONNECT_TIMEOUT,
            "auth_timeout": CONNECT_TIMEOUT,
        }
        try:
            host.connect(show_errors=False, raise_exceptions=True)
        except ConnectError as error:
            cause = error.__context__
            if isinstance(cause, paramiko.BadHostKeyException):
                offered = HostKey(cause.key.get_name(), cause.key.get_base64())
                raise changed(endpoint, pinned, offered, self._known_hosts) from error
            if isinstance(cause, paramiko.ssh_exception.IncompatiblePeer):
                offered = scan_one(endpoint, open_socket(endpoint), CONNECT_TIMEOUT)
                raise changed(endpoint, pinned, offered, self._known_hosts) from error
            raise _refused(endpoint, error, cause) from error
        client = host.connector.client
        client.get_transport().set_keepalive(KEEPALIVE)
        return client


def _new_state(hosts: Sequence[tuple[str, dict[str, Any]]]) -> Any:
    import pyinfra.api.config
    import pyinfra.api.inventory
    import pyinfra.api.state

    api: Any = pyinfra.api
    for name in ("pyinfra", "paramiko"):  # they write what we say better, and in the middle of our progress
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    settings = api.config.Config(CONNECT_TIMEOUT=CONNECT_TIMEOUT, FAIL_PERCENT=0)
    return api.state.State(api.inventory.Inventory((list(hosts), {})), settings, check_for_changes=False)


def in_parallel(items: Sequence[Any], work: Callable[[Any], Value]) -> dict[str, Value]:
    """Do `work` for each item (they have a `name`) at once. Raises one error that names every failure."""
    import gevent

    outcomes: dict[str, Value] = {}
    failures: dict[str, FreeholdError] = {}

    def one(item: Any) -> None:
        try:
            outcomes[item.name] = work(item)
        except FreeholdError as error:
            failures[item.name] = error

    running = [gevent.spawn(one, item) for item in items]
    try:
        gevent.joinall(running, raise_error=True)
    finally:
        gevent.killall(running, block=False)
    if failures:
        raise joined([failures[item.name] for item in items if item.name in failures])
    return outcomes


def open_socket(endpoint: Endpoint) -> socket.socket:
    """Return a connected socket to the machine's SSH server, through its jump host if it has one.

    Raises UnreachableError.
    """
    if endpoint.jump:
        return _through(endpoint)
    try:
        connected = socket.create_connection((endpoint.address, endpoint.port), CONNECT_TIMEOUT)
    except socket.gaierror as error:
        raise UnreachableError(
            f"{endpoint.name}: the name {endpoint.address} cannot be resolved",
            hint="check `address` in the inventory",
        ) from error
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise UnreachableError(
            f"{endpoint.name}: {endpoint.where} cannot be reached: {reason.lower()}",
            hint="is the machine up, does its SSH server run, and are address and port right?",
        ) from error
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _through(endpoint: Endpoint) -> socket.socket:
    from gevent import subprocess

    ours, theirs = socket.socketpair()
    command = jump_command(endpoint.jump, f"[{endpoint.address}]:{endpoint.port}")
    with theirs:
        subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    return ours


def _login(endpoint: Endpoint) -> dict[str, Any]:
    """Return pyinfra's settings for the login key; never one that makes it ask for a passphrase."""
    import paramiko

    if not endpoint.key:
        return {"ssh_allow_agent": True, "ssh_look_for_keys": True}
    try:
        paramiko.PKey.from_path(endpoint.key)
    except FileNotFoundError as error:
        raise UnreachableError(f"{endpoint.name}: the SSH key {endpoint.key} does not exist") from error
    except (paramiko.PasswordRequiredException, TypeError) as error:
        if os.environ.get("SSH_AUTH_SOCK"):
            return {"ssh_allow_agent": True, "ssh_look_for_keys": False}
        raise UnreachableError(
            f"{endpoint.name}: the SSH key {endpoint.key} has a passphrase",
            hint=f"let an SSH agent hold it: eval $(ssh-agent); ssh-add {endpoint.key}",
        ) from error
    except (paramiko.SSHException, OSError, ValueError) as error:
        raise UnreachableError(
            f"{endpoint.name}: the SSH key {endpoint.key} cannot be used: {error}"
        ) from error
    return {"ssh_key": endpoint.key, "ssh_allow_agent": False, "ssh_look_for_keys": False}


def _refused(endpoint: Endpoint, error: Exception, cause: BaseException | None) -> UnreachableError:
    import paramiko

    if isinstance(cause, paramiko.AuthenticationException):
        # paramiko's words are all that tells these from a refusal.
        if "saw EOF" in str(cause) or "timeout" in str(cause):
            return UnreachableError(
                f"{endpoint.name}: {endpoint.where}: the login broke off: {cause}",
                hint="is the machine, or its SSH server, going down or hanging?",
            )
        key = f"the key {endpoint.key}" if endpoint.key else "any key of the SSH agent or ~/.ssh"
        return UnreachableError(
            f"{endpoint.name}: {endpoint.where} does not accept {key}",
            hint=f"put the public key into ~{endpoint.user}/.ssh/authorized_keys there, "
            "or correct `ssh` in the inventory",
        )
    return UnreachableError(
        f"{endpoint.name}: {endpoint.where}: {error}", hint="check `ssh` in the inventory"
    )


def _other_key_types(pinned: Sequence[HostKey]) -> list[str]:
    """Return the host key algorithms not to negotiate: a machine has several keys, we pinned some."""
    wanted = {key.kind for key in pinned}
    if "ssh-rsa" in wanted:
        wanted |= set(RSA)
    return [kind for kind in ALGORITHMS if kind not in wanted]


def _forget_known_hosts() -> None:
    """pyinfra remembers a known_hosts file for the life of the process; ours may have got new keys since."""
    from pyinfra.connectors.sshuserclient import client

    cache = getattr(client.get_host_keys, "cache", None)
    if cache is not None:
        cache.clear()
