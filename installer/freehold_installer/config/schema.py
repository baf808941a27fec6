"""The JSON Schema of an inventory, made from the model and its docstrings, for editors."""

from typing import Any

from freehold_installer.config import refused_keys
from freehold_installer.config.model import InventoryFile

MODELINE = "# yaml-language-server: $schema=inventory.schema.json"
"""First line that makes most editors check a file against the schema beside it."""


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of an inventory file."""
    schema = InventoryFile.model_json_schema(by_alias=True, mode="validation")
    _tidy(schema)
    properties, definitions = schema["properties"], schema["$defs"]
    properties["hosts"]["propertyNames"] = {"pattern": "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"}
    properties["config"] = {
        "description": properties["config"]["description"],
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/ClusterConfig"}],
    }
    for row in refused_keys.REFUSALS:
        if row.verdict is refused_keys.Verdict.NOTE:
            note = {"description": f"Accepted without effect: {row.reason}."}
            definitions["ClusterConfig"]["properties"][row.steps[1]] = note
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "freehold inventory",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _tidy(part: Any) -> None:
    """Put descriptions on one line and leave out what says nothing: titles and defaults of whole sections."""
    if isinstance(part, list):
        for item in part:
            _tidy(item)
    if not isinstance(part, dict):
        return
    for name, value in list(part.items()):
        if name == "description" and isinstance(value, str):
            part[name] = " ".join(value.split())
        elif _says_nothing(name, value):
            del part[name]
        else:
            _tidy(value)


def _says_nothing(name: str, value: Any) -> bool:
    if name == "title":
        return isinstance(value, str)
    return name == "default" and (isinstance(value, dict) or value in ([], None))
