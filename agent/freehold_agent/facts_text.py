"""Facts as lines for a person: grouped, sizes in GiB, one line per interface, route and port. Reads nothing."""

from typing import Any, Callable, List, Mapping, Sequence, Tuple

from freehold_agent.contract import moments

Facts = Mapping[str, Any]


def as_text(facts: Facts) -> str:
    """Return all facts; those without a place in a group come last under their own names."""
    lines: List[str] = []
    shown = set()
    for title, rows in GROUPS:
        lines += ["", title] if lines else [title]
        for name, label, form in rows:
            if name in facts:
                shown.add(name)
                values = form(facts[name])
                for number, value in enumerate(values or ["none"]):
                    lines.append("  {:<22} {}".format(label if number == 0 else "", value).rstrip())
    rest = sorted(set(facts) - shown)
    if rest:
        lines += ["", "others"] + ["  {:<22} {}".format(name, facts[name]) for name in rest]
    return "\n".join(lines)


def _plain(value: Any) -> List[str]:
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, (list, tuple)):
        return [", ".join(map(str, value))] if value else []
    return [str(value)] if value not in (None, "") else []


def _size(value: int) -> List[str]:
    return ["{:.1f} GiB".format(value / 2**30)]


def _moment(value: float) -> List[str]:
    return [moments.shown(value)]


def _named(value: Mapping[str, Any]) -> List[str]:
    return ["{} {}".format(name, "missing" if what is None else what) for name, what in sorted(value.items())]


def _system(value: Mapping[str, str]) -> List[str]:
    return [value.get("pretty_name") or " ".join(filter(None, (value.get("id"), value.get("version_id"))))]


def _interfaces(value: Sequence[Facts]) -> List[str]:
    return [
        "{name}: {addresses} (mtu {mtu})".format(
            **{**one, "addresses": ", ".join(one["addresses"]) or "no address"}
        )
        for one in value
    ]


def _routes(value: Sequence[Facts]) -> List[str]:
    return [
        "{} dev {}{}".format(
            one["destination"], one["device"], " via {}".format(one["via"]) if one.get("via") else ""
        )
        for one in value
    ]


def _listening(value: Sequence[Facts]) -> List[str]:
    return ["{address} {port}/{protocol} {process}".format(**one).rstrip() for one in value]


def _disks(value: Mapping[str, Mapping[str, int]]) -> List[str]:
    return [
        "{}: {:.1f} of {:.1f} GiB free".format(path, room["free"] / 2**30, room["total"] / 2**30)
        for path, room in value.items()
    ]


Row = Tuple[str, str, Callable[[Any], List[str]]]
GROUPS: Sequence[Tuple[str, Sequence[Row]]] = (
    (
        "machine",
        (
            ("hostname", "name", _plain),
            ("machine_id", "machine id", _plain),
            ("boot_id", "boot id", _plain),
            ("time", "its time", _moment),
            ("architecture", "architecture", _plain),
            ("cpus", "processors", _plain),
            ("memory", "memory", _size),
            ("disk", "disk", _disks),
            ("linked", "links to elsewhere", _named),
        ),
    ),
    (
        "system",
        (
            ("os_release", "distribution", _system),
            ("kernel", "kernel", _plain),
            ("python", "python", _plain),
            ("python_executable", "", _plain),
            ("release", "freehold's release", _plain),
            ("selinux", "SELinux", _plain),
            ("container_selinux", "container-selinux", _plain),
            ("firewalld", "firewalld's zones", _named),
            ("swap", "swap in use", _plain),
            ("cgroup_version", "cgroup version", _plain),
            ("cap_sys_resource", "CAP_SYS_RESOURCE", _plain),
            ("nofile", "open files at most", _plain),
            ("conntrack_writable", "conntrack writable", _plain),
            ("sysctls_writable", "sysctls writable", _plain),
            ("limits", "limits", _named),
            ("modules", "kernel modules", _named),
            ("tools", "programs", _named),
            ("foreign", "foreign Kubernetes", lambda value: [str(one) for one in value]),
        ),
    ),
    (
        "network",
        (
            ("interfaces", "interfaces", _interfaces),
            ("default_route", "default route", _plain),
            ("default_route_v6", "default route, IPv6", _plain),
            ("routes", "routes", _routes),
            ("nameservers", "resolvers", _plain),
            ("resolv_conf", "resolv.conf for pods", _plain),
            ("proxy", "proxy set for", _plain),
            ("listening", "listening", _listening),
        ),
    ),
)
