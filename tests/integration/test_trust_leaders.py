"""Leaders that are killed or fall asleep in the middle: the next one finishes, and nothing is done twice."""

import random
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from tests.support import judged_requests as judged
from tests.support.control_plane_on_loopback import ControlPlane
from tests.support.loopback import Program
from tests.support.pretend_machine import Machine, conditions, next_key, outcome, settled

from freehold_agent.machine.kubernetes_api import NotFound

pytestmark = pytest.mark.bundle

LEASE = "/apis/coordination.k8s.io/v1/namespaces/freehold-nodes/leases/freehold-controller"
QUICK = {"lease": 8, "renew": 6, "retry": 0.5}
"""A leader that is only slow, on a busy host, must not lose it."""
LONG = {"lease": 600}
"""Nobody here has the patience to wait for the end of such a lease."""


def leader(plane: ControlPlane) -> str:
    """Return who holds the lease; empty when nobody does."""
    try:
        return str(plane.admin.get(LEASE)["spec"].get("holderIdentity") or "")
    except NotFound:
        return ""


@pytest.fixture
def controllers(plane: ControlPlane) -> Iterator[dict[str, Program]]:
    """Two controllers in the place of the one, on the oldest Python and on the newest; one of them leads."""
    plane.programs["freehold-controller"].stop()
    both = {
        name: plane.start_controller(name, python, single=False, leader_election=QUICK)
        for name, python in (("cp-old", plane.python), ("cp-new", sys.executable))
    }
    try:
        for _ in plane.attempts():
            if leader(plane) in both:
                break
        yield both
    finally:
        for program in both.values():
            program.stop()
        plane.start_controller()
        judged.with_certificate(plane)


def some_requests(plane: ControlPlane) -> tuple[list[judged.Case], list[Machine]]:
    """Return good and bad requests, mixed, and the machines of good first ones."""
    machines = plane.many(lambda _: judged.admitted(plane, "led"), range(30))
    cases = [*map(judged.good_first, machines), *judged.bad_firsts(plane)]
    random.Random(2).shuffle(cases)
    return cases, machines


def check(plane: ControlPlane, cases: list[judged.Case], names: list[str], machines: list[Machine]) -> None:
    """Every verdict is right, no certificate was issued twice, no token spent twice."""
    for case, name in zip(cases, names, strict=True):
        seen = conditions(plane.requests.get(name))
        assert case.met(seen), (case.what, seen)
        approved = case.expected[0] == judged.APPROVED
        assert len(judged.certificates_seen(plane, name)) == approved, case.what
    assert [len(judged.spendings(plane, machine)) for machine in machines] == [1] * len(machines)


def disturbed(plane: ControlPlane, cases: list[judged.Case], number: int, program: Program) -> list[str]:
    """Send the requests, and a signal to the leader once some are settled and others are not."""
    before = set(plane.requests.objects)
    sending = [plane.pool.submit(case.send) for case in cases]
    plane.requests.wait(
        lambda objects: sum(settled(obj) for name, obj in objects.items() if name not in before) >= 5
    )
    program.signal(number)
    done = sum(settled(obj) for name, obj in list(plane.requests.objects.items()) if name not in before)
    assert done < len(cases), "the leader was disturbed too late for this test to say anything"
    return [future.result() for future in sending]


def test_a_leader_is_killed_in_the_middle(plane: ControlPlane, controllers: dict[str, Program]) -> None:
    """After kill -9 of the leader the other finishes: each good request is issued once, each bad one denied."""
    cases, machines = some_requests(plane)
    first = leader(plane)
    names = disturbed(plane, cases, signal.SIGKILL, controllers[first])
    begun = time.monotonic()
    plane.requests.wait(lambda objects: all(settled(objects.get(name)) for name in names))
    print(f"leader {first} killed: the other finished {time.monotonic() - begun:.2f} s later")
    check(plane, cases, names, machines)
    assert leader(plane) in set(controllers) - {first}


def test_a_leader_wakes_up_after_it_was_replaced(
    plane: ControlPlane, controllers: dict[str, Program]
) -> None:
    """A leader that slept through the end of its lease and goes on where it was changes nothing that is right."""
    cases, machines = some_requests(plane)
    first = leader(plane)
    names = disturbed(plane, cases, signal.SIGSTOP, controllers[first])
    for _ in plane.attempts():
        if leader(plane) not in ("", first):
            break
    controllers[first].signal(signal.SIGCONT)
    plane.requests.wait(lambda objects: all(settled(objects.get(name)) for name in names))
    check(plane, cases, names, machines)
    assert outcome(plane, judged.admitted(plane).first_request(next_key())) == (judged.APPROVED, "NodeJoins")
    assert leader(plane) != first


def test_a_killed_controller_leads_again_at_once(plane: ControlPlane) -> None:
    """The only controller, started again after kill -9, does not wait for its own lease to end."""
    machine = judged.admitted(plane, "waiting")
    plane.programs["freehold-controller"].stop()
    plane.start_controller(leader_election=LONG)
    judged.with_certificate(plane)
    plane.programs["freehold-controller"].kill()
    assert plane.admin.get(LEASE)["spec"]["leaseDurationSeconds"] == LONG["lease"]
    name = machine.first_request(next_key())
    begun = time.monotonic()
    plane.start_controller()
    assert outcome(plane, name) == (judged.APPROVED, "NodeJoins")
    print(f"controller started again: first certificate after {time.monotonic() - begun:.2f} s")
