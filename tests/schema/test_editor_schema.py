"""The JSON Schemas for editors agree with the models, the taxonomy and the files in the repository."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lvlm_atlas.atlas.editor_schema import editor_schemas, write_editor_schemas
from lvlm_atlas.atlas.loader import load
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import FaultsError
from lvlm_atlas.rules.sample import ALPHA, BETA, DEVICE, LIST, MODEL, RUN, RUNTIME, SYSTEM, TIMING, WORKLOAD, sound
from lvlm_atlas.schema.export import json_schema
from lvlm_atlas.schema.technique import Technique


def _schemas(root: Path) -> dict[str, Any]:
    return {path.stem: json.loads(text) for path, text in editor_schemas(root).items()}


@pytest.mark.catalog
def test_the_committed_schemas_are_current() -> None:
    root = data_root()
    for path, text in editor_schemas(root).items():
        assert (root / path).read_text() == text, f"{path} is out of date; run `lvlm-atlas schema`"


def test_what_is_written_is_what_is_exported(root: Path) -> None:
    assert [(root / path).read_text() for path in write_editor_schemas(root)] == list(editor_schemas(root).values())


def test_sound_files_fit_their_schemas(root: Path) -> None:
    schemas = _schemas(root)
    for path, data in sound().items():
        if path == "papers.bib":
            continue
        names = {
            RUN: "measurement",
            MODEL: "model",
            DEVICE: "hardware",
            WORKLOAD: "workload",
            SYSTEM: "system",
            LIST: "list",
            RUNTIME: "runtime",
            TIMING: "timing",
        }
        name = "vocabulary" if path.startswith("taxonomy") else names.get(path, "technique")
        jsonschema.Draft202012Validator(schemas[name]).validate(data)


@pytest.mark.parametrize("change", [{"stage": "no-such"}, {"sumary": "x"}, {"acts_at": ["nowhere"]}, {"id": "A B"}])
def test_an_editor_sees_what_the_check_would_see(root: Path, change: dict[str, Any]) -> None:
    entry = {**sound()[ALPHA], **change}
    assert not jsonschema.Draft202012Validator(_schemas(root)["technique"]).is_valid(entry)


def test_fields_carry_their_docstrings_and_terms(root: Path) -> None:
    schema = json_schema(Technique, load(root).vocabularies)
    assert schema["properties"]["paper"]["description"] == "The work that introduces it."
    assert schema["properties"]["stage"]["enum"] == ["encoding", "prefilling", "decoding", "serving"]
    assert "enum" not in schema["properties"]["paper"]


def test_no_schema_is_written_from_a_broken_taxonomy(root: Path) -> None:
    (root / "taxonomy/stage.yaml").write_text("vocabulary: [")
    with pytest.raises(FaultsError):
        write_editor_schemas(root)


def test_a_broken_entry_does_not_stop_the_schemas(root: Path) -> None:
    (root / BETA).write_text("id: [")
    assert _schemas(root)["technique"]["title"] == "Technique"


def test_technique_files_name_their_schema() -> None:
    for path in sorted((data_root() / "catalog/techniques").rglob("*.yaml")):
        text = path.read_text()
        if {"moved", "split"} & set(yaml.safe_load(text)):
            continue
        assert text.startswith("# yaml-language-server: $schema=../../../../taxonomy/schema/technique.json\n"), path


FOLDERS = (("models", "model"), ("hardware", "hardware"), ("workloads", "workload"), ("systems", "system"),
           ("lists", "list"))  # fmt: skip


@pytest.mark.parametrize(("folder", "name"), FOLDERS)
def test_files_of_the_other_kinds_name_their_schema(folder: str, name: str) -> None:
    for path in sorted((data_root() / "catalog" / folder).glob("*.yaml")):
        first = path.read_text().partition("\n")[0]
        assert first == f"# yaml-language-server: $schema=../../taxonomy/schema/{name}.json", path


def test_the_catalog_fits_the_schemas_that_editors_see() -> None:
    schemas = {path.stem: json.loads(text) for path, text in editor_schemas().items()}
    for folder, name in FOLDERS:
        validator = jsonschema.Draft202012Validator(schemas[name])
        for path in sorted((data_root() / "catalog" / folder).glob("*.yaml")):
            validator.validate(yaml.safe_load(path.read_text()))
