import json

import typer
from tests.support.repository import CHECKOUT
from typer.testing import CliRunner

from freehold_installer.cli.schema import schema as schema_command
from freehold_installer.config.loading import all_keys
from freehold_installer.config.reference import markdown
from freehold_installer.config.schema import json_schema


def test_every_key_is_described():
    """Each key of each part has a description, taken from its docstring, on one line."""
    schema = json_schema()
    parts = {"inventory": schema, **schema["$defs"]}
    keys = [
        (part, key, info) for part, body in parts.items() for key, info in body.get("properties", {}).items()
    ]
    assert len(keys) > 60
    assert [(part, key) for part, key, info in keys if not info.get("description", "").endswith(".")] == []
    assert [(part, key) for part, key, info in keys if "\n" in info["description"]] == []


def test_the_schema_refuses_unknown_keys_and_names_keys_as_in_the_file():
    """An editor marks unknown keys; names are camelCase with the known exceptions."""
    schema = json_schema()
    assert all(
        part["additionalProperties"] is False for part in schema["$defs"].values() if "properties" in part
    )
    assert {"podCIDR", "serviceCIDR", "nodeCIDRMaskSize"} <= set(schema["$defs"]["Networking"]["properties"])
    assert "config.controlPlane.distro.k8s.apiServer.extraArgs" in all_keys()
    assert schema["required"] == ["name", "hosts"]
    assert [one.get("type", "mapping") for one in schema["properties"]["config"]["anyOf"]] == [
        "string",
        "mapping",
    ]


def test_the_command_prints_the_schema():
    """`freehold schema` prints JSON and nothing else."""
    app = typer.Typer()
    app.command()(schema_command)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json_schema()


def test_the_reference_page_is_up_to_date():
    """docs/reference/configuration.md is what `freehold schema --reference` prints."""
    assert (CHECKOUT / "docs/reference/configuration.md").read_text() == markdown()
