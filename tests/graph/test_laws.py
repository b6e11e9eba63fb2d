"""The laws of the pipeline: which technique feeds which, and which draw on the same quantity."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import Laws
from synthetic import varied

MakeAtlas = Callable[..., Atlas]
SPARSE = {"acts_at": ["attention"], "effects": [{"quantity": "attention.density", "scale": 0.5}]}
RESIZE = {"acts_at": ["pixels"], "effects": [{"quantity": "pixels", "scale": 0.5}]}
EVICT = {"acts_at": ["cache-tokens"]}


def effect(quantity: str, **change: Any) -> list[dict[str, Any]]:
    return [{"quantity": quantity, **(change or {"scale": 0.5})}]


def derived(kind: str, atlas: Atlas) -> set[tuple[str, str]]:
    laws = Laws(atlas)
    return {pair for pair in permutations(atlas.techniques, 2) if any(laws.hold(*pair, kind))}


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ({"acts_at": ["frames"], "effects": effect("frames", set=8)}, RESIZE),
        ({"acts_at": ["encoder-output"], "effects": effect("vision-tokens", set=64)}, {}),
        ({"acts_at": ["llm-input"], "effects": effect("vision-tokens", cap=64)}, SPARSE),
        ({}, {"acts_at": ["cache-tokens"], "effects": effect("kv.tokens")}),
        ({"effects": effect("llm.vision-tokens", at_most="N_v")}, SPARSE),
    ],
)
def test_fewer_tokens_cascade_to_what_acts_later(atlas_of: MakeAtlas, up: dict[str, Any], down: dict[str, Any]) -> None:
    atlas = atlas_of(up=up, down=down)
    assert derived("cascades-to", atlas) == {("up", "down")}
    ((law, reason),) = Laws(atlas).hold("up", "down", "cascades-to")
    assert law.id == "upstream-tokens"
    assert all(f"`{t.effects[0].quantity}`" in reason for t in atlas.techniques.values())


@pytest.mark.parametrize(
    ("up", "down"),
    [
        pytest.param({}, {}, id="both act at the same place"),
        pytest.param({"acts_at": ["cache-tokens"], "effects": effect("kv.tokens")}, SPARSE, id="the cache comes later"),
        pytest.param({"effects": effect("llm.vision-tokens", scale=1.5)}, SPARSE, id="tokens are added"),
        pytest.param({"effects": effect("llm.vision-tokens", at_least=8)}, SPARSE, id="only a lower bound is known"),
        pytest.param({}, {"acts_at": ["stop"], "effects": effect("output-tokens")}, id="output tokens do not depend"),
    ],
)
def test_nothing_cascades_where(atlas_of: MakeAtlas, up: dict[str, Any], down: dict[str, Any]) -> None:
    assert not derived("cascades-to", atlas_of(up=up, down=down))


def test_an_effect_happens_at_the_last_place_before_its_quantitys_own(atlas_of: MakeAtlas) -> None:
    # `hybrid` only looks at the encoder's output; it drops tokens between LLM layers, after `middle`.
    hybrid = {"acts_at": ["encoder-output", "llm-layer"], "effects": effect("llm.vision-tokens")}
    middle = {"acts_at": ["llm-input"], "effects": effect("vision-tokens")}
    assert derived("cascades-to", atlas_of(hybrid=hybrid, middle=middle)) == {("middle", "hybrid")}


@pytest.mark.parametrize(
    ("one", "two", "pairs"),
    [
        pytest.param({"acts_at": ["encoder-output"], "effects": effect("vision-tokens")},
                     {"acts_at": ["llm-input"], "effects": effect("vision-tokens")},
                     {("one", "two")}, id="the later finds less"),
        pytest.param({}, {}, {("one", "two"), ("two", "one")}, id="at one place either may come second"),
        pytest.param({"acts_at": ["encoder-output"], "effects": effect("vision-tokens")},
                     {"acts_at": ["llm-input"], "effects": effect("vision-tokens", cap=64)},
                     {("one", "two"), ("two", "one")}, id="a fixed number takes from the earlier one"),
        pytest.param({**EVICT, "effects": effect("kv.tokens", scale=0.5, of="vision")},
                     {**EVICT, "effects": effect("kv.tokens", scale=0.5)},
                     {("one", "two"), ("two", "one")}, id="vision entries are some of all"),
        pytest.param({**EVICT, "effects": effect("kv.tokens", scale=0.5, of="vision")},
                     {**EVICT, "effects": effect("kv.tokens", scale=0.5, of="text")}, set(), id="two parts of a cache"),
        pytest.param({}, {"effects": effect("llm.vision-tokens", scale=1.5)}, set(), id="tokens are added"),
        pytest.param({}, EVICT | {"effects": effect("kv.tokens")}, set(), id="another quantity"),
    ],
)  # fmt: skip
def test_what_two_techniques_both_reduce_is_less_for_the_later(
    atlas_of: MakeAtlas, one: dict[str, Any], two: dict[str, Any], pairs: set[tuple[str, str]]
) -> None:
    atlas = atlas_of(one=one, two=two)
    assert derived("diminishes", atlas) == pairs
    assert all("`" in reason for pair in pairs for _, reason in Laws(atlas).hold(*pair, "diminishes"))


def test_techniques_cascade_only_where_their_places_do(kb: KnowledgeBase) -> None:
    for atlas in (kb.atlas, varied(kb.atlas, 45).atlas):
        laws = Laws(atlas)
        orders = {(one.order, two.order) for one, two in laws.cascading()}
        for start, end in derived("cascades-to", atlas):
            joined = {(one.order, two.order) for one in laws.placed(start) for two in laws.placed(end)}
            assert joined & orders


@pytest.mark.parametrize(
    ("one", "two", "holds"),
    [
        ("frames", "pixels", True),
        ("llm-input", "cache-bits", True),
        ("llm-layer", "decode-loop", True),
        ("cache", "cache-tokens", False),
        ("llm-layer", "llm-input", False),
        ("llm-layer", "stop", False),
        ("attention", "cache", False),
        ("frames", "scheduler", False),
    ],
)
def test_a_place_cascades_to_the_later_ones_that_work_on_its_tokens(
    kb: KnowledgeBase, one: str, two: str, holds: bool
) -> None:
    assert kb.laws.cascades(one, two) is holds


def test_the_places_that_feed_a_technique_are_those_whose_techniques_cascade_to_it(kb: KnowledgeBase) -> None:
    for id_ in kb.atlas.techniques:
        fed_by, feeds = ({place.order for place in places} for places in (kb.laws.fed_by(id_), kb.laws.feeds(id_)))
        for other in kb.atlas.techniques:
            orders = {each.order for each in kb.laws.placed(other)}
            if any(kb.laws.hold(other, id_, "cascades-to")):
                assert orders & fed_by
            if any(kb.laws.hold(id_, other, "cascades-to")):
                assert orders & feeds
