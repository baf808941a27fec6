"""Chains of kube-proxy, flannel and portmap in iptables: on machines too old for their nftables modes.

A fixed list of names; rules and chains of anybody else stay as they are.
"""

import re
from typing import Callable, Dict, List, Sequence

from freehold_agent.errors import StepFailed
from freehold_agent.machine.programs import ProgramFailed, run

OURS = re.compile(r"^(KUBE-|FLANNEL-|CNI-HOSTPORT-|CNI-DN-|CNI-SN-)")
FAMILIES = ("iptables", "ip6tables")
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')


def remove_chains(runner: Callable[..., str] = run, families: Sequence[str] = FAMILIES) -> List[str]:
    """Remove our chains and what jumps to them; return their names. Raises StepFailed."""
    removed: List[str] = []
    for family in families:
        try:
            saved = runner([family + "-save"], timeout=30)
        except ProgramFailed:
            continue  # no such program, or nothing that it could list
        chains = chains_of(saved)
        if not chains:
            continue
        try:
            runner([family + "-restore", "--noflush", "--wait=10"], timeout=60, stdin=script(saved).encode())
        except ProgramFailed as error:
            raise StepFailed("table:" + family, "{}-restore: {}".format(family, error.output)) from error
        removed += ["{} {}".format(family, chain) for chain in chains]
    return removed


def chains_of(saved: str) -> List[str]:
    """Return our chains in the output of `iptables-save`, each once."""
    names = (line[1:].split()[0] for line in saved.splitlines() if line.startswith(":"))
    return list(dict.fromkeys(name for name in names if OURS.match(name)))


def script(saved: str) -> str:
    """Return what `iptables-restore --noflush` needs to take our chains out of a saved state."""
    tables: Dict[str, List[str]] = {}
    flushed: Dict[str, List[str]] = {}
    deleted: Dict[str, List[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            tables.setdefault(table, [])
        elif line.startswith(":") and OURS.match(line[1:]):
            name = line[1:].split()[0]
            # To name a chain empties it.
            flushed.setdefault(table, []).append(":{} - [0:0]".format(name))
            deleted.setdefault(table, []).append("-X {}".format(name))
        elif line.startswith("-A ") and _jumps_to_ours(line):
            tables[table].append("-D " + line[len("-A ") :])
    return "".join(
        "\n".join(["*" + name, *flushed.get(name, ()), *rules, *deleted.get(name, ()), "COMMIT"]) + "\n"
        for name, rules in tables.items()
        if flushed.get(name)
    )


def _jumps_to_ours(rule: str) -> bool:
    """Say whether a rule of somebody else's chain leads to one of ours."""
    words = _WORD.findall(rule)
    targets = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-j", "-g", "--jump", "--goto")]
    return not OURS.match(words[1]) and any(OURS.match(target) for target in targets)
