"""The resident agent itself: its zipapp and its unit."""

from typing import Any, Dict, List, Mapping

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import AGENT_ENTRY, digests_of
from freehold_agent.contract.resources import Resource
from freehold_agent.contract.unit_file import service

UNIT = "freehold-agent"
OTHERS = ("containerd", "freehold-images", "kubelet", "flannel", "kube-proxy")
WATCHDOG = 90
"""Seconds without a sign of life until systemd restarts it; more during a look (`keep`)."""
LIGHT = ("-X", "no_debug_ranges")
"""Without the column of each instruction, for marks in tracebacks; Pythons that keep none do not mind."""


def agent_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return the unit; the zipapp comes with the release like any program."""
    python = facts.get("python_executable", "/usr/bin/python3")
    settings: Dict[str, Any] = {
        "Type": "notify",
        "WatchdogSec": str(WATCHDOG),
        # A hung one says in the journal where (SIGABRT, `keep.run`); what does not die of that is killed.
        "TimeoutAbortSec": "10",
        "LimitCORE": "0",
        # glibc: one heap for all threads; its end, and large blocks (those of a fetch), go back when they are free.
        "Environment": "MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=131072 "
        "MALLOC_TRIM_THRESHOLD_=16384 MALLOC_TOP_PAD_=16384",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        # Of the agent only: what it restarts are services of their own.
        "KillMode": "mixed",
        "RuntimeDirectory": "freehold",
        "RuntimeDirectoryPreserve": "yes",
    }
    if facts.get("cap_sys_resource"):
        settings["OOMScoreAdjust"] = "-900"
    return service(
        UNIT,
        description="freehold agent: keeps this node as its document says",
        command=[python, "-I", *LIGHT, paths.AGENT_ZIPAPP, "run"],
        # The document is read again at each round: it is no input.
        inputs=[digests_of(document.manifest, AGENT_ENTRY)],
        slice_name=paths.NODE_SLICE,
        # At boot it looks once the others were started: units still on their way are nothing to repair.
        unit={"After": "network.target " + " ".join(name + ".service" for name in OTHERS)},
        service=settings,
    )
