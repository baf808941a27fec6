"""The controller's configuration file: JSON written by the installer, with paths of credentials."""

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple

from freehold_controller.dns_clients import DnsClientList
from freehold_controller.dns_endpoints import DnsServer
from freehold_controller.leader import Timings


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key."""


@dataclass(frozen=True)
class ControllerConfig:
    server: str
    """API server, `https://host:port`."""
    ca: str
    """Path of the cluster CA."""
    certificate: str
    """Path of the client certificate."""
    key: str
    """Path of its key."""
    identity: str
    """Holder of the lease: the machine's name in the inventory."""
    dns: Tuple[DnsServer, ...] = ()
    """Empty: CoreDNS is not ours, and neither are its endpoints."""
    dns_metrics: bool = False
    """Publish CoreDNS' port for metrics too."""
    dns_clients: Optional[DnsClientList] = None
    """None: no CoreDNS of ours runs on this machine."""
    single: bool = False
    """There is one control plane: a lease of any holder is taken at once."""
    volumes: bool = False
    """Provision local volumes."""
    timings: Timings = field(default_factory=Timings)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ControllerConfig":
        """Return the configuration.

        Keys: `server`, `ca`, `certificate`, `key`, `identity`; optional `dns` (list of `node`, `address`,
        `ready_url`), `dns_metrics`, `dns_clients` (`path`, `networks`), `single`, `volumes`, `leader_election`
        (`lease`, `renew`, `retry`, in seconds). Raises ConfigError.
        """
        try:
            election = data.get("leader_election") or {}
            timings = Timings(**{name: float(value) for name, value in election.items()})
            if not 0 < timings.retry < timings.renew < timings.lease:
                raise ConfigError("leader_election: it must be 0 < retry < renew < lease")
            clients = data.get("dns_clients")
            return cls(
                server=str(data["server"]),
                ca=str(data["ca"]),
                certificate=str(data["certificate"]),
                key=str(data["key"]),
                identity=str(data["identity"]),
                dns=tuple(
                    DnsServer(str(entry["node"]), str(entry["address"]), str(entry["ready_url"]))
                    for entry in data.get("dns") or ()
                ),
                dns_metrics=bool(data.get("dns_metrics", False)),
                dns_clients=(
                    DnsClientList(str(clients["path"]), tuple(clients["networks"])) if clients else None
                ),
                single=bool(data.get("single", False)),
                volumes=bool(data.get("volumes", False)),
                timings=timings,
            )
        except KeyError as error:
            raise ConfigError("{} is missing".format(error)) from error
        except TypeError as error:
            raise ConfigError(str(error)) from error
