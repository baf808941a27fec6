"""Leader election: one leads, leases expire by our own clock, and our own lease is ours at once."""

from threading import Event
from typing import Any

import pytest
from tests.support.fake_kubernetes import FakeKubernetes, forbidden

from freehold_agent.machine.kubernetes_api import Conflict
from freehold_controller.leader import Leader, Timings

PATH = "/apis/coordination.k8s.io/v1/namespaces/freehold-nodes/leases/freehold-controller"


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def a_leader(api: FakeKubernetes, identity: str, clock: Clock, **options: Any) -> Leader:
    return Leader(api, identity, clock=clock, now=lambda: 1_790_000_000 + clock.time, **options)


def holder(api: FakeKubernetes) -> str:
    return str(api.objects[PATH]["spec"]["holderIdentity"])


def test_the_first_one_leads_and_renews() -> None:
    """A lease is made where none is; the other waits as long as it is renewed."""
    api, clock = FakeKubernetes(), Clock()
    one, two = a_leader(api, "cp1", clock), a_leader(api, "cp2", clock)
    assert one.attempt()
    for _ in range(20):
        clock.time += 2
        assert not two.attempt()
        assert one.attempt()
    assert holder(api) == "cp1"
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 0


def test_a_silent_holder_loses_the_lease_after_its_duration() -> None:
    """The other takes over 15 s after it saw the last change, not earlier, whatever the written times say."""
    api, clock = FakeKubernetes(), Clock()
    assert a_leader(api, "cp1", clock).attempt()
    two = a_leader(api, "cp2", clock)
    clock.time += 100  # cp2 has only just begun to look
    assert not two.attempt()
    clock.time += 14.9
    assert not two.attempt()
    clock.time += 0.1
    assert two.attempt()
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 1


def test_an_own_lease_is_taken_back_at_once() -> None:
    """A restarted controller does not wait for itself, and keeps the time it was first acquired."""
    api, clock = FakeKubernetes(), Clock()
    assert a_leader(api, "cp1", clock).attempt()
    since = api.objects[PATH]["spec"]["acquireTime"]
    clock.time += 1
    assert a_leader(api, "cp1", clock).attempt()
    assert api.objects[PATH]["spec"]["acquireTime"] == since


def test_the_only_control_plane_takes_any_lease_at_once() -> None:
    """With `single`, a lease under a former name of the machine is no one else's."""
    api, clock = FakeKubernetes(), Clock()
    assert a_leader(api, "old-name", clock).attempt()
    assert a_leader(api, "cp1", clock, single=True).attempt()


def test_a_released_lease_is_free_at_once() -> None:
    """Stepping down cleanly spares the next leader the wait; another's lease is not released."""
    api, clock = FakeKubernetes(), Clock()
    one, two = a_leader(api, "cp1", clock), a_leader(api, "cp2", clock)
    assert one.attempt()
    two.release()
    assert holder(api) == "cp1"
    one.release()
    assert two.attempt()
    assert holder(api) == "cp2"


def test_of_two_that_write_at_once_one_leads() -> None:
    """A conflict means that the other was faster."""
    api, clock = FakeKubernetes(), Clock()
    assert a_leader(api, "cp1", clock).attempt()
    api.fail("replace", PATH, Conflict(409, "Conflict", "changed"))
    assert not a_leader(api, "cp1", clock).attempt()


QUICK = Timings(lease=0.3, renew=0.2, retry=0.01)


def test_runs_until_stopped_and_releases() -> None:
    """The API may come up after us; work starts once leading and ends with the term; then the lease is free."""
    api, stop, terms = FakeKubernetes(), Event(), []  # type: FakeKubernetes, Event, List[Event]
    api.fail("get", PATH, ConnectionRefusedError("not up yet"))
    api.fail("get", PATH, forbidden())

    def lead(term: Event) -> None:
        assert not term.is_set()
        terms.append(term)
        stop.set()

    Leader(api, "cp1", timings=QUICK).run(stop, lead)
    assert [term.is_set() for term in terms] == [True]
    assert holder(api) == ""


@pytest.mark.parametrize("loss", ["taken", "unreachable"])
def test_steps_down_when_the_lease_is_lost_and_campaigns_again(loss: str) -> None:
    """A lease taken by another, or not renewed in time, ends the term; the next term is a new one."""
    api, stop, terms = FakeKubernetes(), Event(), []  # type: FakeKubernetes, Event, List[Event]

    def lead(term: Event) -> None:
        terms.append(term)
        if len(terms) == 2:
            stop.set()
        elif loss == "taken":
            lease = api.get(PATH)
            lease["spec"].update(holderIdentity="cp2", leaseDurationSeconds=0.05)
            api.replace(PATH, lease)
        else:
            for _ in range(22):
                api.fail("get", PATH, ConnectionRefusedError("down"))

    Leader(api, "cp1", timings=QUICK).run(stop, lead)
    assert len(terms) == 2
    assert terms[0] is not terms[1]
    assert all(term.is_set() for term in terms)
