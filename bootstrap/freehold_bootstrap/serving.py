"""The life of a service around its listener: ready, signs of life, an orderly end."""

import signal
import threading
from typing import Any

from freehold_agent.machine import systemd
from freehold_bootstrap import journal
from freehold_bootstrap.listener import Listener

_BEAT_SECONDS = 15.0
"""A quarter of what the units' WatchdogSec allows."""


def run_until_told(listener: Listener, name: str) -> None:
    """Serve until SIGTERM or SIGINT; tell systemd when ready and, while we still accept, that we live."""
    stop = threading.Event()

    def told(_number: int, _frame: Any) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    acceptor = threading.Thread(target=listener.run, name="acceptor", daemon=True)
    acceptor.start()
    systemd.notify("READY=1")
    journal.info(name + " listens", port=listener.port)
    before = dict(listener.counters)
    while not stop.wait(_BEAT_SECONDS):
        if not acceptor.is_alive():
            raise OSError("{} accepts no connections any more".format(name))
        systemd.notify("WATCHDOG=1")
        now = dict(listener.counters)
        refused = {what: count for what, count in now.items() if count != before.get(what) and _notable(what)}
        if refused:
            journal.info(name + " so far", **refused)
        before = now
    systemd.notify("STOPPING=1")
    listener.stop()


def _notable(what: str) -> bool:
    return what.startswith(("refused", "evicted", "too slow", "faults", "accept failed"))
