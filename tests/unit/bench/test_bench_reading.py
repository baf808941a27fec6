"""What the benchmarks read: counters of the kernel, events of the product, names of programs."""

import json

import pytest
from bench import load, machines, processes
from bench.machines import Counted
from bench.meter import Cost
from bench.product import Ran, parse_events
from bench.watcher import is_ready


def test_busy_counts_all_but_idle_and_waiting() -> None:
    """Time that a hypervisor took counts as used; waiting for a disk is idle."""
    found = load.busy("cpu  100 10 50 1000 40 1 2 7 0 0\ncpu0 1 2 3\n")
    ticks = load.TICKS
    assert found == load.Busy(170 / ticks, 1040 / ticks)


def test_the_share_of_others_leaves_ours_out() -> None:
    """Ten core seconds passed, six were used, four of them by us: others used a fifth."""
    assert load.share(load.Busy(0, 0), load.Busy(6, 4), ours=4) == pytest.approx(0.2)
    assert load.share(load.Busy(0, 0), load.Busy(3, 7), ours=4) == 0.0
    assert load.share(load.Busy(5, 5), load.Busy(5, 5)) == 0.0


def test_what_a_run_cost_is_divided_between_us_and_others() -> None:
    """The host's seconds are ours (operator, machines, harness) or others'."""
    cost = Cost({"cp1": Counted(5.0, 10, 20)}, operator=2.0, harness=0.5, host=10.0, share=0.3, sent=99)
    shown = cost.to_json()
    assert shown["cpu"] == {"operator": 2.0, "cp1": 5.0, "harness": 0.5, "others": 2.5, "host": 10.0}
    assert shown["noisy"] is True
    assert shown["sent"] == 99


def test_bytes_are_those_of_the_first_interface() -> None:
    """Loopback and the pod network do not count."""
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n"
        "    lo:  999 1 0 0 0 0 0 0 999 1 0\n"
        "  eth0: 1234 5 0 0 0 0 0 0 5678 9 0\n"
    )
    assert machines._interface(text) == (1234, 5678)
    assert machines._interface("") == (0, 0)


def test_events_are_told_from_other_lines_and_get_relative_times() -> None:
    """Standard error may carry a warning of a library: it is kept as text."""
    lines = [
        json.dumps({"time": 100.5, "event": "phase-started", "machine": "cp1", "phase": "node"}),
        "warning: something",
        json.dumps({"no": "event"}),
        json.dumps(
            {"time": 102.0, "event": "phase-finished", "machine": "cp1", "phase": "node", "seconds": 1.5}
        ),
    ]
    events, rest = parse_events("\n".join(lines), 100.0)
    ran = Ran(100.0, 3.0, 1.0, 0, events)
    assert ran.begins() == {"cp1 node": 0.5}
    assert ran.phases() == {"cp1 node": 1.5}
    assert rest.splitlines() == ["warning: something", '{"no": "event"}']


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/opt/freehold/current/bin/etcd", "--name=cp1"], "etcd"),
        (["sshd: freehold@notty"], "sshd"),
        (["sshd: /usr/sbin/sshd -D [listener] 0 of 64-128 startups"], "sshd"),
        (["python3", "-I", "-c", "import sys"], "agent from memory"),
        (["/usr/bin/python3", "/opt/freehold/freehold-services.pyz", "join", "--config", "x"],
         "freehold-services.pyz join"),
        (["/usr/bin/python3", "/opt/freehold/freehold-agent.pyz"], "freehold-agent.pyz"),
        (["/usr/bin/python3", "-I", "-X", "no_debug_ranges", "/opt/freehold/freehold-agent.pyz", "run"],
         "freehold-agent.pyz"),
        ([""], "[kthread]"),
    ],
)  # fmt: skip
def test_programs_have_the_name_that_a_person_would_give(arguments: list[str], name: str) -> None:
    """Python programs are called by what they run."""
    assert processes.title(arguments, "kthread") == name


def test_a_process_name_may_hold_brackets_and_spaces() -> None:
    """The kernel writes the name as it is; the numbers come after its last bracket."""
    rest = " ".join(["S", *["0"] * 10, "150", "50", *["0"] * 6, "777", "0"])
    assert processes.parse_stat(f"12 (a (b) c) {rest}") == ("a (b) c", 200 / processes.TICKS, 777)


def test_memory_is_read_in_bytes() -> None:
    """The kernel counts in KiB; lines whose names only begin alike do not count."""
    text = "5 6 r--p [rollup]\nRss:   100 kB\nPss:   40 kB\nPss_Dirty:   9 kB\n"
    assert processes.parse_rollup(text) == (100 * 1024, 40 * 1024)


def test_a_node_is_ready_when_its_condition_says_so() -> None:
    """A node without conditions, or of unknown state, is not."""

    def node(status: str) -> dict[str, object]:
        return {"status": {"conditions": [{"type": "Ready", "status": status}]}}

    assert is_ready(node("True"))
    assert not is_ready(node("Unknown"))
    assert not is_ready({})
