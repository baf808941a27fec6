"""Connections to an API server that is not ready wait instead of being refused (docs/adr/0014).

A packet filter table drops attempts to connect while the API server starts or stops; whoever connects tries again
after a second (RFC 6298), on its own, below every client's own back-off. The entry that closes the gate ends by
itself after `CLOSED` seconds, so that nothing can leave it closed.
"""

from freehold_agent.contract import paths
from freehold_agent.contract.resources import File
from freehold_agent.contract.unit_file import Settings

RULES = paths.KUBERNETES + "/api-gate.nft"
CLOSED = 30
"""Seconds after which the gate opens by itself: a start takes 3 to 5, on slow machines 20."""
NFT = "/usr/sbin/nft"
TABLE = "inet freehold"


def rules() -> File:
    """Return the rules; loading them closes the gate, whatever was there before."""
    text = f"""\
# Written by freehold; loaded when kube-apiserver starts and stops. `nft list table {TABLE}` shows whether it is closed.
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
    set closed {{
        type inet_service
        flags timeout
    }}
    chain api-gate {{
        type filter hook input priority filter - 10; policy accept;
        # The API server talks to itself before it is ready, and whoever waits for it asks here.
        ip saddr 127.0.0.0/8 accept
        ip6 saddr ::1 accept
        tcp dport @closed tcp flags & (syn | ack) == syn drop
    }}
}}
add element {TABLE} closed {{ {paths.API_PORT} timeout {CLOSED}s }}
"""
    return File(RULES, text.encode())


def closing() -> Settings:
    """Return the settings of the API server's unit that close the gate.

    Before it is told to stop, after it ended in any other way, and before it starts. A machine that cannot do this
    (too old for nftables) goes on without.
    """
    close = f"-{NFT} -f {RULES}"
    return {"ExecStartPre": close, "ExecStop": close, "ExecStopPost": close}


def opening() -> Settings:
    """Return the settings of the unit that becomes active when the API is ready."""
    return {"ExecStartPost": f"-{NFT} flush set {TABLE} closed"}
