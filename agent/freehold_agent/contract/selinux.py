"""SELinux: which labels our programs need where it is on, as steps of the units that start them.

The policy of the distribution's package container-selinux knows its own places (/var/lib/containerd, /var/lib/kubelet)
and not ours: what lies in the store would be data (usr_t), and containerd would run outside its domain, with containers
that no policy holds. Each unit labels its own programs right before it starts them, so that neither a file delivered
anew nor a relabelling of the machine leaves them without. Seen on no real machine yet (docs/adr/0016).
"""

from typing import Any, Dict, List, Mapping, Sequence

from freehold_agent.contract import paths

PROGRAM = "bin_t"
RUNTIME = "container_runtime_exec_t"
"""What makes containerd run as container_runtime_t, and its containers as container_t."""


def labelled(facts: Mapping[str, Any]) -> bool:
    """Say whether labels matter on this machine: SELinux is on (permissive too), and its policy knows containers."""
    return facts.get("selinux") in ("enforcing", "permissive") and bool(facts.get("container_selinux"))


def settings(
    facts: Mapping[str, Any], programs: Mapping[str, Sequence[str]], restored: Sequence[str] = ()
) -> Dict[str, List[str]]:
    """Return the unit settings that label before the start; none where SELinux is off.

    `programs`: label -> names below the release (`bin/kubelet`). `restored`: directories that the policy knows.
    """
    if not labelled(facts):
        return {}
    # `+`: as root, whatever user and restrictions the unit has. chcon follows our links into the store.
    steps = [
        "+/usr/bin/chcon -t {} {}".format(label, " ".join(paths.CURRENT + "/" + name for name in names))
        for label, names in programs.items()
        if names
    ]
    # Not recursive: what containerd unpacked carries the labels of its containers.
    steps += ["+/usr/sbin/restorecon " + " ".join(restored)] if restored else []
    return {"ExecStartPre": steps}
