"""Pages of serving systems, and what pages say of engines and of other places."""

from __future__ import annotations

import json
import pickle
import re
from html import unescape
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.pages import pages
from lvlm_atlas.site.systems import rules_of, system_pages


def shown(page: Path) -> str:
    return unescape(page.read_text(encoding="utf-8"))


def test_every_system_has_a_page_that_says_what_it_decides_and_moves(
    catalog: lvlm_atlas.KnowledgeBase, site: Path
) -> None:
    assert len(catalog.atlas.systems) >= 4
    listed = shown(site / "systems/index.html")
    for id_, system in catalog.atlas.systems.items():
        text = shown(site / f"systems/{id_}.html")
        for part in (system.name, *(decision.decides for decision in system.policy)):
            assert part in text
        for transfer in system.communication:
            assert transfer.start in text
        assert f"href={id_}.html" in listed
        data = json.loads((site / f"systems/{id_}.json").read_text(encoding="utf-8"))
        assert data["system"]["policy"] == [decision.model_dump(mode="json") for decision in system.policy]


def test_a_catalog_without_systems_has_no_page_of_them(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert list(system_pages(Content(odd))) == []
    assert not any(page.path.startswith("systems/") for page in pages(Content(odd)))


@pytest.mark.parametrize("id_", ["kivi", "speculative-sampling"])
def test_a_technique_says_where_it_ships_and_where_not_all_is_the_same(
    catalog: lvlm_atlas.KnowledgeBase, site: Path, id_: str
) -> None:
    text = shown(site / f"techniques/{id_}.html")
    technique = catalog.technique(id_)
    assert technique.shipped_in
    for shipped in technique.shipped_in:
        assert catalog.atlas.term("engine", shipped.engine).name in text
        assert shipped.source.place in text


def test_a_family_of_serving_systems_lists_them(catalog: lvlm_atlas.KnowledgeBase) -> None:
    found = {system.id for system in Content(catalog).systems_of("serving-systems")}
    assert found == {id_ for id_, system in catalog.atlas.systems.items() if system.kind == "serving-system"}


def test_what_systems_describe_is_not_called_undescribed(catalog: lvlm_atlas.KnowledgeBase, site: Path) -> None:
    matrix = shown(site / "matrix.html")
    serving = [system for system in catalog.atlas.systems.values() if system.kind == "serving-system"]
    assert all(system.name in matrix for system in serving)
    home = re.sub(r"<[^>]*>", "", shown(site / "index.html"))
    assert f"{len(serving)} serving systems described" in home


def test_a_family_of_any_stage_stands_where_its_techniques_do(catalog: lvlm_atlas.KnowledgeBase) -> None:
    content = Content(catalog)
    named = {stage.id: [f.id for f in content.families(stage=stage.id)] for stage in catalog.atlas.terms("stage")}
    stages = {technique.stage for technique in content.of_family("baselines")}
    assert {stage for stage, families in named.items() if "baselines" in families} == stages


def test_rules_of_layouts_are_shown_also_of_records_from_a_snapshot(catalog: lvlm_atlas.KnowledgeBase) -> None:
    layouts = [layout for system in catalog.atlas.systems.values() for layout in system.simulated]
    assert any(rules_of(layout) for layout in layouts)
    assert all(rules_of(pickle.loads(pickle.dumps(layout))) == rules_of(layout) for layout in layouts)  # noqa: S301
