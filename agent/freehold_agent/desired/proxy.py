"""A web proxy that the machine's owner uses: for pulling images, never for talking to the cluster.

What was set when the machine joined is a fact; the list of what must not go through it follows from the document.
"""

import json
from typing import Any, Dict, List, Mapping
from urllib.parse import urlsplit

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.resources import File, Resource

ENVIRONMENT = paths.ETC + "/proxy.env"
LOCAL = ("localhost", "127.0.0.0/8", "::1")


def proxy_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return the proxy and the environment of containerd and kubelet; nothing on a machine without one."""
    proxy = facts.get("proxy") or {}
    if not proxy:
        return []
    values = {
        "HTTP_PROXY": proxy.get("http", ""),
        "HTTPS_PROXY": proxy.get("https", ""),
        "NO_PROXY": no_proxy(document, proxy.get("no", "")),
    }
    lines = ["# Written by freehold; changes are put back."]
    lines += ["{}={}".format(name, _quoted(value)) for name, value in values.items() if value]
    known = (json.dumps(dict(proxy), indent=1, sort_keys=True) + "\n").encode()
    # A proxy's address may hold a password.
    return [
        File(paths.PROXY, known, mode=0o600, secret=True),
        File(ENVIRONMENT, ("\n".join(lines) + "\n").encode(), mode=0o600, secret=True),
    ]


def settings(facts: Mapping[str, Any]) -> Dict[str, str]:
    """Return what the unit of a program that may use the proxy says of it."""
    return {"EnvironmentFile": ENVIRONMENT} if facts.get("proxy") else {}


def reads(facts: Mapping[str, Any]) -> List[str]:
    """Return the file that such a program reads at its start."""
    return [ENVIRONMENT] if facts.get("proxy") else []


def no_proxy(document: JoinDocument, given: str) -> str:
    """Return what is reached directly: what the owner says, this machine, the cluster's networks and servers."""
    network = document.network
    servers = (*document.endpoints, *document.artifact_endpoints, *document.join_endpoints)
    entries = [
        *(entry.strip() for entry in given.split(",") if entry.strip()),
        *LOCAL,
        *document.addresses,
        *(urlsplit(server).hostname or "" for server in servers),
        *network.pod_cidrs,
        *network.service_cidrs,
        ".svc",
        "." + network.domain,
    ]
    return ",".join(dict.fromkeys(entry for entry in entries if entry))


def _quoted(value: str) -> str:
    """Return a value as systemd reads it from an environment file."""
    escaped = "".join("\\" + letter if letter in '"\\$`' else letter for letter in value)
    return '"' + escaped + '"'
