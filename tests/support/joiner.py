"""A machine that joins a control plane on loopback by itself, with the agent's own `join-node`."""

import threading
import time
from pathlib import Path
from typing import Any, Optional

from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.joining_machine import JoiningMachine
from tests.support.pretend_machine import Machine, next_key

from freehold_agent.channel import Channel
from freehold_agent.contract import paths
from freehold_agent.document import read_document
from freehold_agent.join_client import PATIENCE, Refused
from freehold_agent.join_node import Wish


class Joiner:
    """A machine with a token: real requests and files, and a kubelet that only asks for its certificate."""

    def __init__(self, plane: ControlPlane, root: Path, **invitation: Any) -> None:
        self.plane = plane
        self.known = Machine.invited(plane, **invitation)
        self.machine = JoiningMachine(root, self._certificate, lambda _certificate: self.known.goes_live())
        interface = {"name": "eth1", "mtu": 1500, "addresses": [f"{self.known.address}/16"]}
        self.machine.facts["interfaces"] = [*self.machine.facts["interfaces"], interface]
        self.machine.sleep, self.machine.patience = time.sleep, PATIENCE
        self.wish = Wish(plane.settings.join_endpoints, plane.pki.ca_pem(), self.known.node)
        self.certificate = root / paths.KUBELET_CLIENT_CERTIFICATE[1:]

    def _certificate(self) -> bytes:
        """Do what a kubelet does with the bootstrap kubeconfig."""
        self.known.bootstrap = self.machine.bootstrap_seen[-1]
        self.plane.secrets.append(self.known.bootstrap.split(".")[1])
        key = next_key()
        return Path(self.known.certified(self.known.first_request(key), key)).read_bytes()

    def join(self, token: Optional[str] = None) -> None:
        for _ in self.plane.attempts():
            try:
                return self.machine.join(self.wish, self.known.token if token is None else token)
            except Refused as refused:
                # Other tests guess from the same address; a token just made is known there a second later.
                if refused.reason != "too-many-failures":
                    raise
        raise AssertionError("attempts end in a failure")

    def channel(self, wake: threading.Event) -> Channel:
        root = str(self.machine.root)
        return Channel(lambda: read_document(root), wake.set, lambda _level, _text: None, root=root)
