"""From records of runs to the tables that are published."""

from typing import Any

from bench.peers import PEERS
from bench.report import costs, memory, phases, programs, report, times


def a_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "wall": 12.0,
        "seen": {"readyz": 4.0, "nodes": 8.0, "dns": 11.5},
        "phases": {"cp1 control-plane": 6.0, "cp1 node": 3.0, "w1 node": 4.5},
        "begins": {"cp1 control-plane": 0.5, "cp1 node": 6.5, "w1 node": 0.4},
        "cpu": {"operator": 3.0, "cp1": 10.0, "w1": 4.0, "harness": 0.5, "others": 2.0, "host": 19.5},
        "others": 0.1,
        "load": 1.2,
        "noisy": False,
        "sent": 823_000_000,
    }
    return {**record, **changes}


def results(**changes: Any) -> dict[str, Any]:
    return {
        "begun": 1795425420.0,
        "commit": "abc1234",
        "host": {"cores": 2, "memory": 24 * 2**30, "kernel": "6.18"},
        "titles": {"apply-1+1": "apply 1+1"},
        "records": {"apply-1+1": [a_record()]},
        "failed": {},
        **changes,
    }


def test_times_stand_beside_peers_and_aims() -> None:
    """A time alone says little: what others took for the same and what we aim at is in its row."""
    lines = times({"apply-1+1": [a_record(), a_record(seen={"nodes": 10.0})]}, {"apply-1+1": "apply 1+1"})
    nodes = next(line for line in lines.splitlines() if "all Nodes Ready" in line)
    assert "8.0 / 9.0 / 10.0" in nodes
    assert PEERS["apply-1+1 nodes"].kubeadm in nodes
    assert PEERS["apply-1+1 nodes"].aim in nodes
    dns = next(line for line in lines.splitlines() if "answer from pods" in line)
    assert "| 11.5 " in dns


def test_every_time_says_how_busy_the_host_was() -> None:
    """Others who used the cores are in the row of the figure they spoiled."""
    lines = times({"plan-fresh": [a_record(others=0.02), a_record(others=0.61)]}, {"plan-fresh": "plan"})
    assert "2%-61%" in lines


def test_times_of_what_was_not_watched_have_one_row() -> None:
    """A plan has a wall time only."""
    lines = times({"plan-fresh": [a_record(seen={})]}, {"plan-fresh": "plan"}).splitlines()
    assert len([line for line in lines if line.startswith("| plan")]) == 1


def test_phases_are_in_the_order_in_which_they_begin() -> None:
    """Phases have whatever names the run gave them, by machine."""
    rows = [line.split("|")[1:5] for line in phases([a_record()]).splitlines()[2:]]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [
        ["all", "connect, look, plan", "0", "0.40"],
        ["cp1", "control-plane", "0.50", "6.00"],
        ["cp1", "node", "6.50", "3.00"],
        ["w1", "node", "0.40", "4.50"],
    ]


def test_phases_survive_a_run_that_had_others() -> None:
    """A phase that only one of two runs had, and one whose beginning is unknown, still show."""
    text = phases([a_record(), a_record(phases={"cp1 new": 1.0}, begins={})])
    assert "| new " in text
    assert "| control-plane " in text


def test_costs_sum_ours_and_leave_out_others() -> None:
    """The sum is of the operator and all machines; neither the harness nor strangers are in it."""
    row = costs({"apply-1+1": [a_record()]}, {"apply-1+1": "apply 1+1"}).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["apply 1+1", "3.0", "10.0", "4.0", "", "17.0", "2.0", "823.0"]


def test_programs_are_largest_first_and_crumbs_are_left_out() -> None:
    """Where CPU seconds go is read from the top."""
    record = a_record(programs={"cp1": {"etcd": 1.4, "kube-apiserver": 4.2, "sudo": 0.05}})
    names = [line.split("|")[2].strip() for line in programs([record]).splitlines()[2:]]
    assert names == ["kube-apiserver", "etcd"]


def test_memory_sums_the_cluster_without_the_system() -> None:
    """systemd and sshd were there before, add-ons are by wish; they are shown but not counted."""
    entries = [
        {"name": "kube-apiserver", "processes": 1, "rss": 300 * 2**20, "pss": 290 * 2**20},
        {"name": "systemd", "processes": 1, "rss": 12 * 2**20, "pss": 9 * 2**20},
        {"name": "metrics-server", "processes": 1, "rss": 11 * 2**20, "pss": 11 * 2**20},
        {"name": "etcd", "processes": 1, "rss": 50 * 2**20, "pss": 49 * 2**20},
    ]
    text = memory([{"memory": {"cp1": entries}, "cores": {"cp1": 0.05}}])
    rows = [[cell.strip() for cell in line.split("|")[1:6]] for line in text.splitlines()[2:7]]
    assert rows[0][1:] == ["**the cluster, without add-ons**", "", "350", "339"]
    assert [row[1] for row in rows[1:]] == [
        "kube-apiserver",
        "etcd",
        "metrics-server (add-on)",
        "systemd (system)",
    ]
    assert "cp1 0.050" in text


def test_a_report_has_date_commit_and_noise() -> None:
    """Whoever reads a figure later knows what was measured, when, and how quiet it was."""
    text = report(results(records={"apply-1+1": [a_record(), a_record(noisy=True)]}))
    assert text.startswith("2026-11-23 09:17 UTC, abc1234, 2 cores, 24 GiB, kernel 6.18.")
    assert "1 of 2 timed runs were noisy" in text
    assert "### Phases: apply 1+1" in text


def test_a_report_names_what_failed() -> None:
    """A run that failed is no figure, and it is not hidden."""
    text = report(
        results(records={"apply-1+1": []}, failed={"apply-1+1": [{"run": 2, "why": "ended with 1"}]})
    )
    assert "- apply-1+1, run 2: ended with 1" in text
