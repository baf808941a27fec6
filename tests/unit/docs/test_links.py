"""Every link in the documentation leads somewhere, and every path that it names exists."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.support.repository import CHECKOUT, files

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```\s*?$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
ROOTS = (
    "agent", "bench", "bootstrap", "controller", "docs", "installer", "inventories", "releases", "tests", "vagrant"
)  # fmt: skip
MADE = ("inventories/generated/",)
"""Beginnings of paths that programs make."""


def pages() -> list[Path]:
    """Return every Markdown file of the repository."""
    return files("*.md")


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual hosts make them."""
    found: dict[str, int] = {}
    names = set()
    for title in re.findall(r"^#{1,6} (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(anchor, 0)
        found[anchor] = count + 1
        names.add(f"{anchor}-{count}" if count else anchor)
    return names


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A link to a file names one that exists; one to a heading, a heading of that page."""
    broken = []
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_path_in_backticks_exists(page: Path) -> None:
    """What looks like a path of this repository is one."""
    missing = []
    for text in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        for word in re.findall(r"[\w.{},*/-]+", text):
            word = word.removeprefix("./").rstrip(".,")
            if "/" not in word or word.split("/")[0] not in ROOTS or word.startswith(MADE):
                continue
            if re.search(r"[A-Z]{4,}(?!\.md)", word):  # releases/VERSION/lock.yaml: a place for a name
                continue
            if not exists(word):
                missing.append(word)
    assert missing == []


def test_every_page_is_reached_from_the_index() -> None:
    """Each page below docs/ is linked from docs/README.md, each decision from its own index."""
    for index in (CHECKOUT / "docs" / "README.md", CHECKOUT / "docs" / "adr" / "README.md"):
        linked = {
            (index.parent / target.partition("#")[0]).resolve()
            for pair in LINK.findall(index.read_text(encoding="utf-8"))
            for target in pair
            if target
        }
        wanted = set(index.parent.glob("*.md" if index.parent.name == "adr" else "[!a]*/*.md")) - {index}
        assert sorted(str(page) for page in wanted - linked) == []


def exists(path: str) -> bool:
    """Say whether a path, or one that its braces and stars mean, is in the repository."""
    match = re.search(r"\{(.*?)\}", path)
    if match is not None:
        return all(exists(path[: match.start()] + part + path[match.end() :]) for part in match[1].split(","))
    return any(CHECKOUT.glob(path)) if "*" in path else (CHECKOUT / path).exists()
