"""The JSON beside the pages says what the entry says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import lvlm_atlas
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.content import Content


def test_the_json_of_a_page_is_the_entry(odd: lvlm_atlas.KnowledgeBase, odd_site: Path) -> None:
    for id_, technique in odd.atlas.techniques.items():
        name = "index_" if id_ == "index" else id_
        page = json.loads((odd_site / f"techniques/{name}.json").read_text(encoding="utf-8"))
        assert Technique.model_validate_json(json.dumps(page["technique"])) == technique
        assert page["data"]["digest"] == odd.edition.digest


def test_the_json_of_a_former_id_says_where_it_leads(odd_site: Path) -> None:
    assert json.loads((odd_site / "techniques/kivi-2bit.json").read_text(encoding="utf-8"))["now"] == ["kivi"]
    assert json.loads((odd_site / "techniques/both.json").read_text(encoding="utf-8"))["now"] == ["kivi", "fastv"]


def test_the_whole_atlas_is_one_file(odd: lvlm_atlas.KnowledgeBase, odd_site: Path) -> None:
    whole = json.loads(gzip.decompress((odd_site / "atlas.json.gz").read_bytes()))
    assert whole["techniques"].keys() == odd.atlas.techniques.keys()


def test_compatibility_has_three_values(odd: lvlm_atlas.KnowledgeBase) -> None:
    page = json.loads(Content(odd).data.technique(odd.technique("fastv")))
    assert page["compatibility"] == {"works": ["kivi"], "breaks": [], "unknown": ["index"]}
