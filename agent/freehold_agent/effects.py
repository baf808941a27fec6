"""What programs of ours make outside of files, and never look at again: rules, links, a socket, imported images.

kube-proxy writes its rules anew only once an hour while it believes in them, flannel only when it starts, and
containerd never makes its socket again. What is gone comes back by another start of the unit that made it.

A thing is gone when this very run of the unit had it before. What a run never had is waited for: a kube-proxy that has
not found the API server yet has no rules, and another start would not help it.

Rules are counted: those of chains that stay the same in one run of a unit. Chains of a single Service and the elements
of maps come and go with Services; whether they are right only kube-proxy knows.
"""

import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Sequence, Set

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.desired import containerd, kube_proxy, network
from freehold_agent.glance import invocation, routes
from freehold_agent.machine import netfilter
from freehold_agent.machine.programs import ProgramFailed, run

PATIENCE = 30.0
"""Seconds until a run that never had what it should have is started anew; doubled each time it does not help."""
SOON = 10.0
"""Seconds for units that do it before systemd calls them up: they may be on their way."""
LONGEST_PATIENCE = 900.0
CONFIRMED_AFTER = 0.5
"""Seconds until what seems gone is looked for again: flannel adds a neighbour a moment before its route."""
METADATA = paths.CONTAINERD_STATE + "/io.containerd.metadata.v1.bolt/meta.db"
"""containerd's list of images and much else: as long as it does not change, no image went."""
KUBE_PROXY_TABLES = ("kube-proxy",)
FLANNEL_TABLES = ("flannel-ipv4", "flannel-ipv6")
OF_A_SERVICE = "/"
"""In the name of each chain that kube-proxy makes for a Service or an endpoint, and of no other."""
FLANNEL_LINKS = ("flannel.1", "flannel-v6.1")
PERMANENT = 0x4
"""Flag in /proc/net/arp of an entry that a program made: flannel's, of each other node."""


@dataclass(frozen=True)
class Host:
    """What is asked of the machine; tests put their own in its place."""

    generation: Callable[[], Optional[int]] = netfilter.generation
    chains: Callable[[Callable[[str], bool]], netfilter.Chains] = netfilter.chains
    rules: Callable[[str, str, str], int] = netfilter.rules
    run: Callable[..., str] = run
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    root: str = ""


@dataclass
class _Run:
    """One unit, as far as it was followed."""

    invocation: str = ""
    since: float = 0.0
    patience: float = PATIENCE
    had: Set[str] = field(default_factory=set)


class Effects:
    """Follows the effects of one node's units; `lost` is cheap while nothing changes."""

    def __init__(self, document: JoinDocument, host: Optional[Host] = None) -> None:
        self._host = host or Host()
        self._rules: FrozenSet[str] = frozenset()
        self._generation: Optional[int] = None
        self._images: FrozenSet[str] = frozenset()
        self._metadata: Any = None
        self._runs: Dict[str, _Run] = {}
        self._required = required(document)

    def follow(self, document: JoinDocument) -> None:
        """Go on with a newer document."""
        self._required = required(document)

    def lost(self) -> Dict[str, List[str]]:
        """Return the units to be started anew, each with what is gone. Never raises OSError."""
        found: Dict[str, List[str]] = {}
        now = self._host.now()
        for unit, wanted in self._required.items():
            this_run = invocation(unit, self._host.root)
            if not this_run:
                continue
            followed = self._runs.setdefault(unit, _Run(patience=_patience(unit)))
            if followed.invocation != this_run:
                self._runs[unit] = followed = _Run(this_run, now, followed.patience)
            present = self._present(unit, wanted)
            if present is None or invocation(unit, self._host.root) != this_run:
                continue
            gone = followed.had - present
            if wanted <= present:
                followed.patience = _patience(unit)
            elif now - followed.since >= followed.patience:
                gone |= wanted - present
                followed.since = now
                followed.patience = min(LONGEST_PATIENCE, max(PATIENCE, 2 * followed.patience))
            followed.had = (followed.had | present) - gone
            if gone and self._confirmed(unit, wanted, gone, this_run):
                # A table stands for all its rules.
                found[unit] = sorted(one for one in gone if one.partition(_CHAIN)[0] not in gone - {one})
        return found

    def _confirmed(self, unit: str, wanted: FrozenSet[str], gone: Set[str], this_run: str) -> bool:
        self._host.sleep(CONFIRMED_AFTER)
        present = self._present(unit, wanted)
        if present is None or invocation(unit, self._host.root) != this_run:
            return False
        gone -= present
        self._runs[unit].had |= present
        return bool(gone)

    def _present(self, unit: str, wanted: FrozenSet[str]) -> Optional[Set[str]]:
        """Return what the unit made that is there, None where that cannot be said now."""
        if unit == CONTAINERD:
            return {_SOCKET} if _is_socket(self._host.root + paths.CONTAINERD_SOCKET) else set()
        if unit in IMPORTS:
            images = self._imported()
            return None if images is None else {name for name in wanted if name[len(_IMAGE) :] in images}
        rules = self._tables()
        if rules is None:
            return None
        tables = KUBE_PROXY_TABLES if unit == KUBE_PROXY else FLANNEL_TABLES
        made = {name for name in rules if name.partition(_CHAIN)[0].endswith(tables)}
        return made if unit == KUBE_PROXY else made | self._links()

    def _tables(self) -> Optional[FrozenSet[str]]:
        """Return our programs' tables and their rules, one by one, asked again only when any rules have changed."""
        generation = self._host.generation()
        if generation is None:
            return None
        if generation != self._generation:
            try:
                self._rules = frozenset(self._asked())
            except OSError:
                return None
            self._generation = generation
        return self._rules

    def _asked(self) -> Iterator[str]:
        for (family, table), chains in self._host.chains(lambda name: OF_A_SERVICE not in name).items():
            base = [count for count in chains.values() if count is not None]
            # A table with a base chain that was flushed is as good as gone.
            if table not in KUBE_PROXY_TABLES + FLANNEL_TABLES or not (base and all(base)):
                continue
            name = "table {} {}".format(family, table)
            yield name
            for chain, count in chains.items():
                rules = count if count is not None else self._host.rules(family, table, chain)
                yield from (_RULE.format(name, _CHAIN, chain, number) for number in range(1, rules + 1))

    def _links(self) -> Set[str]:
        """Return flannel's links, and whether each node it knows behind one still has its route."""
        root = self._host.root
        links = {"link " + name for name in FLANNEL_LINKS if os.path.exists(root + "/sys/class/net/" + name)}
        if links:
            gateways = {(device, gateway) for (_network, device), gateway in routes(root).items()}
            if all(neighbour in gateways for neighbour in _neighbours(root)):
                links.add("routes to other nodes")
        return links

    def _imported(self) -> Optional[FrozenSet[str]]:
        """Return the names of containerd's images, asked again only when its list has changed."""
        try:
            state = os.stat(self._host.root + METADATA)
            seen = (state.st_ino, state.st_mtime_ns, state.st_size)
            if seen != self._metadata:
                ctr = [paths.BIN + "/ctr", "--address", paths.CONTAINERD_SOCKET, "--namespace", "k8s.io"]
                self._images = frozenset(
                    self._host.run([*ctr, "images", "list", "--quiet"], timeout=10).split()
                )
                self._metadata = seen
        except (OSError, ProgramFailed):
            return None
        return self._images


CONTAINERD = containerd.UNIT + ".service"
KUBE_PROXY = kube_proxy.UNIT + ".service"
FLANNEL = network.UNIT + ".service"
IMPORTS = (containerd.IMAGES_UNIT + ".service", containerd.ADDON_IMAGES_UNIT + ".service")
AT_ONCE = (CONTAINERD, *IMPORTS)
"""Once systemd calls them up they have done it; nobody else is to be waited for."""
_IMAGE = "image "
_CHAIN = " chain "
_RULE = "{}{}{} rule {}"
_SOCKET = "socket " + paths.CONTAINERD_SOCKET


def required(document: JoinDocument) -> Dict[str, FrozenSet[str]]:
    """Return what each unit must have made, by the words that `lost` uses."""
    six = ":" in document.addresses[0]
    entries = [entry for entry in document.manifest.for_roles("node") if entry.name.startswith("images/")]
    images: Sequence[Set[str]] = (
        {entry.image for entry in entries if entry.image and not containerd.is_addon_image(entry)},
        {entry.image for entry in entries if entry.image and containerd.is_addon_image(entry)},
    )
    found = {CONTAINERD: frozenset([_SOCKET])}
    if document.network.kube_proxy:
        found[KUBE_PROXY] = frozenset(["table {} kube-proxy".format("ip6" if six else "ip")])
    if document.network.flannel:
        table = "table ip6 flannel-ipv6" if six else "table ip flannel-ipv4"
        found[FLANNEL] = frozenset([table])
    for unit, names in zip(IMPORTS, images):
        if names:
            found[unit] = frozenset(_IMAGE + name for name in names)
    return found


def _patience(unit: str) -> float:
    return SOON if unit in AT_ONCE else PATIENCE


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _neighbours(root: str) -> Set[Any]:
    """Return (device, address) of what flannel made known of other nodes; IPv4 only, as /proc/net/arp is."""
    found = set()
    try:
        with open(root + "/proc/net/arp", encoding="ascii") as stream:
            for line in stream.readlines()[1:]:
                fields = line.split()
                if fields[5] in FLANNEL_LINKS and int(fields[2], 16) & PERMANENT:
                    found.add((fields[5], fields[0]))
    except (OSError, ValueError, IndexError):
        return set()
    return found
