"""From records to tables: times with what peers took, where an apply spends them, CPU, memory. Pure."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import Figure, by_key, figure, number, table
from bench.peers import MEASURED, PEERS, Peer

Records = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name of a measurement -> one record for each run."""
SEEN = {"readyz": "API ready", "nodes": "all Nodes Ready", "dns": "names and Services answer from pods"}
SYSTEM = frozenset(
    (
        "systemd",
        "systemd-journald",
        "dbus-daemon",
        "sshd",
        "(sd-pam)",
        "agetty",
        "init",
        "cron",
        "sudo",
        "sh",
        "bash",
    )
)
"""Programs of the machine itself, also there without Kubernetes."""
ADD_ONS = frozenset(("metrics-server",))
"""Programs that the lab's inventory asks for and the peers did not run."""
MEGABYTE = 2**20


def report(results: Mapping[str, Any]) -> str:
    """Return all tables as Markdown, from what `python -m bench --output json` prints."""
    records: Records = results["records"]
    titles: Mapping[str, str] = results["titles"]
    parts = [_head(results), times(records, titles)]
    for name in records:
        if records[name] and records[name][0].get("phases"):
            parts.append(f"### Phases: {titles[name]}\n\n{phases(records[name])}")
    parts.append(f"### CPU seconds and bytes\n\n{costs(records, titles)}")
    for name in records:
        if any("programs" in record for record in records[name]):
            parts.append(f"### CPU seconds by program: {titles[name]}\n\n{programs(records[name])}")
    if records.get("idle"):
        parts.append(f"### Memory, idle\n\n{memory(records['idle'])}")
    failed = [
        f"- {name}, run {item['run']}: {item['why']}"
        for name, items in results["failed"].items()
        for item in items
    ]
    if failed:
        parts.append("### Failed\n\n" + "\n".join(failed))
    return "\n\n".join(part for part in parts if part) + "\n"


def times(records: Records, titles: Mapping[str, str]) -> str:
    """Return the table of wall times in seconds, beside the peers' figures and the aims."""
    rows = []
    for name, runs in records.items():
        if name == "idle" or not runs:
            continue
        noise = _noise(runs)
        for key, title in (*SEEN.items(), ("wall", "whole command")):
            path = (key,) if key == "wall" else ("seen", key)
            found = figure(number(record, path) for record in runs)
            if found is None:
                continue
            peer = PEERS.get(f"{name} {key}", Peer())
            rows.append(
                (
                    titles[name],
                    title,
                    found.text(_digits(found)),
                    str(found.runs),
                    noise,
                    peer.kubeadm,
                    peer.k0s,
                    peer.aim,
                )
            )
    head = ("Work", "until", "s, min / median / max", "runs", "others", "kubeadm*", "k0s*", "aim")
    return table(head, rows) + f"\n\n\\* given figures, measured on such machines {MEASURED}." if rows else ""


def phases(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return when each phase of each machine began and how long it took, in seconds."""
    began = by_key([record.get("begins", {}) for record in runs])
    lasted = by_key([record["phases"] for record in runs])
    rows = [
        (machine, phase, _text(began.get(key)), _text(lasted[key]))
        for key in sorted(
            lasted, key=lambda key: (key.split()[0], began[key].median if key in began else 0.0)
        )
        for machine, phase in [key.split(" ", 1)]
    ]
    before = figure(min(record["begins"].values(), default=None) for record in runs if "begins" in record)
    if before is not None:
        rows.insert(0, ("all", "connect, look, plan", "0", before.text(2)))
    return table(("Machine", "Phase", "begins at", "takes"), rows)


def costs(records: Records, titles: Mapping[str, str]) -> str:
    """Return the table of CPU seconds and of megabytes that the operator's machine sent."""
    rows = []
    for name, runs in records.items():
        cpu = by_key([record.get("cpu", {}) for record in runs])
        if not cpu:
            continue
        sent = figure(number(record, ("sent",)) for record in runs)
        machines = sum(
            (cpu[key].median for key in cpu if key not in ("operator", "harness", "others", "host")), 0.0
        )
        rows.append((
            titles[name],
            *(_median(cpu.get(key)) for key in ("operator", "cp1", "w1", "w2")),
            f"{machines + cpu['operator'].median:.1f}",
            _median(cpu.get("others")),
            sent.text(1, 1e-6) if sent else "",
        ))  # fmt: skip
    head = ("Work", "operator", "cp1", "w1", "w2", "sum", "others", "MB sent by the operator")
    return table(head, rows) + "\n\nCPU seconds are medians." if rows else ""


def programs(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return CPU seconds by machine and program, medians, largest first."""
    rows = []
    machines = dict.fromkeys(machine for record in runs for machine in record.get("programs", {}))
    for machine in machines:
        found = by_key([record["programs"][machine] for record in runs if "programs" in record])
        for name, value in sorted(found.items(), key=lambda item: -item[1].median):
            if value.median >= 0.1:
                rows.append((machine, name, value.text(2)))
    return table(("Machine", "Program", "CPU s"), rows)


def memory(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return RSS and PSS in MiB of each program, and their sum without the machine's own system."""
    rows = []
    for machine in dict.fromkeys(machine for record in runs for machine in record["memory"]):
        tables = [{entry["name"]: entry for entry in record["memory"][machine]} for record in runs]
        sums = {kind: figure(_sum(entries, kind) for entries in tables) for kind in ("rss", "pss")}
        peers = PEERS.get(f"idle {machine} rss", Peer()), PEERS.get(f"idle {machine} pss", Peer())
        rows.append((
            machine, "**the cluster, without add-ons**", "",
            *(_mebibytes(sums[kind]) for kind in ("rss", "pss")),
            *(" / ".join(filter(None, (getattr(peer, who) for peer in peers))) for who in ("kubeadm", "k0s", "aim")),
        ))  # fmt: skip
        names = dict.fromkeys(name for entries in tables for name in entries)
        for name in sorted(names, key=lambda name: (name in SYSTEM, -_most(tables, name))):
            known = [entries[name] for entries in tables if name in entries]
            rows.append((
                machine, name + _kind(name), str(known[-1]["processes"]),
                *(_mebibytes(figure(entry[kind] for entry in known)) for kind in ("rss", "pss")),
                "", "", "",
            ))  # fmt: skip
    cores = by_key([record.get("cores", {}) for record in runs])
    used = ", ".join(f"{name} {value.text(3)}" for name, value in cores.items())
    head = (
        "Machine",
        "Program",
        "processes",
        "RSS, MiB",
        "PSS, MiB",
        "kubeadm* RSS / PSS",
        "k0s* RSS / PSS",
        "aim",
    )
    return (
        table(head, rows)
        + f"\n\nCPU when idle, in cores: {used}."
        + f"\n\\* given figures, measured on such machines {MEASURED}."
    )


def _kind(name: str) -> str:
    return " (system)" if name in SYSTEM else " (add-on)" if name in ADD_ONS else ""


def _head(results: Mapping[str, Any]) -> str:
    host = results["host"]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(results["begun"]))
    quiet = [record for runs in results["records"].values() for record in runs if "noisy" in record]
    noisy = sum(record["noisy"] for record in quiet)
    loads = figure(record.get("load") for record in quiet)
    return (
        f"{when}, {results['commit']}, {host['cores']} cores, {host['memory'] / 2**30:.0f} GiB, "
        f"kernel {host['kernel']}. "
        f"Load average {loads.text() if loads else 'unknown'}; "
        f"{noisy} of {len(quiet)} timed runs were noisy (others used more than a quarter of the cores)."
    )


def _noise(runs: Sequence[Mapping[str, Any]]) -> str:
    share = figure(number(record, ("others",)) for record in runs)
    return f"{share.least:.0%}-{share.most:.0%}" if share else ""


def _sum(entries: Mapping[str, Mapping[str, Any]], kind: str) -> float:
    return float(sum(entry[kind] for name, entry in entries.items() if name not in SYSTEM | ADD_ONS))


def _most(tables: Sequence[Mapping[str, Mapping[str, Any]]], name: str) -> float:
    return max(float(entries[name]["rss"]) for entries in tables if name in entries)


def _mebibytes(found: Figure | None) -> str:
    return f"{found.median / MEGABYTE:.0f}" if found else ""


def _median(found: Figure | None) -> str:
    return f"{found.median:.1f}" if found else ""


def _text(found: Figure | None) -> str:
    return found.text(2) if found else ""


def _digits(found: Figure) -> int:
    return 1 if found.median >= 3 else 2
