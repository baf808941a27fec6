"""The bridge of this node's pods: when it was deleted CNI makes another for the next pod, and joins no older pod to it.

What joining takes stands in the results that CNI keeps of each pod, so nothing is guessed: only links named there are
touched, and only those that have no bridge. A pod that is just being made has no result yet; one that goes, no link.
"""

import contextlib
import json
import os
from typing import Callable, Iterator, List, Tuple

from freehold_agent.desired.network import BRIDGE, CNI_NETWORK
from freehold_agent.machine.programs import run

KEY = "bridge:" + BRIDGE
RESULTS = "/var/lib/cni/results"
LINKS = "/sys/class/net/"
POD_LINK = "veth"
"""How the names of the machine's ends of pods begin."""

_Bridge = Tuple[str, List[str]]
"""Hardware address, and own addresses with prefix lengths."""


def join_pods_again(run: Callable[..., str] = run, root: str = "") -> List[str]:
    """Give links of pods that have lost their bridge one again; return their names. Raises ProgramFailed."""
    links = [name for name in _names(root + LINKS) if name.startswith(POD_LINK)]
    free = {link for link in links if not os.path.lexists(root + LINKS + link + "/master")}
    # Mostly there is none, and nothing has to be read.
    lost = {link: bridge for link, bridge in _results(root) if link in free} if free else {}
    if not lost:
        return []
    address, gateways = next(iter(lost.values()))
    if not os.path.exists(root + LINKS + BRIDGE):
        # Its old hardware address: pods go on using that for a while.
        run(["ip", "link", "add", BRIDGE, "address", address, "type", "bridge"], timeout=15)
    for gateway in gateways:
        run(["ip", "address", "replace", gateway, "dev", BRIDGE], timeout=15)
    for link in lost:
        run(["ip", "link", "set", link, "master", BRIDGE], timeout=15)
        run(["ip", "link", "set", link, "type", "bridge_slave", "hairpin", "on"], timeout=15)
    run(["ip", "link", "set", BRIDGE, "up"], timeout=15)
    return list(lost)


def _results(root: str) -> Iterator[Tuple[str, _Bridge]]:
    """Yield the machine's link of each pod, with the bridge that it was made for."""
    for name in _names(root + RESULTS):
        # Of another network: none of ours. Half written: whole in a minute.
        if name.startswith(CNI_NETWORK + "-"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                with open(root + RESULTS + "/" + name, encoding="utf-8") as stream:
                    result = json.load(stream)["result"]
                bridge, link, _inside = result["interfaces"]
                gateways = [ip["gateway"] + "/" + ip["address"].partition("/")[2] for ip in result["ips"]]
                yield link["name"], (bridge["mac"], gateways)


def _names(path: str) -> List[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
