"""`freehold-agent join-node` and the agent's channel against a real control plane; only the kubelet is pretended."""

import contextlib
import threading
from pathlib import Path

import pytest
from tests.support.at_once import all_at_once
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.joiner import Joiner
from tests.support.pretend_machine import Machine, status_of

from freehold_agent.channel import REMOVED_PAUSE
from freehold_agent.contract import paths
from freehold_agent.document import read_document
from freehold_agent.join_client import Refused
from freehold_bootstrap import documents, node_admission, node_record, tokens
from freehold_bootstrap.node_admission import NODES, NodeRequest

pytestmark = pytest.mark.bundle


def test_a_machine_joins_and_follows(plane: ControlPlane, tmp_path: Path) -> None:
    """From token to Node, nothing secret kept; a changed label arrives by the long poll, then its removal."""
    joiner = Joiner(plane, tmp_path, labels={"zone": "a"})
    joiner.join()
    node = joiner.known.node
    assert plane.admin.get(f"{NODES}/{node}")["metadata"]["labels"]["zone"] == "a"
    texts = joiner.machine.texts()
    secrets = [joiner.known.token.rpartition(".")[2], joiner.known.bootstrap.split(".")[1]]
    assert [path for path, text in texts.items() if any(secret in text for secret in secrets)] == []
    assert paths.JOIN_STATE not in texts
    bootstrap = tokens.bootstrap_token_path(joiner.known.bootstrap.split(".")[0])
    assert status_of(plane.admin, "GET", bootstrap) == 404
    joiner.machine.join(joiner.wish, None)
    woken = threading.Event()
    channel = joiner.channel(woken)
    assert channel.poll() == 0, "the first answer comes at once, from then on it waits"
    waiting = threading.Thread(target=channel.poll)
    waiting.start()
    before = read_document(str(tmp_path))
    record = node_record.read(plane.installer, node)
    assert record is not None
    wanted = NodeRequest(node, before.addresses, {"zone": "b"}, join_uid=record.join_uid)
    node_admission.admit(plane.installer, wanted, plane.settings)
    assert woken.wait(60)
    waiting.join(60)
    newer = channel.offered()
    assert newer is not None
    assert newer.labels["zone"] == "b"
    assert newer.generation > before.generation
    for path in (f"{NODES}/{node}", documents.document_path(node)):
        plane.admin.delete(path)
    for _ in plane.attempts():
        if channel.poll() == REMOVED_PAUSE:
            break
    assert channel.removed


@pytest.mark.parametrize("place", ["join", "credential"])
def test_a_killed_join_goes_on(plane: ControlPlane, tmp_path: Path, place: str) -> None:
    """With the same token, whatever it had reached; a copy of the machine elsewhere gets nothing."""
    joiner = Joiner(plane, tmp_path / "one")
    joiner.machine.dies_after = place
    with contextlib.suppress(KeyboardInterrupt):
        joiner.join()
    assert not joiner.certificate.exists()
    thief = Joiner(plane, tmp_path / "two")
    thief.wish = joiner.wish
    with pytest.raises(Refused, match="used by another machine"):
        thief.join(joiner.known.token)
    joiner.machine.dies_after = ""
    joiner.join()
    assert joiner.known.document().node == joiner.known.node


def test_a_node_of_a_minute_ago_joins_again(plane: ControlPlane, tmp_path: Path) -> None:
    """Removed, invited again, killed in between: its young old certificate is in nobody's way."""
    joiner = Joiner(plane, tmp_path)
    joiner.join()
    node = joiner.known.node
    plane.admin.delete(f"{NODES}/{node}")
    former = joiner.known
    joiner.known = Machine.invited(plane, node=node, addresses=(joiner.known.address,))
    joiner.machine.dies_after = "join"
    with contextlib.suppress(KeyboardInterrupt):
        joiner.join()
    former.goes_live()  # its kubelet runs on, and the name is there again
    joiner.machine.dies_after = ""
    joiner.join()
    assert joiner.known.document().node_uid == plane.admin.get(f"{NODES}/{node}")["metadata"]["uid"]


def test_fifty_agents_join_at_once(plane: ControlPlane, tmp_path: Path) -> None:
    """50 agents run `join-node` in the same moment, from one address: none fails, each gets a network of its own.

    `bench.joins` does it with 200; that many machines, with another client than the agent's, are in the test of floods.
    """
    joiners = plane.many(lambda number: Joiner(plane, tmp_path / str(number)), range(50))
    _times, failed = all_at_once(joiners, Joiner.join, lambda joiner: joiner.known.node)
    assert failed == []
    documents_ = [read_document(str(joiner.machine.root)) for joiner in joiners]
    assert len({document.network.node_pod_cidrs for document in documents_}) == len(joiners)
    assert all(joiner.certificate.exists() for joiner in joiners)
    plane.remove_all_nodes()
