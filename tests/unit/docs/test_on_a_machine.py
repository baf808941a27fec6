"""docs/reference/on-a-machine.md against the code that makes those things."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tests.support.a_machine import a_control_plane, a_node_of_each_kind

from freehold_agent import leave
from freehold_agent.contract import paths, ports
from freehold_agent.contract.resources import Directory, File, Link, Resource, Sysctl, Unit, User
from freehold_agent.facts import LIMITS, MODULES
from freehold_agent.remains import network

Kind = TypeVar("Kind")
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "on-a-machine.md"
RELEASE = re.compile(r"^(/opt/freehold/releases)/[^/]+")
CONTROL, NODE = a_control_plane(), a_node_of_each_kind()


def test_every_unit_is_listed_with_its_user_and_slice():
    """The table of units names exactly those that are made, where, as whom and in which slice."""
    listed = {row[0]: (row[1], row[2], row[3]) for row in table("Units")}
    made = {}
    for role, resources in (("control plane", CONTROL), ("node", NODE)):
        texts = {resource.path: resource.content.decode() for resource in of(File, resources)}
        for unit in of(Unit, resources):
            text = texts[f"{paths.UNITS}/{unit.name}"]
            user = re.search(r"^User=(.*)$", text, re.MULTILINE)
            section = re.search(r"^Slice=(.*)$", text, re.MULTILINE)
            assert section is not None
            made[unit.name] = (role, user[1] if user else "root", section[1])
    assert listed == made


def test_every_file_and_link_is_listed_where_it_is():
    """Each file or link that is made stands in the table with its role; and each row means one that is made."""
    rows = table("Files")
    made = places((File, Link))
    made |= {f"{paths.STORE}/DIGEST": {"control plane", "node"}}
    assert_listed(rows, made)


def test_modes_and_owners_of_private_files_are_said():
    """A row with a file that only its owner may read says 0600, and who that is unless it is root."""
    rows = table("Files")
    for resource in of(File, [*CONTROL, *NODE]):
        (row,) = rows_of(rows, shown(resource.path))
        private = resource.mode == 0o600
        assert not private or "0600" in row[2], resource.path
        assert private or row[2] in ("",) or "key:" in row[2], resource.path
        assert not private or resource.owner == "root" or row[2].endswith(resource.owner), resource.path


def test_every_directory_is_listed_with_mode_and_owner():
    """Each directory that is made stands in its table; modes other than 0755 and owners other than root are said."""
    rows = table("Directories that freehold makes")
    assert_listed(rows, places([Directory]))
    for resource in of(Directory, [*CONTROL, *NODE]):
        (row,) = rows_of(rows, shown(resource.path))
        assert (f"{resource.mode:04o}" in row[2]) == (resource.mode != 0o755), resource.path
        assert resource.owner == "root" or resource.owner in row[2], resource.path
        assert resource.keep == ("stays at reset" in row[2]), resource.path


def test_everything_that_programs_leave_behind_is_listed():
    """What reset removes beside its records is in the table of what running programs write, or above."""
    above = [row[0] for title in ("Directories that freehold makes", "Files") for row in table(title)]
    written = [row[0] for row in table("What running programs write")]
    for path in (*leave.NODE_TREES, *leave.CONTROL_TREES, paths.RECORDS, paths.HASHES):
        assert path in written, path
    for path in (*leave.SHARED_TREES, *leave.OWN_TREES):
        assert any(entry == path or entry.startswith(path + "/") for entry in above + written), path
    assert paths.BOOTSTRAP_KUBECONFIG in written


def test_users_are_listed():
    """The table of users names exactly those that are made, with their homes."""
    made = {user.name: user.home for user in of(User, [*CONTROL, *NODE])}
    assert {row[0]: row[1] for row in table("Users")} == made


def test_ports_are_listed():
    """The table of ports is the one that preflight asks for: port, role, where it listens, program."""
    made = [("control plane", port) for port in ports.control_plane_ports()]
    made += [("node", port) for port in ports.node_ports()]
    rows = sorted((f"{port.number}/{port.protocol}", role, port.where, port.program) for role, port in made)
    assert sorted(tuple(row[:4]) for row in table("Ports")) == rows


def test_network_objects_are_listed():
    """Links and packet filter tables are those that reset removes; our routes carry our number."""
    rows = table("Network objects")
    assert {row[1] for row in rows if row[0] == "link"} == set(network.LINKS)
    assert {row[1] for row in rows if row[0] == "nft table"} == set(network.TABLES)
    assert any(row[0] == "route" and f"protocol number {paths.ROUTE_PROTOCOL}" in row[3] for row in rows)


def test_kernel_settings_and_modules_are_listed():
    """The table of settings names each one with its value; the modules stand below it."""
    listed = {row[0]: row[1] for row in table("Kernel settings and modules")}
    made = {
        resource.name: resource.value + (" at least" if resource.name in LIMITS else "")
        for resource in of(Sysctl, NODE)
    }
    assert listed == made
    assert all(f"`{module}`" in section("Kernel settings and modules") for module in MODULES)


def of(kind: type[Kind], resources: Iterable[object]) -> Iterator[Kind]:
    return (resource for resource in resources if isinstance(resource, kind))


def section(title: str) -> str:
    """Return the text below a heading of the page."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def table(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without backticks and without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def shown(path: str) -> str:
    """Return a path as the page writes it."""
    return RELEASE.sub(r"\1/RELEASE", path).replace("registry.example.org", "REGISTRY")


def places(kinds: Iterable[type[Resource]]) -> dict[str, set[str]]:
    """Return each path of these kinds and the roles that have it."""
    found: dict[str, set[str]] = {}
    wanted = tuple(kinds)
    for role, resources in (("control plane", CONTROL), ("node", NODE)):
        for resource in resources:
            if isinstance(resource, wanted):
                found.setdefault(shown(resource.name), set()).add(role)
    return found


def rows_of(rows: list[list[str]], path: str) -> list[list[str]]:
    """Return the rows that mean a path: exactly, else by a pattern."""
    exact = [row for row in rows if path in expanded(row[0])]
    return exact or [row for row in rows if any(fnmatch.fnmatchcase(path, one) for one in expanded(row[0]))]


def expanded(text: str) -> list[str]:
    """Return the paths of `/a/{b,c}`."""
    match = re.search(r"\{(.*?)\}", text)
    if match is None:
        return [text]
    return [text[: match.start()] + part + text[match.end() :] for part in match[1].split(",")]


def assert_listed(rows: list[list[str]], made: Mapping[str, set[str]]) -> None:
    """Fail unless each path has one row with its role and each path of a row is made."""
    used = set()
    for path, roles in made.items():
        found = rows_of(rows, path)
        assert len(found) == 1, f"{path}: {len(found)} rows"
        role = "both" if roles == {"control plane", "node"} else next(iter(roles))
        assert found[0][1] in (role, "both"), f"{path} is on {role}"
        used.add(found[0][0])
    assert [row[0] for row in rows if row[0] not in used] == []
