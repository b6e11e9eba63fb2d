"""The JSON of commands is as its schema says, and the schema is not so wide that anything would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lvlm_atlas.cli.contracts import CONTRACTS

REQUEST = ("-m", "qwen2.5-vl-7b", "-d", "l40s")
COMMANDS: dict[str, tuple[str, ...]] = {
    "estimate": ("estimate", *REQUEST),
    "plan": ("plan", *REQUEST, "-g", "ttft", "--slo", "ttft=1", "--max", "2", "--keep-quality", "0.8"),
    "interactions": ("interactions", "fastv", "kivi", *REQUEST),
    "results": ("results", "fastv"),
    "list": ("list",),
    "query": ("query", "composes-with(fastv)"),
    "graph": ("graph", "fastv"),
    "check": ("check",),
    "diff": ("diff", "HEAD"),
    "serve-sim": ("serve-sim", *REQUEST, "-n", "20", "--price", "2", "--slo", "ttft=5"),
}


@pytest.fixture
def outputs(run, root: Path, monkeypatch: pytest.MonkeyPatch):
    """What a command prints as JSON; of a catalog with a fault, or another edition, where it would print nothing."""

    def output(name: str) -> Any:
        arguments = COMMANDS[name]
        if name in ("check", "diff"):
            entry = sorted(root.glob("catalog/techniques/*/*/*.yaml"))[0]
            if name == "diff":
                text = entry.read_text("utf-8").replace("summary: ", "summary: Now: ", 1)
                other = root.parent / "other"
                import shutil

                shutil.copytree(root, other)
                arguments = ("diff", str(other), str(root))
                entry.write_text(text.replace("Now: ", "Now, "), "utf-8")
            else:
                entry.write_text(entry.read_text("utf-8") + "surprise: 1\n", "utf-8")
                arguments = ("check", "--root", str(root))
        return json.loads(run(*arguments, "-f", "json").out)

    return output


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_a_command_prints_is_as_its_schema_says(run, outputs, name: str) -> None:
    schema = json.loads(run("schema", name).out)
    found = outputs(name)
    assert found
    jsonschema.validate(found, schema)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_key_that_is_missing_is_refused(run, outputs, name: str) -> None:
    schema, found = json.loads(run("schema", name).out), outputs(name)
    record = found[0] if isinstance(found, list) else found
    required = schema["required"] if "required" in schema else _item(schema)["required"]
    for key in required:
        broken = {other: value for other, value in record.items() if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([broken] if isinstance(found, list) else broken, schema)


def _item(schema: dict[str, Any]) -> dict[str, Any]:
    """What an array of records has as items."""
    items = schema["items"]
    return schema["$defs"][items["$ref"].rpartition("/")[2]] if "$ref" in items else items


def test_files_have_schemas_too_and_a_wrong_name_is_told(run) -> None:
    assert json.loads(run("schema", "technique").out)["title"]
    said = run("schema", "estimat")
    assert (said.code, "did you mean 'estimate'?" in said.err) == (2, True)
