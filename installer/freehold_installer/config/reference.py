"""docs/reference/configuration.md, made from the model's docstrings and the tables of what is refused."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from freehold_installer.config import refused_keys, trusted_settings
from freehold_installer.config.refused_keys import Verdict
from freehold_installer.config.schema import MODELINE, json_schema

_INTRODUCTION = f"""\
# Configuration

An inventory is one YAML file: `name`, `ssh`, `hosts`, `manifests` and `config`. The keys under `config` are
those of a vcluster.yaml in standalone mode; `config` may also be the path of such a file. Commented examples
are in [inventories/](../../inventories).

- Unknown keys are errors, with file, line, column and the nearest known key. All errors come at once.
- Keys of vCluster that cannot be used here are errors that say why, unless they are switched off
  (`enabled: false`). Nothing is ignored in silence.
- An empty value (`key:` with nothing behind) counts as left out.
- Relative paths start at the directory of the inventory.
- YAML reads `yes`, `on` and `1.37` as something else than text: quote them where text is expected.

An editor checks a file while you type when `freehold schema > inventory.schema.json` has been run beside it
and its first line is

    {MODELINE}

This page is generated: `freehold schema --reference > docs/reference/configuration.md`.
"""


def markdown() -> str:
    """Return the page."""
    schema = json_schema()
    parts = [_INTRODUCTION]
    parts.append(_keys("## The inventory", schema, schema, "", stop="config"))
    parts.append(_keys("## `config`", schema, schema["$defs"]["ClusterConfig"], "", stop=None))
    titles = {
        Verdict.NOT_YET: "## Not yet\n\nThese come with later releases; until then they are errors.",
        Verdict.NO_SENSE: "## Keys of vCluster that make no sense here\n\nErrors that name the alternative.",
        Verdict.NOTE: "## Accepted without effect\n\nOne note is printed.",
    }
    for verdict, title in titles.items():
        rows = [
            (f"`{row.key}`" + (f": {row.shown_when}" if row.shown_when else ""), row.reason)
            for row in refused_keys.REFUSALS
            if row.verdict is verdict
        ]
        parts.append(f"{title}\n\n" + _table(("Key", "Reason"), rows))
    parts.append(
        "## Extra arguments and kubelet fields that are refused\n\n"
        "They would undo a promise (verified TLS, Node and RBAC authorisation, bounded credentials) or "
        "contradict\nanother key.\n\n" + _table(("Setting", "Reason"), list(_trusted()))
    )
    return "\n".join(parts)


def _keys(title: str, schema: dict[str, Any], part: dict[str, Any], prefix: str, stop: str | None) -> str:
    return f"{title}\n\n" + _table(
        ("Key", "Value", "Default", "Meaning"), list(_rows(schema, part, prefix, stop))
    )


def _rows(
    schema: dict[str, Any], part: dict[str, Any], prefix: str, stop: str | None
) -> Iterator[tuple[str, ...]]:
    for name, value in part.get("properties", {}).items():
        kind, inner = _kind(schema, value)
        required = name in part.get("required", ())
        default = "required" if required else _default(value)
        yield f"`{prefix}{name}`", kind, default, value.get("description", "")
        if inner is not None and name != stop:
            suffix = {"mapping of names": ".NAME.", "list": "[]."}.get(kind, ".")
            yield from _rows(schema, inner, f"{prefix}{name}{suffix}", None)


def _kind(schema: dict[str, Any], value: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Return the kind of value in words and, when it has keys of its own, where they are described."""
    if "$ref" in value:
        return "mapping", schema["$defs"][value["$ref"].rpartition("/")[2]]
    if "anyOf" in value:
        kinds = [_kind(schema, one) for one in value["anyOf"] if one.get("type") != "null"]
        inner = next((inner for _, inner in kinds if inner is not None), None)
        return " or ".join(kind for kind, _ in kinds), inner
    if "enum" in value:
        return " or ".join(f"`{one}`" for one in value["enum"]), None
    if value.get("type") == "array":
        kind, inner = _kind(schema, value.get("items", {}))
        return ("list" if inner else f"list of {kind}"), inner
    if value.get("type") == "object":
        kind, inner = (
            _kind(schema, value["additionalProperties"])
            if isinstance(value.get("additionalProperties"), dict)
            else ("", None)
        )
        return ("mapping of names" if inner else "mapping"), inner
    names = {"string": "text", "integer": "number", "boolean": "true or false"}
    return names.get(str(value.get("type")), "anything"), None


def _default(value: dict[str, Any]) -> str:
    return (
        f"`{json.dumps(value['default'])}`".replace('"', "") if value.get("default") not in (None, "") else ""
    )


def _trusted() -> Iterator[tuple[str, str]]:
    for program, flag, reason in trusted_settings.described():
        yield f"{program} `--{flag}`", reason
    for name, reason in trusted_settings.KUBELET_FIELDS.items():
        yield f"kubelet `{name}`", reason


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
