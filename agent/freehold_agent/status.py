"""How this node stands, for a person or a program that asks on the machine itself. Read only."""

import time
from typing import Any, Dict

from freehold_agent.certificate import read_certificate
from freehold_agent.contract import paths
from freehold_agent.health import RENEW
from freehold_agent.keep import STATUS, read_document
from freehold_agent.machine import files
from freehold_agent.machine.systemd import Systemd

UNITS = ("containerd", "freehold-images", "kubelet", "flannel", "kube-proxy", "freehold-agent")


def gather_status() -> Dict[str, Any]:
    """Return name, release, agent's last outcome, certificate and units as JSON values.

    Raises NotJoinedError on a machine that is no node, DocumentError, OSError.
    """
    document = read_document()
    units = Systemd().show([name + ".service" for name in UNITS], ("ActiveState", "LoadState"))
    return {
        "node": document.node,
        "cluster": document.cluster,
        "addresses": list(document.addresses),
        "generation": document.generation,
        "release": document.manifest.release,
        "agent": files.read_json(STATUS),
        "certificate": _certificate(),
        "units": {
            name.rpartition(".")[0]: state.get("ActiveState", "unknown")
            for name, state in units.items()
            if state.get("LoadState") != "not-found"
        },
    }


def as_text(status: Dict[str, Any]) -> str:
    """Return the status as lines for a person."""
    agent, certificate = status["agent"] or {}, status["certificate"]
    lines = [
        "node         {node} ({addresses}) of cluster {cluster}".format(
            **{**status, "addresses": ", ".join(status["addresses"])}
        ),
        "release      {release}, document generation {generation}".format(**status),
        "state        {}".format(_state(agent)),
        "certificate  {}".format(_validity(certificate["not_after"]) if certificate else "none"),
    ]
    lines += ["{:<12} {}".format(name, state) for name, state in status["units"].items()]
    return "\n".join(lines)


def _state(agent: Dict[str, Any]) -> str:
    if not agent:
        return "unknown: the agent has not looked since the machine started"
    since = " since " + _moment(agent["since"])
    return str(agent["state"]) + since + (": " + agent["message"] if agent.get("message") else "")


def _certificate() -> "Dict[str, float]":
    try:
        with open(paths.KUBELET_CLIENT_CERTIFICATE, "rb") as stream:
            facts = read_certificate(stream.read())
    except (OSError, ValueError):
        return {}
    return {"not_before": facts.not_before, "not_after": facts.not_after}


def _validity(not_after: float) -> str:
    if not_after > time.time():
        return "valid until " + _moment(not_after)
    return "expired at {}; a new one, with a token of freehold node rejoin: {}".format(
        _moment(not_after), RENEW
    )


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
