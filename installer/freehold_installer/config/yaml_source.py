"""YAML text as plain data, with the place of every key and value.

Stricter than a YAML library by itself: a key given twice, a tag, a merge key and an alias that grows without
end are errors. Knows nothing of inventories.
"""

from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from freehold_installer.config.problems import InventoryError, Path, Problem, key_path

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_DEPTH = 60
_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "bool", "int", "float", "timestamp")}


@dataclass(frozen=True)
class Place:
    file: str
    line: int
    column: int
    text: str = ""
    """A scalar's text as written, without quotes."""
    depth: int = 0
    """How many first steps of the path are not part of this file (a vcluster.yaml below `config`)."""


@dataclass
class Source:
    """A file: its data and where each part stands."""

    file: str
    data: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path, *, of_value: bool = False) -> Place:
        """Return where `path`, or what is nearest above it, stands."""
        for length in range(len(path), -1, -1):
            first, second = (self.values, self.keys) if of_value else (self.keys, self.values)
            found = first.get(path[:length]) or second.get(path[:length])
            if found is not None:
                return found
        return Place(self.file, 0, 0)

    def problem(self, path: Path, said: str, *, of_value: bool = False) -> Problem:
        """Return a problem with the file, line, column and key of `path`."""
        place = self.place(path, of_value=of_value)
        return Problem(place.file, said, key_path(path[place.depth :]), place.line, place.column)

    def graft(self, path: Path, other: "Source") -> None:
        """Take over the places of another file whose data stands at `path` of this one."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for inner, place in theirs.items():
                mine[path + inner] = Place(place.file, place.line, place.column, place.text, len(path))
        self.problems.extend(other.problems)


def read(path: FilePath, shown: str) -> Source:
    """Return the file's content. Raises InventoryError when it is no readable YAML file."""
    try:
        if path.is_dir():
            raise InventoryError([Problem(shown, "is a directory, a YAML file is expected")])
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InventoryError(
            [Problem(shown, "no such file")],
            hint="is the path right? -i or FREEHOLD_INVENTORY names the inventory",
        ) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InventoryError([Problem(shown, f"cannot be read: {said}")]) from error
    return parse(content, shown)


def parse(content: bytes, shown: str) -> Source:
    """Return the content of a file named `shown`. Raises InventoryError when it cannot be read at all."""
    if len(content) > MAX_BYTES:
        raise InventoryError([Problem(shown, f"is larger than {MAX_BYTES >> 20} MiB; is it the right file?")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        said = "is not a text file" if b"\0" in content else "is not UTF-8 text"
        raise InventoryError([Problem(shown, said, line=line, column=column)]) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        said = f"contains the character U+{error.character:04X}, which YAML does not allow"
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InventoryError([Problem(shown, said, line=line, column=column)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = _syntax(error, text)
        raise InventoryError(
            [Problem(shown, said, line=mark.line + 1 if mark else 0, column=mark.column + 1 if mark else 0)]
        ) from None
    except RecursionError:
        raise InventoryError([Problem(shown, "is nested too deeply")]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InventoryError([Problem(shown, f"is not YAML: {error}")]) from None
    source = Source(shown)
    if node is None:
        raise InventoryError([Problem(shown, "is empty")])
    source.data = _Builder(source).build(node, (), frozenset())
    return source


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if mark is not None:
        lines = text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: mark.column + 1] or "'\\t'" in str(error.problem):
            return "YAML does not allow a tab here; indent with spaces"
    if "expected a single document" in str(error.context):
        return "holds several documents (`---`); one is expected"
    context = f" ({error.context})" if error.context else ""
    return f"is not YAML: {error.problem}{context}"


class _Builder:
    """Turns nodes into data. Problems are noted in the source; what has one is left out or None."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.loader = yaml.SafeLoader("")
        self.count = 0

    def build(self, node: yaml.Node, path: Path, above: frozenset[int]) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise InventoryError(
                [Problem(self.source.file, "is too large or nested too deeply; do aliases multiply?")]
            )
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        self.source.values[path] = self._place(node, text)
        if id(node) in above:
            self._note(path, "an alias that contains itself")
            return None
        inside = above | {id(node)}
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(item, (*path, index), inside) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, path)
        self._note(path, f"the tag {_tag(node)} is not supported")
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path, above: frozenset[int]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(path, "a key must be plain text", key_node)
                continue
            key = key_node.value
            inner = (*path, key)
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._note(path, "merge keys (<<) are not supported; write the keys out", key_node)
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                kind = _kind(key_node.tag)
                self._note(
                    path, f'YAML reads the key {key or "(nothing)"} as {kind}; quote it: "{key}"', key_node
                )
                continue
            if key in data:
                first = self.source.keys[inner]
                self._note(inner, f"given twice, first in line {first.line}", key_node)
                continue
            self.source.keys[inner] = self._place(key_node, key)
            data[key] = self.build(value_node, inner, above)
        return data

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError, ArithmeticError):
            self._note(
                path, f'YAML takes this for {_kind(node.tag)} and cannot read it; quote it: "{node.value}"'
            )
            return None

    def _place(self, node: yaml.Node, text: str) -> Place:
        return Place(self.source.file, node.start_mark.line + 1, node.start_mark.column + 1, text)

    def _note(self, path: Path, said: str, node: yaml.Node | None = None) -> None:
        place = self._place(node, "") if node is not None else self.source.values[path]
        self.source.problems.append(Problem(self.source.file, said, key_path(path), place.line, place.column))


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _kind(tag: str) -> str:
    kinds = {
        "bool": "true or false",
        "int": "a number",
        "float": "a number",
        "null": "nothing",
        "timestamp": "a date",
    }
    return kinds.get(tag.rpartition(":")[2], f"the type {tag.rpartition(':')[2]}")
