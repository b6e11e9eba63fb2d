"""Entries become what the engine applies: every kind of effect and every cost, at both ends of what is left open."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from lvlm_atlas import load
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.technique import Parameter, Technique
from lvlm_atlas.specs.technique import applied, bounded, effect_places

ATLAS = load(Path(__file__).resolve().parents[2]).atlas
EFFECT: TypeAdapter[Any] = TypeAdapter(Effect)
KINDS = get_args(get_args(Effect)[0])
LEAST = {
    "set": 1, "elements": 64, "key": 4, "value": 4, "group_size": 32, "group_overhead_bit": 32, "draft_length": 3,
    "draft_nodes": 3, "draft_passes": 3, "accepted_at_most": 3, "draft_vision_tokens": 0, "exact": "no",
}  # fmt: skip


def quantity(kind: Any) -> str:
    return str(get_args(kind.model_fields["quantity"].annotation)[0])


def entry(*effects: dict[str, Any], overheads: Any = (), parameters: Any = None) -> Technique:
    return ATLAS.techniques["fastv"].model_copy(
        update={
            "effects": tuple(map(EFFECT.validate_python, effects)),
            "overheads": tuple(Overhead.model_validate({"why": "Made up.", **each}) for each in overheads),
            "parameters": parameters or {},
        }
    )  # fmt: skip


def ends(technique: Technique) -> tuple[Applied, Applied]:
    places = effect_places(ATLAS, technique)
    return bounded(technique, places, {}, "least"), bounded(technique, places, {}, "most")


def test_an_effect_is_where_it_says_else_at_the_last_place_not_past_its_quantity() -> None:
    two = {"acts_at": ("encoder-output", "adapter-output")}
    orders = {place: ATLAS.term("position", place).order for place in two["acts_at"]}
    said = entry(
        {"quantity": "vision-tokens", "cap": 8, "at": "encoder-output"}, {"quantity": "vision-tokens", "cap": 8}
    )
    assert effect_places(ATLAS, said.model_copy(update=two)) == tuple(orders.values())


def test_the_tokens_of_all_runs_of_an_answer_are_counted_after_whatever_ends_one() -> None:
    two = entry({"quantity": "output-tokens", "at_most": "2 * N_o"}).model_copy(update={"acts_at": ("answer",)})
    cut = entry({"quantity": "output-tokens", "cap": 8}).model_copy(update={"acts_at": ("stop",)})
    assert effect_places(ATLAS, two) > effect_places(ATLAS, cut)


def test_an_effect_where_its_technique_does_not_act_is_refused() -> None:
    raw = entry({"quantity": "vision-tokens", "cap": 8, "at": "frames"}).model_dump_json(by_alias=True)
    with pytest.raises(ValueError, match="`at: frames`; name one of llm-layer"):
        Technique.model_validate_json(raw)


@pytest.mark.parametrize("kind", KINDS, ids=quantity)
def test_every_kind_of_effect_is_lowered(kind: Any) -> None:
    given = {name: value for name, value in LEAST.items() if name in kind.model_fields}
    technique = entry({"quantity": quantity(kind), **given})
    for found in (applied(ATLAS, technique), *ends(technique)):
        assert len(found.changes) + len(found.cache_bits) + len(found.speculation) == 1
        assert {change.quantity for change in found.changes} <= {quantity(kind)}


def test_a_limit_alone_leaves_the_prompts_entries_as_they_are() -> None:
    (change,) = applied(ATLAS, entry({"quantity": "kv.tokens", "limit": "32 + 4"})).changes
    assert (change.apply(77, {}), change.limit) == (77, 36)


def test_where_data_decide_how_a_cache_grows_estimates_take_the_most_and_say_so() -> None:
    lowered = applied(ATLAS, entry({"quantity": "kv.tokens", "limit_at_least": 36}))
    (change,) = lowered.changes
    assert (change.apply(77, {}), change.limit) == (77, None)
    assert any("which new tokens are held" in each for each in lowered.assumptions)


def test_lists_stay_lists_in_formulas() -> None:
    layers = Parameter(type="ints", default=(3, 9), range="[0, 99]", doc="Layers.")
    technique = entry(
        {"quantity": "llm.vision-tokens", "scale": "1 / (1 + count(layers, l))", "from_layer": "at(layers, 0)"},
        parameters={"layers": layers},
    )
    found = applied(ATLAS, technique)
    (change,) = found.changes
    assert change.from_layer == 3
    assert callable(change.amount)
    assert change.amount({**found.parameters, "l": 9}) == pytest.approx(1 / 3)


def test_bits_keep_their_layers_and_modality() -> None:
    bits = {
        "quantity": "kv.bits",
        **{name: LEAST[name] for name in ("key", "value", "group_size", "group_overhead_bit")},
    }
    one, two = applied(
        ATLAS, entry(bits, {**bits, "of": "vision", "from_layer": 2, "to_layer": 8, "key": 2})
    ).cache_bits
    assert (one.of, one.from_layer, one.to_layer, one.key) == ("all", 0, None, 4)
    assert (two.of, two.from_layer, two.to_layer, two.key) == ("vision", 2, 8, 2)


def test_what_a_round_drafts_is_taken_at_both_ends_by_checks_and_at_its_most_by_estimates() -> None:
    draft = {"quantity": "speculation", **{name: LEAST[name] for name in LEAST if name.startswith("draft_")}}
    draft["draft_vision_tokens"] = 3
    names = ("draft_length", "draft_nodes", "draft_passes", "draft_vision_tokens")
    at_least = {f"{name}_at_least": least for name, least in zip(names, (1, 2, 0, 1), strict=True)}
    technique = entry({**draft, **at_least, "accepted_at_most": 3, "exact": "no"})
    drafted = [
        tuple(getattr(each.speculation[0], name) for name in names)
        for each in (*ends(technique), applied(ATLAS, technique))
    ]
    assert drafted == [(1, 2, 0, 1), (3, 3, 3, 3), (3, 3, 3, 3)]
    assert any("drafts as much as it can" in text for text in applied(ATLAS, technique).assumptions)


def test_overheads_carry_their_layers_heads_steps_and_waits() -> None:
    costs = {
        "stage": "prefilling", "attention_rows": 2, "from_layer": 1, "to_layer": 3, "heads": "H // 2",
        "sequential_steps": 5, "host_syncs": 1, "serialises_batch": True,
    }  # fmt: skip
    (found,) = applied(ATLAS, entry({"quantity": "frames", "set": 1}, overheads=[costs])).overheads
    assert (found.attention_rows, found.from_layer, found.to_layer) == (2, 1, 3)
    assert (found.sequential_steps, found.host_syncs, found.serialises_batch) == (5, 1, True)
    assert callable(found.heads)
    assert found.heads({"H": 8}) == 4
    least, most = ends(entry({"quantity": "frames", "set": 1}, overheads=[{**costs, "upper_bound": True}]))
    assert (least.overheads[0].attention_rows, most.overheads[0].attention_rows) == (0, 2)


def test_only_what_counts_tokens_is_set_by_an_outcome_of_tokens() -> None:
    tokens = entry({"quantity": "llm.vision-queries", "at_most": "N_v"})
    (change,) = applied(ATLAS, tokens, outcomes={"tokens": 5}).changes
    assert change.apply(math.inf, {"N_v": 9}) == 5
    with pytest.raises(Exception, match="leaves no tokens to the data"):
        applied(ATLAS, entry({"quantity": "kv.read", "at_most": 1}), outcomes={"tokens": 5})
