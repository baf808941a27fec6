"""From a file to an `Inventory`, or to one error that lists everything wrong with it.

Order: YAML with places; the keys, one by one, against the model and the table of refused ones; types
(pydantic); then, once the types are right, what must hold between the parts.
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Collection, Iterator
from datetime import date
from functools import cache
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from freehold_installer.config import checks, refused_keys, yaml_source
from freehold_installer.config.model import Host, Inventory, InventoryFile, resolve
from freehold_installer.config.problems import InventoryError, Path, Problem, key_path, suggestion
from freehold_installer.config.refused_keys import Verdict
from freehold_installer.config.yaml_source import Source

HINT = "docs/reference/configuration.md lists every key; `freehold schema` makes an editor check them"


def load(path: FilePath, releases: Collection[str] | None = None) -> Inventory:
    """Return the checked inventory in a file.

    `releases` are the Kubernetes versions there is a lock for; None: any version passes.
    Raises InventoryError (an InputError) with one line per problem: file:line:column: key: what is wrong.
    """
    return _inventory(yaml_source.read(path, str(path)), path, releases)


def loads(
    content: str | bytes, path: FilePath = FilePath("inventory.yaml"), releases: Collection[str] | None = None
) -> Inventory:
    """Return the checked inventory in `content`, as if it stood in the file `path`. Raises InventoryError."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return _inventory(yaml_source.parse(content, str(path)), path, releases)


def _inventory(source: Source, path: FilePath, releases: Collection[str] | None) -> Inventory:
    path = FilePath(os.path.abspath(path))
    if not isinstance(source.data, dict):
        raise InventoryError(
            [source.problem((), "expected an inventory: keys such as name and hosts")], hint=HINT
        )
    _read_config_file(source, path)
    readable = not source.problems
    walk = _Walk(source)
    data = walk.mapping(InventoryFile, source.data, ())
    try:
        parsed = InventoryFile.model_validate(data)
    except ValidationError as error:
        known = {(problem.file, problem.key) for problem in source.problems}
        details = [one for one in error.errors(include_url=False) if not _is_echo(one)]
        found = (_translate(source, data, one) for one in details)
        rest = [problem for problem in found if (problem.file, problem.key) not in known]
        raise InventoryError([*source.problems, *rest], hint=HINT) from None
    if readable:
        source.problems.extend(
            source.problem(key, said, of_value=True)
            for key, said in checks.findings(parsed, path, releases)
            if not walk.has_refused(key)
        )
    if source.problems:
        raise InventoryError(source.problems, hint=HINT)
    return _decided(parsed, path, tuple(walk.notes))


def _read_config_file(source: Source, path: FilePath) -> None:
    """Replace `config: FILE` by what stands in that file."""
    named = source.data.get("config")
    if not isinstance(named, str):
        return
    shown = os.path.normpath(os.path.join(os.path.dirname(source.file), os.path.expanduser(named)))
    try:
        other = yaml_source.read(resolve(named, path), shown)
        if not isinstance(other.data, dict):
            raise InventoryError([other.problem((), "expected a vcluster.yaml: keys such as controlPlane")])
    except InventoryError as error:
        source.problems.extend(
            problem
            if problem.line
            else source.problem(("config",), f"{problem.file} {problem.said}", of_value=True)
            for problem in error.problems
        )
        source.data["config"] = None
        return
    source.data["config"] = other.data
    source.graft(("config",), other)


class _Walk:
    """Compares a file's keys with the model's; unknown and refused ones become problems and are left out."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notes: list[str] = []
        self.refused: set[Path] = set()

    def has_refused(self, path: Path) -> bool:
        """Whether a finding about `path` would only repeat that it, or its neighbour network, is refused."""
        network = ("config", "networking")
        return path in self.refused or (
            path[:2] == network and any(one[:2] == network for one in self.refused)
        )

    def mapping(self, model: type[BaseModel], data: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return what the model knows of `data`. An empty value (`key:`) counts as left out."""
        known = fields(model)
        kept: dict[str, Any] = {}
        for key, value in data.items():
            inner = (*path, key)
            refused = self._is_refused(inner, value)
            if key in known:
                if value is not None:
                    kept[key] = self.value(known[key], value, inner)
            elif (
                not refused and not refused_keys.rows_for(inner) and not self._leads_to_refused(inner, value)
            ):
                said = f"unknown key; {suggestion(key, known, all_keys())}"
                self.source.problems.append(self.source.problem(inner, said))
        return kept

    def value(self, annotation: Any, value: Any, path: Path) -> Any:
        model, container = shape(annotation)
        if model is None:
            return value
        if container is None and isinstance(value, dict):
            return self.mapping(model, value, path)
        if container is dict and isinstance(value, dict):
            # A host with nothing below it must not vanish: it lacks its address.
            return {
                key: self.value(model, {} if part is None else part, (*path, key))
                for key, part in value.items()
            }
        if container is tuple and isinstance(value, list):
            return [self.value(model, part, (*path, index)) for index, part in enumerate(value)]
        return value

    def _leads_to_refused(self, path: Path, value: Any) -> bool:
        """Whether only parts of an unknown key are in the table; those are judged, the rest is unknown."""
        below = [row.steps[len(path)] for row in refused_keys.rows_below(path)]
        if not below:
            return False
        if isinstance(value, dict):
            for key, part in value.items():
                inner = (*path, key)
                if self._is_refused(inner, part) or refused_keys.rows_for(inner):
                    continue
                if not self._leads_to_refused(inner, part):
                    said = f"unknown key; {suggestion(key, below, all_keys())}"
                    self.source.problems.append(self.source.problem(inner, said))
        elif value is not None:
            self.source.problems.append(self.source.problem(path, "expected a mapping", of_value=True))
        return True

    def _is_refused(self, path: Path, value: Any) -> bool:
        for row in refused_keys.rows_for(path):
            if row.applies(value):
                if row.verdict is Verdict.NOTE:
                    self.notes.append(f"{key_path(path[1:])} has no effect: {row.reason}")
                    return True
                self.refused.add(path)
                if not self._refuse_parts(path, value):
                    self.source.problems.append(self.source.problem(path, row.message))
                return True
        return False

    def _refuse_parts(self, path: Path, value: Any) -> bool:
        """Report the parts of a refused key that have reasons of their own; false when there is none."""
        found = False
        for row in refused_keys.rows_below(path):
            inner: Any = value
            for step in row.steps[len(path) :]:
                inner = inner.get(step) if isinstance(inner, dict) else None
            if inner is not None and row.applies(inner):
                self.source.problems.append(self.source.problem(row.steps, row.message))
                found = True
        return found


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a model as they stand in a file, with their annotations."""
    return {str(info.alias or name): info.annotation for name, info in model.model_fields.items()}


def shape(annotation: Any) -> tuple[type[BaseModel] | None, type | None]:
    """Return the model inside an annotation and what holds it: nothing, dict or tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, None
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = [shape(part) for part in arguments]
        return next((pair for pair in found if pair[0] is not None), (None, None))
    if origin in (dict, tuple) and arguments:
        model, _ = shape(arguments[1] if origin is dict else arguments[0])
        return (model, origin) if model else (None, None)
    return None, None


@cache
def all_keys() -> tuple[str, ...]:
    """Return the dotted path of every key of the model."""

    def below(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for key, annotation in fields(model).items():
            yield prefix + key
            inner, container = shape(annotation)
            if inner is not None:
                yield from below(inner, f"{prefix}{key}." + ("NAME." if container is dict else ""))

    return tuple(below(InventoryFile, ""))


def _is_echo(details: ErrorDetails) -> bool:
    """Whether this only says that nothing is left of a list whose parts have errors of their own."""
    return details["type"] == "too_short" and bool(details["input"])


def _translate(source: Source, data: Any, details: ErrorDetails) -> Problem:
    """Say in our words what pydantic found."""
    path: Path = tuple(details["loc"])
    if path and path[-1] == "[key]":
        path = path[:-1]
        return source.problem(path, str(details.get("ctx", {}).get("error", details["msg"])))
    kind = details["type"]
    if kind == "missing":
        if path in source.keys:
            return source.problem(path, "expected a value, found nothing")
        return source.problem(path[:-1], f"{path[-1]} is missing")
    while path and not _exists(data, path):
        path = path[:-1]
    found = details["input"]
    expected = _EXPECTED.get(kind)
    if kind == "value_error":
        said = str(details.get("ctx", {}).get("error", details["msg"]))
    elif kind == "literal_error":
        choices = str(details.get("ctx", {}).get("expected"))
        close = difflib.get_close_matches(str(found), re.findall("'([^']*)'", choices), n=1)
        said = f"expected {choices}, found {_shown(found)}" + (f"; did you mean {close[0]}?" if close else "")
    elif kind == "too_short":
        said = "expected at least one"
    elif expected is not None:
        said = f"expected {expected}, found {_shown(found)}"
        if kind == "string_type":
            said += _quote_hint(source, path, found)
    else:
        said = f"{details['msg'][0].lower()}{details['msg'][1:]}, found {_shown(found)}"
    return source.problem(path, said, of_value=True)


_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _exists(data: Any, path: Path) -> bool:
    for step in path:
        known = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if step not in known:
            return False
        data = data[step]
    return True


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quote_hint(source: Source, path: Path, value: Any) -> str:
    """Say that YAML 1.1 read text as something else."""
    if not isinstance(value, bool | int | float | date):
        return ""
    text = source.place(path, of_value=True).text
    return f' (YAML reads {text} so; quote it: "{text}")' if text else ""


def _decided(parsed: InventoryFile, path: FilePath, notes: tuple[str, ...]) -> Inventory:
    hosts: dict[str, Host] = {}
    for name, entry in parsed.hosts.items():
        values = {field: getattr(entry, field) for field in type(entry).model_fields}
        values["internal_address"] = checks.internal_address(parsed, name)
        hosts[name] = Host(name=name, **values)
    return Inventory(
        name=parsed.name,
        ssh=parsed.ssh,
        hosts=hosts,
        config=parsed.config,
        manifests=tuple(resolve(text, path) for text in parsed.manifests),
        path=path,
        notes=notes,
        warnings=tuple(checks.warnings(parsed)),
    )
