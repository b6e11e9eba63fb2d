"""Records beside trained weights are read, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvlm_atlas.atlas.trained import FOLDER, MODEL, PART, records
from lvlm_atlas.fault import AtlasError


def put(root: Path, text: str) -> Path:
    path = root / FOLDER / "one" / MODEL
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return root


def test_records_of_a_file_name_are_found_by_id(tmp_path: Path) -> None:
    put(tmp_path, "id: nu\nsha256: abc\n")
    assert records(tmp_path, MODEL) == {"nu": {"id": "nu", "sha256": "abc"}}
    assert records(tmp_path, PART) == {}


@pytest.mark.parametrize("text", ["id: [", "just words", "id: nu"])
def test_a_file_that_is_no_record_is_named_with_the_repair(text: str, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=rf"{MODEL}: is no record .*train it anew"):
        records(put(tmp_path, text), MODEL)
