"""What a look at resources does not see, in words that name the command that helps: a certificate that has expired or
does not renew, a program that keeps dying. Changes nothing.
"""

from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping

from freehold_agent.certificate import CertificateFacts, read_certificate
from freehold_agent.contract import moments, paths
from freehold_agent.machine.programs import ProgramFailed
from freehold_agent.machine.systemd import Systemd, SystemdError

RENEW = "python3 " + paths.AGENT_ZIPAPP + " renew"
LATE = 0.08
"""Share of a certificate's life: with less of it left the kubelet, which renews with 10 to 30 % left, has failed to."""
UNITS = tuple(name + ".service" for name in ("containerd", "kubelet", "flannel", "kube-proxy"))
DEATHS, WINDOW, QUIET = 3, 60.0, 30.0
"""So many restarts that nobody asked for, in so many seconds, are no accident; without another for so many it lives.
In time, not in looks: glances call for many looks while something dies."""


def certificate_trouble(node: str, certificate: CertificateFacts, now: float) -> str:
    """Say what is wrong with the kubelet's client certificate at `now` (seconds since the epoch), empty: nothing."""
    whole = certificate.not_after - certificate.not_before
    if now < certificate.not_after - LATE * whole:
        return ""
    if now < certificate.not_after:
        return (
            "the certificate of node {} expires at {} and the kubelet has not renewed it: journalctl -u kubelet "
            "says why; once it has expired this machine needs a token (freehold node rejoin {}, then here: {})"
        ).format(node, moments.shown(certificate.not_after), node, RENEW)
    return (
        "the certificate of node {} expired at {} and the cluster refuses it; for a token, on the operator's "
        "machine: freehold node rejoin {}; then here: {}"
    ).format(node, moments.shown(certificate.not_after), node, RENEW)


@dataclass
class _Deaths:
    restarts: int = 0
    moments: List[float] = field(default_factory=list)
    """When the latest were seen, at most DEATHS of them."""
    dying: bool = False

    def count(self, restarts: int, now: float) -> None:
        """Note how often it was restarted by `now`; judge whether it is dying."""
        # A start that was asked for, ours too, begins systemd's count anew.
        since = restarts - self.restarts if restarts >= self.restarts else restarts
        self.restarts = restarts
        self.moments = (self.moments + [now] * min(since, DEATHS))[-DEATHS:]
        ages = [now - moment for moment in self.moments if moment <= now]
        if len(ages) == DEATHS and max(ages) < WINDOW:
            self.dying = True
        elif not ages or min(ages) >= QUIET:
            self.dying = False


class Health:
    """Remembers from one look to the next how often programs were restarted."""

    def __init__(
        self, show: Callable[..., Mapping[str, Mapping[str, str]]] = Systemd().show, root: str = ""
    ) -> None:
        self._show = show
        self._root = root
        self._deaths: Dict[str, _Deaths] = {}

    def look(self, node: str, now: float) -> str:
        """Return what is wrong, in one line, empty: nothing that is known. Never raises."""
        troubles = [self._unread_or_late(node, now)]
        try:
            units = self._show(UNITS, ("NRestarts", "DropInPaths"))
        except (SystemdError, ProgramFailed, OSError):
            units = {}  # the look at resources says so
        troubles += [self._dying(name, state, now) for name, state in units.items()]
        return "; ".join(trouble for trouble in troubles if trouble)

    def _unread_or_late(self, node: str, now: float) -> str:
        try:
            with open(self._root + paths.KUBELET_CLIENT_CERTIFICATE, "rb") as stream:
                certificate = read_certificate(stream.read())
        except FileNotFoundError:
            return ""  # without one there is nothing to keep, and that is said elsewhere
        except (OSError, ValueError) as error:
            return (
                "the certificate of node {} cannot be read ({}); for a token, on the operator's machine: "
                "freehold node rejoin {}; then here: {}"
            ).format(node, error, node, RENEW)
        return certificate_trouble(node, certificate, now)

    def _dying(self, name: str, state: Mapping[str, str], now: float) -> str:
        count = state.get("NRestarts", "")
        restarts = int(count) if count.isdigit() else 0
        known = self._deaths.setdefault(name, _Deaths(restarts))
        known.count(restarts, now)
        if not known.dying:
            return ""
        unit = name.rpartition(".")[0]
        told = "{0} does not stay up: journalctl -u {0}".format(unit)
        if state.get("DropInPaths"):
            told += "; not only freehold's unit counts, but also " + ", ".join(state["DropInPaths"].split())
        return told
