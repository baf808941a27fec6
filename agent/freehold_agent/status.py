"""How this node stands, for a person or a program that asks on the machine itself. Read only, root or not."""

import time
from typing import Any, Callable, Dict, List, Mapping

from freehold_agent import standing
from freehold_agent.certificate import read_certificate
from freehold_agent.contract import moments, paths
from freehold_agent.errors import Unfit
from freehold_agent.health import RENEW
from freehold_agent.machine import files
from freehold_agent.machine.systemd import Systemd
from freehold_agent.repair import read_document

AGENT = "freehold-agent"
UNITS = ("containerd", "freehold-images", "kubelet", "flannel", "kube-proxy", AGENT)
CHANNEL = {
    standing.FOLLOWS: "follows {server} since {since}",
    standing.SILENT: "no control plane answers since {since} ({server} was asked last); this node goes on as it is",
    standing.REMOVED: "removed from the cluster, says {server} since {since}",
    standing.BEGINS: "waits for the first answer",
}


def gather_status(show: Callable[..., Dict[str, Any]] = Systemd().show, root: str = "") -> Dict[str, Any]:
    """Return identity, agent's last outcome, channel, certificate and units as JSON values; times in seconds since
    the epoch.

    What only root may read comes from what the agent says of itself. Raises NotJoinedError on a machine that is no
    node, Unfit when neither can be had, DocumentError, OSError.
    """
    told = _told(root)
    try:
        identity = standing.identity_of(read_document(root))
    except PermissionError:
        identity = told.pop("node", None) or {}
        if not identity:
            raise Unfit(
                "only root can read what this node is, as long as its agent has not looked", hint="sudo"
            ) from None
    told.pop("node", None)
    found = show([name + ".service" for name in UNITS], ("ActiveState", "LoadState", "StatusText"))
    units = {
        name.rpartition(".")[0]: state.get("ActiveState", "unknown")
        for name, state in found.items()
        if state.get("LoadState") != "not-found"
    }
    line: Dict[str, Any] = {}
    if units.get(AGENT) == "active":
        line = standing.parse(found[AGENT + ".service"].get("StatusText", ""))
    if line:
        told["looked"] = line["looked"]
    return {
        **identity,
        "agent": told or None,
        "channel": line.get("channel"),
        "certificate": _certificate(line, root),
        "units": units,
    }


def is_well(status: Mapping[str, Any]) -> bool:
    """Say whether the agent runs and its last look ended well."""
    agent = status["agent"] or {}
    return agent.get("state") not in ("failed", "removed") and status["units"].get(AGENT) == "active"


def as_text(status: Mapping[str, Any]) -> str:
    """Return the status as lines for a person."""
    certificate = status["certificate"]
    lines = [
        "node         {node} ({addresses}) of cluster {cluster}".format(
            **{**status, "addresses": ", ".join(status["addresses"])}
        ),
        "release      {release}, document generation {generation}".format(**status),
        *_agent(status["agent"] or {}, status["units"].get(AGENT, "not installed")),
        "channel      {}".format(_channel(status["channel"])),
        "certificate  {}".format(
            _validity(certificate["not_after"]) if certificate else "none that can be read"
        ),
    ]
    lines += ["drift        " + one for one in (status["agent"] or {}).get("drift") or ()]
    lines += ["{:<12} {}".format(name, state) for name, state in status["units"].items()]
    return "\n".join(lines)


def _agent(agent: Mapping[str, Any], unit: str) -> List[str]:
    lines = []
    if unit != "active":
        lines.append("state        the agent does not run ({}): nothing is put back".format(unit))
    if agent:
        state = "{}{} since {}".format(
            "" if unit == "active" else "was ", agent["state"], moments.shown(agent["since"])
        )
        lines.append("state        " + state + (": " + agent["message"] if agent.get("message") else ""))
    elif not lines:
        lines.append("state        unknown: the agent has not looked since the machine started")
    if "looked" in agent:
        lines.append("last look    " + moments.shown(agent["looked"]))
    if agent.get("repaired"):
        when = " at " + moments.shown(agent["repaired_at"]) if "repaired_at" in agent else ""
        lines.append("put back     {}{}".format(", ".join(agent["repaired"]), when))
    return lines


def _channel(channel: Any) -> str:
    if not channel:
        return "unknown: the agent has said nothing of it yet"
    form: str = CHANNEL.get(channel["state"], channel["state"])
    return form.format(server=channel["server"], since=moments.shown(channel["since"]))


def _told(root: str) -> Dict[str, Any]:
    try:
        told = files.read_json(root + standing.FILE)
    except (OSError, ValueError):
        return {}
    return dict(told) if isinstance(told, dict) else {}


def _certificate(line: Mapping[str, Any], root: str) -> Dict[str, float]:
    try:
        with open(root + paths.KUBELET_CLIENT_CERTIFICATE, "rb") as stream:
            facts = read_certificate(stream.read())
    except (OSError, ValueError):
        until = line.get("certificate_until")
        return {"not_after": until} if until else {}
    return {"not_before": facts.not_before, "not_after": facts.not_after}


def _validity(not_after: float) -> str:
    if not_after > time.time():
        return "valid until " + moments.shown(not_after)
    return "expired at {}; a new one, with a token of freehold node rejoin: {}".format(
        moments.shown(not_after), RENEW
    )
