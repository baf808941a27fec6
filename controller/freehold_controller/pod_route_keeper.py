"""Keep the routes to pods on a control plane that is no node: Nodes are watched, and so is the kernel.

A route that somebody removes is back at once, because the kernel tells of it. When the service stops the routes
stay: pods are reached while it restarts; reset removes them by their protocol number. Knows no more of a Node than
`pod_routes` asks.
"""

import signal
import socket
from threading import Event, Thread
from typing import Any, Callable, Mapping, Sequence

from freehold_agent.contract.paths import ROUTE_PROTOCOL
from freehold_agent.contract.resources import Route, difference
from freehold_agent.machine import systemd
from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_agent.machine.programs import ProgramFailed, run
from freehold_bootstrap import journal
from freehold_controller.backoff import Backoff
from freehold_controller.mirror import Mirror
from freehold_controller.pod_routes import Reach, commands, links_of, present_routes, wanted_routes

NODES = "/api/v1/nodes"
SIGN_OF_LIFE = 20.0
"""Seconds between two signs of life for systemd; the kernel is looked at then as well."""
_KERNEL_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink: links, addresses and routes of both families."""
_TOO_MANY = 105
"""ENOBUFS: more happened than the socket holds; a look at all of it makes up for that."""


class PodRoutes:
    """Looks when told to, and changes what differs."""

    def __init__(self, nodes: Mirror, pod_cidrs: Sequence[str], runner: Callable[..., str] = run) -> None:
        self._nodes = nodes
        self._pod_cidrs = tuple(pod_cidrs)
        self._run = runner
        self._links: Mapping[str, str] = {}
        self._last = Reach((), ())
        self._settled = False

    def step(self, *, kernel: bool) -> int:
        """Put right what differs; return how many changes. Without `kernel` only another wish leads to a look.

        Nothing is done before the Nodes are known. Raises ProgramFailed, ValueError for an `ip` that says nonsense.
        """
        if not self._nodes.synced:
            return 0
        if not kernel and self._settled and self._wish() == self._last:
            return 0
        self._settled = False
        self._links = links_of(self._run(["ip", "-json", "address"], timeout=15))
        reach = self._wish()
        for problem in set(reach.problems) - set(self._last.problems):
            journal.warning("no route to pods", node=problem)
        self._last = reach
        done = self._change(reach.routes)
        self._settled = True
        return done

    def _wish(self) -> Reach:
        return wanted_routes(self._nodes.items(), self._links, self._pod_cidrs)

    def _change(self, routes: Sequence[Route]) -> int:
        present = {}
        for family in sorted({6 if ":" in cidr else 4 for cidr in self._pod_cidrs}):
            command = ["ip", "-{}".format(family), "-json", "route", "show", "proto", str(ROUTE_PROTOCOL)]
            present.update(present_routes(self._run(command, timeout=15), self._pod_cidrs))
        changes = difference(present, routes, list(present))
        for family, lines in commands(changes, routes).items():
            program = "".join(line + "\n" for line in lines).encode()
            # All that can be done is done, whatever one of them says.
            self._run(["ip", "-{}".format(family), "-force", "-batch", "-"], timeout=60, stdin=program)
        for change in changes:
            via = (change.after or {}).get("via", "")
            journal.info("route to pods", action=change.action, route=change.key, via=via)
        return len(changes)


def follow_kernel(changed: Callable[[], None], stop: Event) -> None:
    """Call `changed` whenever a link, an address or a route changes, until stopped. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.bind((0, _KERNEL_GROUPS))
        kernel.settimeout(1.0)
        while not stop.is_set():
            try:
                kernel.recv(1 << 16)
            except socket.timeout:
                continue
            except OSError as error:
                if error.errno != _TOO_MANY:
                    raise
            changed()


def serve(data: Mapping[str, Any]) -> None:
    """Keep the routes until SIGTERM.

    Keys: `server`, `ca`, `certificate`, `key`, `pod_cidrs`. Raises ValueError for a configuration that lacks one,
    OSError when the CA cannot be read or the kernel cannot be followed.
    """
    try:
        with open(data["ca"], encoding="ascii") as stream:
            ca_pem = stream.read()
        api = KubernetesApi(
            data["server"], ca_pem=ca_pem, client_certificate=data["certificate"], client_key=data["key"]
        )
        pod_cidrs = [str(cidr) for cidr in data["pod_cidrs"]]
    except KeyError as error:
        raise ValueError("{} is missing".format(error)) from error
    stop, wake, kernel_changed = Event(), Event(), Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()
        wake.set()

    def look_at_kernel() -> None:
        kernel_changed.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    nodes = Mirror(api, NODES, wake.set)
    threads = [
        Thread(target=nodes.run, args=(stop,), name="nodes", daemon=True),
        Thread(target=follow_kernel, args=(look_at_kernel, stop), name="kernel", daemon=True),
    ]
    for thread in threads:
        thread.start()
    systemd.notify("READY=1")
    keep(PodRoutes(nodes, pod_cidrs), stop, wake, kernel_changed, threads)
    systemd.notify("STOPPING=1")


def keep(
    routes: PodRoutes, stop: Event, wake: Event, kernel_changed: Event, threads: Sequence[Thread] = ()
) -> None:
    """Look whenever woken, and now and then, until stopped. Raises OSError when one of `threads` has died."""
    backoff = Backoff(stop, first=1.0, longest=SIGN_OF_LIFE)
    kernel = True
    while not stop.is_set():
        if not all(thread.is_alive() for thread in threads):
            raise OSError("Nodes or kernel are not followed any more")
        systemd.notify("WATCHDOG=1")
        try:
            routes.step(kernel=kernel)
            backoff.reset()
        except (ProgramFailed, ValueError) as error:
            journal.error("routes to pods not set", error=str(error))
            backoff.pause()
            wake.set()
        kernel = not wake.wait(SIGN_OF_LIFE) or kernel_changed.is_set()
        wake.clear()
        kernel_changed.clear()
