"""Expectations: the engine's walk at both ends of what entries leave open, and the same for checks and for plans."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lvlm_atlas import load
from lvlm_atlas.lab.attention_rows import longest_rows
from lvlm_atlas.lab.dimensions import dimensions_of
from lvlm_atlas.lab.expectation import Interval, Member, Observed, expected
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.roofline.cache import growing
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.dimensions import Dimensions, dimensions
from lvlm_atlas.roofline.kind import Place, each_cache_layer
from lvlm_atlas.roofline.layout import layout
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.state import State
from lvlm_atlas.roofline.visual import Patches, Steps, Visual
from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.technique import applied, effect_places

_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parents[1] / "synthetic.py")
assert _spec is not None
assert _spec.loader is not None
made_up: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up)

ATLAS = load(Path(__file__).resolve().parents[2]).atlas


def four_frames(frame_share: float, pixels: tuple[Steps, ...] | None) -> Visual:
    """Four of 400 pixels, whatever number they are resized to."""
    frames = round(4 * frame_share)
    return Visual(
        (Patches(frames, 17, 16),),
        16 * frames,
        16 * frames,
        frames=frames,
        pixels=(pixels[0][-1] if pixels else 400.0,),
    )


SIZES = Dimensions(
    visual=four_frames, encoder_layers=3, encoder_heads=2, encoder_hidden=8, text_tokens=10, layers=4, heads=4,
    kv_heads=2, hidden=32, head_dim=8, element_byte=2, output_tokens=6,
)  # fmt: skip
PLACES = {"frames": 1, "encoder.tokens": 3, "vision-tokens": 6, "llm.vision-tokens": 7, "kv.tokens": 9, "kv.bits": 10}


EFFECT: TypeAdapter[Effect] = TypeAdapter(Effect)


def effect(quantity: str, **rest: Any) -> Any:
    return EFFECT.validate_python({"quantity": quantity, **rest})


def member(*effects: Any, overheads: tuple[Overhead, ...] = (), places: Any = None) -> Member:
    technique = ATLAS.techniques["fastv"].model_copy(
        update={"id": f"made-{id(effects)}", "effects": effects, "overheads": overheads, "parameters": {}}
    )
    return Member(technique, places or tuple(PLACES.get(each.quantity, 8) for each in effects), {})


def numbers(measure: str, *stack: Member, observed: Observed | None = None) -> list[Any]:
    """The expected numbers; a pair where they are bounds."""
    bounds = expected(SIZES, stack, observed)[measure]
    return [bound.low if bound.low == bound.high else (bound.low, bound.high) for bound in bounds]


def test_without_effects_everything_is_exact_and_plain() -> None:
    found = expected(SIZES, ())
    assert all(bound.low == bound.high for bounds in found.values() for bound in bounds)
    assert numbers("encoder.tokens") == [17] * 4
    assert numbers("llm.vision-tokens") == [64] * 4
    assert numbers("kv.tokens") == [74] * 4
    assert numbers("kv.bits: bytes") == [2 * 2 * 8 * 2 * 74] * 4
    assert numbers("kv.bits: bytes at the end") == [4 * 2 * 2 * 8 * 2 * (74 + 5)]
    assert numbers("speculation: target passes") == [5]
    assert numbers("attention.density") == [1] * 4


@pytest.mark.parametrize(
    ("rounding", "kept"), [("nearest", 2), ("down", 2), ("up", 3)], ids=["halves to even", "down", "up"]
)
def test_a_scaled_count_is_rounded_as_the_effect_says(rounding: str, kept: int) -> None:
    assert numbers("frames", member(effect("frames", scale=0.625, rounding=rounding))) == [kept]


def test_a_cap_never_raises_and_one_frame_and_one_token_of_an_answer_are_always_left() -> None:
    assert numbers("frames", member(effect("frames", cap=9))) == [4]
    assert numbers("frames", member(effect("frames", cap=3))) == [3]
    assert numbers("frames", member(effect("frames", remove=7))) == [1]
    assert numbers("vision-tokens", member(effect("vision-tokens", remove=70))) == [0]
    assert numbers("output-tokens", member(effect("output-tokens", scale=0.05))) == [1]


def test_effects_start_from_what_earlier_places_left_whatever_the_order_of_the_stack() -> None:
    frames, tokens = member(effect("frames", set=2)), member(effect("vision-tokens", scale=0.25))
    assert numbers("vision-tokens", frames, tokens) == numbers("vision-tokens", tokens, frames) == [8]


def test_at_one_place_effects_apply_in_the_order_of_the_stack() -> None:
    cap, scale = member(effect("frames", cap=2)), member(effect("frames", scale=0.5))
    assert numbers("frames", cap, scale) == [1]
    assert numbers("frames", scale, cap) == [2]


def test_encoder_tokens_removed_in_a_layer_are_gone_in_those_that_follow() -> None:
    halving = member(effect("encoder.tokens", remove="min(6, N_p // 2)"))
    assert numbers("encoder.tokens", halving) == [17, 11, 6, 4]
    assert numbers("vision-tokens", halving) == [4 * 3]


def test_a_removal_ends_at_its_last_layer_and_the_removed_stay_removed() -> None:
    some = member(effect("llm.vision-tokens", remove="l", from_layer=1, to_layer=3))
    assert numbers("llm.vision-tokens", some) == [64, 63, 61, 61]


def test_symbols_stand_for_the_state_before_the_effect_in_the_layer_at_hand() -> None:
    prune = member(effect("llm.vision-tokens", scale=0.5, from_layer=2))
    evict = member(effect("kv.tokens", set="N // 2 + l"))
    assert numbers("kv.tokens", prune, evict) == [37, 38, 23, 24]


@pytest.mark.parametrize(
    ("of", "entries", "vision"), [("all", 37, (27, 37)), ("vision", 42, 32), ("text", 69, 64)], ids=str
)
def test_cache_effects_count_all_entries_or_one_modality(of: str, entries: int, vision: Any) -> None:
    evict = member(effect("kv.tokens", scale=0.5, of=of))
    assert numbers("kv.tokens", evict) == [entries] * 4
    assert numbers("kv.tokens: vision", evict) == [vision] * 4


def test_a_cache_that_is_cut_twice_may_hold_what_either_cut_left() -> None:
    """60 to 65 of 74 entries stay, then of the vision entries 5: beside them 0 to 10 text entries."""
    first = member(effect("kv.tokens", at_least=60, at_most=65))
    assert numbers("kv.tokens", first, member(effect("kv.tokens", set=5, of="vision"))) == [(5, 15)] * 4


def test_quantised_bytes_hold_codes_scales_and_the_exact_residual() -> None:
    bits = effect(
        "kv.bits", key=2, value=4, group_size=8, group_overhead_bit=32, full_precision_keys="N % 16",
        full_precision_values=16,
    )  # fmt: skip
    keys, values = 64 * (2 + 4) + 10 * 16, 58 * (4 + 4) + 16 * 16
    assert numbers("kv.bits: bytes", member(bits)) == [(keys + values) * 2 * 8 / 8] * 4


def test_speculation_bounds_rounds_and_the_cache_at_the_end() -> None:
    draft = effect(
        "speculation", draft_length=3, draft_nodes=5, draft_passes=3, accepted_at_most=3,
        draft_vision_tokens="N_v // 4", exact="greedy",
    )  # fmt: skip
    assert numbers("speculation: draft length", member(draft)) == [3]
    assert numbers("speculation: draft nodes", member(draft)) == [5]
    assert numbers("speculation: draft vision tokens", member(draft)) == [16]
    assert numbers("speculation: accepted", member(draft)) == [(0, 3)]
    assert numbers("speculation: target passes", member(draft)) == [(2, 5)]
    entry = 2 * 2 * 8 * 2 * 4
    assert numbers("kv.bits: bytes at the end", member(draft)) == [(74 + 5) * entry]
    seen = {"speculation: accepted": (3.0, 1.0), "speculation: target passes": (2.0,)}  # 6 tokens, one too many
    assert numbers("kv.bits: bytes at the end", member(draft), observed=seen) == [(74 + 5) * entry]


def test_passes_of_the_target_are_bounded_by_both_the_answer_and_what_is_accepted() -> None:
    draft = effect(
        "speculation", draft_length=3, draft_nodes=3, draft_passes=3, accepted_at_least=1, accepted_at_most=3,
        draft_vision_tokens=0, exact="greedy",
    )  # fmt: skip
    stop = effect("output-tokens", at_least=3, at_most=5)
    assert numbers("speculation: target passes", member(draft), member(stop)) == [(1, 2)]


def test_rows_of_attention_cost_what_the_causal_mask_leaves_of_them() -> None:
    def rows(amount: Any, stage: str = "prefilling", *, upper_bound: bool = False) -> list[Any]:
        overhead = Overhead(stage=stage, attention_rows=amount, upper_bound=upper_bound, why="It reads them.")
        return numbers("overhead: attention scores", member(overheads=(overhead,)))

    assert rows(1) == [4 * 74]
    assert rows("N * L") == [4 * 4 * 74 * 75 // 2]
    assert rows("F", "encoding") == [4 * 17 * 2]
    assert rows(1, upper_bound=True) == [(0, 4 * 74)]


def test_bounds_travel_on_as_bounds_and_what_was_observed_closes_them() -> None:
    frames = member(effect("frames", at_least=2, at_most=3))
    assert numbers("vision-tokens", frames) == [(32, 48)]
    assert numbers("kv.tokens", frames) == [(42, 58)] * 4
    assert numbers("vision-tokens", frames, observed={"frames": (3.0,)}) == [48]


def test_one_bound_leaves_the_other_at_the_least_that_can_be_or_at_the_old_value() -> None:
    assert numbers("frames", member(effect("frames", at_most=3))) == [(1, 3)]
    assert numbers("frames", member(effect("frames", at_least=2))) == [(2, 4)]
    assert numbers("vision-tokens", member(effect("vision-tokens", at_most=9))) == [(0, 9)]


def test_a_wrong_declaration_shows_at_its_own_quantity_alone() -> None:
    wrong = member(effect("frames", set=1))
    seen = {"frames": (2.0,)}
    assert numbers("frames", wrong, observed=seen) == [1]
    assert numbers("vision-tokens", wrong, observed=seen) == [32]


def test_a_wrong_cut_of_the_cache_does_not_hide_behind_the_vision_entries_that_were_seen() -> None:
    cut = member(effect("kv.tokens", set=37))
    assert numbers("kv.tokens", cut, observed={"kv.tokens: vision": (30.0,) * 4, "kv.tokens": (37.0,) * 4}) == [37] * 4


BITING: dict[str, dict[str, Any]] = {
    "frames": {"set": 2}, "pixels": {"scale": 0.5}, "encoder.flop": {"set": 9}, "encoder.density": {"set": 0.5},
    "encoder.tokens": {"remove": 1}, "adapter.flop": {"set": 9}, "vision-tokens": {"set": 9}, "text-tokens": {"set": 9},
    "llm.vision-tokens": {"set": 9}, "llm.vision-queries": {"set": 9}, "llm.vision-mlp": {"set": 9},
    "llm.weights": {"scale": 0.5}, "attention.density": {"set": 0.5}, "kv.tokens": {"set": 9}, "kv.layers": {"set": 2},
    "kv.state": {"elements": 64}, "kv.read": {"set": 0.5}, "llm.depth": {"set": 2}, "output-tokens": {"set": 3},
    "kv.bits": {"key": 4, "value": 4, "group_size": 8, "group_overhead_bit": 32}, "kv.resident": {"set": 0.5},
    "speculation": {"draft_length": 3, "draft_nodes": 3, "draft_passes": 3, "accepted_at_most": 3,
                    "draft_vision_tokens": 0, "exact": "no"},
}  # fmt: skip


def test_of_an_encoder_that_takes_the_place_of_the_models_only_what_leaves_it_is_predicted() -> None:
    other = member(effect("encoder.flop", set=9), effect("encoder.tokens", set=5))
    assert numbers("encoder.tokens", other) == [5]
    assert numbers("encoder.tokens", other, observed={"encoder.flop": (9.0,), "encoder.tokens": (5.0,)}) == [5]
    assert numbers("encoder.tokens", member(effect("encoder.tokens", set=5))) == [17, 6, 6, 6]


@pytest.mark.parametrize("quantity", sorted(term.id for term in ATLAS.terms("quantity") if term.id != "overhead"))
def test_every_quantity_of_the_taxonomy_is_predicted_and_shows_at_its_own_measure(quantity: str) -> None:
    stack = [member(effect(quantity, **BITING[quantity]))]
    before, after = expected(SIZES, ()), expected(SIZES, stack)
    moved = {measure.split(":")[0] for measure, bounds in after.items() if before.get(measure) != bounds}
    assert quantity in moved


def test_pixels_are_a_share_and_a_number_of_them_is_held_against_a_frame() -> None:
    whole = ({"scale": 0.25}, 0.25), ({"set": 100}, 0.25), ({"cap": 900}, 1), ({"remove": 100}, 0.75)
    for how, share in (*whole, ({"set": "A / 2 + 100"}, 0.75)):
        (bound,) = expected(SIZES, [member(effect("pixels", **how))])["pixels"]
        assert bound == Interval(share, share)


def test_a_bounded_cache_holds_no_more_than_its_limit_while_it_grows() -> None:
    """74 entries, and 5 more while decoding."""
    limited = member(effect("kv.tokens", limit=76, from_layer=2))
    assert numbers("kv.tokens", limited) == [74] * 4
    assert numbers("kv.tokens: most while decoding", limited) == [79, 79, 76, 76]
    assert numbers("kv.bits: bytes at the end", limited) == [2 * 2 * 8 * 2 * (79 + 79 + 76 + 76)]
    below = member(effect("kv.tokens", limit=20))
    assert numbers("kv.tokens: most while decoding", below) == [74] * 4
    assert numbers("kv.bits: bytes at the end", below) == [4 * 2 * 2 * 8 * 2 * 20]


def test_a_limit_of_one_modality_leaves_the_other_to_grow() -> None:
    assert numbers("kv.tokens: most while decoding", member(effect("kv.tokens", of="vision", limit=8))) == [74] * 4
    vision, text = effect("kv.tokens", of="vision", limit=60), effect("kv.tokens", of="text", limit=12)
    assert numbers("kv.bits: bytes at the end", member(vision, text)) == [4 * 2 * 2 * 8 * 2 * (60 + 12)]


def test_a_cut_may_spare_some_of_each_modality_where_both_are_cut_behind_it() -> None:
    cut = member(effect("kv.tokens", at_least=8, at_most=14))
    caps = member(effect("kv.tokens", of="vision", cap=9), effect("kv.tokens", of="text", cap=4))
    left = [
        min(vision, 9) + min(all_ - vision, 4) for all_ in (8, 14) for vision in range(all_ + 1) if all_ - vision <= 10
    ]
    assert numbers("kv.tokens", cut, caps) == [(min(left), max(left))] * 4 == [(4, 13)] * 4


def test_what_a_growing_cache_drops_may_be_of_either_modality() -> None:
    bits = effect("kv.bits", key=4, value=4, of="vision")
    limited = member(effect("kv.tokens", limit=70), bits)
    byte = [2 * 2 * 8 * (vision / 2 + 2 * (70 - vision)) for vision in (64, 70 - (10 + 5))]
    assert numbers("kv.bits: bytes at the end", limited) == [(4 * byte[0], 4 * byte[1])]
    alike = member(effect("kv.tokens", limit=70), bits, effect("kv.bits", key=4, value=4, of="text"))
    assert numbers("kv.bits: bytes at the end", alike) == [4 * 2 * 2 * 8 / 2 * 70]


def test_heads_that_are_cut_may_each_hold_another_share_of_a_modality() -> None:
    window = effect(
        "kv.bits", key=4, value=4, of="text", full_precision_keys="min(N, 4)", full_precision_values="min(N, 4)"
    )
    seen = {"kv.tokens": (40.0,) * 4, "kv.tokens: vision": (36.0,) * 4}
    (least, most) = numbers("kv.bits: bytes", member(effect("kv.tokens", set=40), window), observed=seen)[0]
    byte_of_text = [2 * 2 * 8 * (2 * min(text, 4) + max(text - 4, 0) / 2) for text in range(11)]
    vision = 2 * 2 * 8 * 2 * 36
    assert most == pytest.approx(vision + byte_of_text[4]), "all heads hold four of text"
    assert least == pytest.approx(vision + 0.6 * byte_of_text[0] + 0.4 * byte_of_text[10]), "some none, others all ten"
    assert numbers("kv.bits: bytes", member(window))[0] == 2 * 2 * 8 * 2 * 64 + byte_of_text[10], "all hold everything"


def test_where_data_decide_which_new_tokens_are_held_a_cache_grows_by_none_to_all() -> None:
    some = member(effect("kv.tokens", limit_at_least="N", from_layer=2))
    byte = 2 * 2 * 8 * 2
    assert numbers("kv.tokens", some) == [74] * 4
    assert numbers("kv.tokens: most while decoding", some) == [79, 79, (74, 79), (74, 79)]
    assert numbers("kv.bits: bytes at the end", some) == [(byte * (79 + 79 + 74 + 74), byte * 4 * 79)]
    fewer = member(effect("kv.tokens", limit="N + 3", limit_at_least="N + 1"))
    assert numbers("kv.tokens: most while decoding", fewer) == [(75, 77)] * 4
    cut = member(effect("kv.tokens", set=40))
    for stack in ((fewer, cut), (cut, fewer)):  # it counts from what is left of the prompt
        assert numbers("kv.tokens: most while decoding", *stack) == [(41, 43)] * 4


def test_later_bits_refine_earlier_ones_by_layer_and_modality() -> None:
    plain = {"value": 8, "group_size": 8, "group_overhead_bit": 0}
    coarse, fine = effect("kv.bits", key=8, **plain), effect("kv.bits", key=2, of="vision", from_layer=3, **plain)
    byte = 2 * 8 / 8 * 74 * 16
    assert numbers("kv.bits: bytes", member(coarse, fine)) == [byte] * 3 + [byte - 2 * 8 / 8 * 64 * 6]
    assert numbers("kv.bits: bytes", member(fine)) == [2 * 2 * 8 * 2 * 74] * 3 + [2 * 8 / 8 * (64 * 10 + 10 * 32)]


def test_layers_that_share_a_cache_have_no_bytes_of_their_own_whichever_they_are() -> None:
    byte = 2 * 2 * 8 * 2
    assert numbers("kv.bits: bytes", member(effect("kv.layers", set=1))) == [(0, 74 * byte)] * 4
    assert numbers("kv.bits: bytes at the end", member(effect("kv.layers", set=1))) == [79 * byte]


def test_a_state_takes_the_place_of_the_entries_of_its_layers() -> None:
    state = member(effect("kv.state", elements="d * d", to_layer=3))
    assert numbers("kv.state", state) == [64, 64, 64, 0]
    assert numbers("kv.tokens", state) == [0, 0, 0, 74]
    assert numbers("kv.bits: bytes", state) == [64 * 2 * 2] * 3 + [2 * 2 * 8 * 2 * 74]


def test_symbols_tell_what_entered_the_llm_from_what_is_alive() -> None:
    prune = member(effect("llm.vision-tokens", set=9, from_layer=1))
    budget = member(effect("llm.vision-mlp", cap="N_in // 16 + N_v // 9 + H_v"))
    assert numbers("llm.vision-mlp", prune, budget) == [4 + 7 + 2, 4 + 1 + 2, 4 + 1 + 2, 4 + 1 + 2]


def test_rows_of_given_layers_and_heads_are_the_last_of_each() -> None:
    def rows(stage: str, **given: Any) -> Any:
        prune = effect("llm.vision-tokens", set=4, from_layer=2)
        overhead = Overhead.model_validate({"stage": stage, "why": "It reads them.", **given})
        return numbers("overhead: attention scores", member(prune, overheads=(overhead,)))

    assert rows("prefilling", attention_rows=2, from_layer=1, to_layer=3) == [4 * (74 + 73 + 14 + 13)]
    assert rows("prefilling", attention_rows="N", from_layer=2, heads=1) == [2 * 14 * 15 // 2]
    assert rows("encoding", attention_rows=3, from_layer="L_v - 2", heads="H_v - 1") == [2 * 3 * 17]


def test_measures_that_nothing_declares_are_predicted_where_a_run_has_them() -> None:
    assert "text-tokens" not in expected(SIZES, ())
    assert expected(SIZES, (), {"text-tokens": (10.0,)})["text-tokens"] == (Interval(10, 10),)
    assert "kv.tokens: most while decoding" not in expected(SIZES, [member(effect("kv.tokens", set=9))])


def test_steps_and_waits_are_those_of_all_techniques_before_decoding() -> None:
    costs = [{"stage": "prefilling", "sequential_steps": "N_v"}, {"stage": "encoding", "host_syncs": 2},
             {"stage": "decoding", "host_syncs": 7}]  # fmt: skip
    overheads = tuple(Overhead.model_validate({"why": "It waits.", **each}) for each in costs)
    seen = {"overhead: sequential steps": (0.0,), "overhead: host syncs": (0.0,)}
    stack = [member(overheads=overheads)] * 2
    found = expected(SIZES, stack, seen)
    assert (found["overhead: sequential steps"][0].low, found["overhead: host syncs"][0].high) == (128, 4)


def test_what_is_typical_is_no_bound() -> None:
    source = {"paper": "zhang2026survey", "place": "table 10"}
    frames = effect("frames", at_most=4, typical={"value": 2, "setting": "made up", "source": source})
    assert numbers("frames", member(frames)) == [(1, 4)]


def test_an_amount_that_cannot_be_evaluated_is_said() -> None:
    with pytest.raises(ValueError, match="needs nonsense"):
        expected(SIZES, [member(effect("frames", set="nonsense"))])


@given(tokens=st.lists(st.integers(0, 12), min_size=1, max_size=4), rows=st.integers(0, 60))
def test_the_longest_rows_are_those_of_all_maps_in_order(tokens: list[int], rows: int) -> None:
    lengths = sorted((length for count in tokens for length in range(1, count + 1)), reverse=True)
    assert longest_rows(rows, tokens) == sum(lengths[:rows])
    half = sum(lengths[:rows]) + (lengths[rows] / 2 if rows < len(lengths) else 0)
    assert longest_rows(rows + 0.5, tokens) == half


def test_expectations_need_no_torch() -> None:
    code = "import sys, lvlm_atlas.lab.expectation, lvlm_atlas.lab.conformance; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


OPEN = (
    "frames", "vision-tokens", "llm.vision-tokens", "llm.vision-queries", "llm.vision-mlp", "attention.density",
    "kv.tokens", "kv.read", "output-tokens",
)  # fmt: skip
"""Quantities whose changes are made bounds below."""
PLANNER = Planner()


def opened(technique: Technique, draw: random.Random) -> Technique:
    """The technique with some of its exact changes left open around them, what was exact as the typical value."""
    source = {"paper": "zhang2026survey", "place": "table 10"}
    effects = []
    for each in technique.effects:
        if each.quantity in OPEN and draw.random() < 0.5 and (each.set or each.scale or each.cap) is not None:
            old = {"frames": "F", "output-tokens": "N_o"} | dict.fromkeys(OPEN[1:5], "N_v")
            was = old.get(each.quantity, "N_v" if getattr(each, "of", "all") == "vision" else "N")
            value = f"round({was} * {each.scale})" if each.scale is not None else each.set
            value = f"min({was}, {each.cap})" if each.cap is not None else value
            bounds = {"at_least": f"({value}) * 0.9", "at_most": f"({value}) * 1.1"}
            bounds = {name: bounds[name] for name in draw.choice((("at_least", "at_most"), ("at_most",)))}
            layers = {name: getattr(each, name) for name in ("from_layer", "of", "limit") if hasattr(each, name)}
            typical = {"value": value, "setting": "made up", "source": source}
            effects.append(effect(each.quantity, **bounds, **layers, typical=typical))
        else:
            effects.append(each)
    return technique.model_copy(update={"effects": tuple(effects)})


def planned(state: State) -> dict[str, tuple[float, ...]]:
    """What the planner makes of the quantities that are checked."""
    encoded, prefilled, cached, answered = state.encoded, state.prefilled, state.cached, state.answered
    shape = encoded.visual.patches[0]
    layers = each_cache_layer(cached, [Place(window=None, cross=False, dense=True)] * len(cached.vision))
    own = tuple(n + shape.token - shape.patch for n in encoded.encoder_patch[0])
    return {
        "frames": (encoded.visual.frames,),
        "encoder.density": encoded.encoder_density,
        "text-tokens": (encoded.text,),
        # Of an encoder that takes the place of the model's, what leaves it is all that is known.
        "encoder.tokens": encoded.encoder_patch[0][-1:] if encoded.encoder_flop else own,
        "vision-tokens": (encoded.vision,),
        "llm.vision-tokens": prefilled.vision,
        "llm.vision-queries": prefilled.queries,
        "llm.vision-mlp": prefilled.mlp,
        "llm.weights": (prefilled.shares.weights,),
        "llm.depth": (answered.depth * len(prefilled.vision),),
        "kv.layers": (cached.shares.kv_layers * len(prefilled.vision),),
        "kv.state": cached.state,
        "kv.read": cached.read,
        "kv.resident: fetched": (cached.fetch,),
        "kv.tokens: most while decoding": tuple(
            max(growing(layer, grown)[0] for grown in (0, answered.output - 1)) for layer in layers
        ),
        "llm.vision-tokens: with text": tuple(map(sum, zip(prefilled.vision, prefilled.text, strict=True))),
        "attention.density": prefilled.density,
        "kv.tokens": tuple(map(sum, zip(cached.vision, cached.text, strict=True))),
        "kv.tokens: vision": cached.vision,
        "kv.resident": (cached.resident,),
        "output-tokens": (answered.output,),
        "speculation: draft length": (answered.draft.length,),
        "speculation: draft nodes": (answered.draft.nodes,),
        "speculation: draft passes": (answered.draft.passes,),
        "speculation: draft vision tokens": (answered.draft.vision_tokens,),
        "speculation: accepted": (answered.draft.accepted,),
    }


def cases() -> list[tuple[Dimensions, Dimensions]]:
    """One request to the reference LVLM and to the same model of the catalog, few frames and many, short and long."""
    found = []
    config, model = PRESETS["llava-1.5-7b"], PLANNER.model("llava-1.5-7b")
    for frames, text, output in ((1, 5, 1), (1, 40, 9), (2, 17, 30), (6, 128, 256), (20, 60, 3)):
        workload = Workload(images=(Image(336, 336, frames),), text_tokens=text, output_tokens=output)
        lay = layout(model, 1, Deployment(unused_layers=False))
        checker = dimensions_of(config, frames=frames, text_tokens=text, output_tokens=output, element_byte=2)
        found.append((checker, dimensions(lay, workload)))
    return found


CASES = cases()


def test_the_reference_lvlm_has_the_dimensions_of_its_record() -> None:
    for checker, planner in CASES:
        assert checker.symbols == planner.symbols
        for share in (1.0, 0.5, 0.05):
            seen, asked = (
                checker.visual(max(share, 1 / checker.visual(1, None).frames), None),
                planner.visual(share, None),
            )
            assert (seen.llm_token, seen.frames, seen.patches) == (asked.llm_token, asked.frames, asked.patches)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_planned_lies_within_what_is_checked(seed: int) -> None:
    """Made-up stacks of every shape: bounds of the check hold the state of the plan, quantity by quantity."""
    draw = random.Random(seed)  # noqa: S311  nothing secret
    base, open_, seen = ATLAS.techniques["fastv"], 0, set()
    for _ in range(80):
        stack = [
            opened(
                made_up.synthetic(
                    base, f"made-{i}", draw.choice(made_up.SHAPES), draw.uniform(0.05, 0.95), draw.randint(0, 11)
                ),
                draw,
            )
            for i in range(draw.randint(1, 4))
        ]
        ready = sorted(((applied(ATLAS, each), each) for each in stack), key=lambda pair: pair[0].order)
        checker, planner = draw.choice(CASES)
        bounds = expected(checker, [Member(each, effect_places(ATLAS, each), {}) for _, each in ready])
        state = Walk(planner, [each for each, _ in ready]).state()
        for measure, values in planned(state).items():
            if measure not in bounds:
                continue  # of what traces need not count, only that is predicted which an effect declares
            seen.add(measure)
            wide: tuple[Interval, ...] = bounds[measure]
            assert len(wide) == len(values)
            open_ += any(bound.low < bound.high for bound in wide)
            outside = [(bound, number) for bound, number in zip(wide, values, strict=True) if number not in bound]
            assert not outside, (measure, outside[:2], [each.effects for _, each in ready])
    assert open_ > 100
    assert seen == {*planned(state)}


def test_an_adapter_works_on_the_patches_that_reach_it() -> None:
    adapter = member(effect("adapter.flop", set="N_s * N_p"), effect("vision-tokens", set="N_s * 3"), places=(5, 5))
    before = member(effect("vision-tokens", set="N_s * 7"), places=(4,))
    merged = member(effect("encoder.tokens", set="8", from_layer=1), places=(3,))
    behind = member(effect("vision-tokens", set="N_s * 2"), places=(6,))
    assert numbers("adapter.flop", adapter, behind) == [4 * 16]
    assert numbers("adapter.flop", before, adapter) == numbers("adapter.flop", merged, before, adapter) == [4 * 7]
    assert numbers("adapter.flop", merged, adapter) == [4 * 8]
    assert numbers("vision-tokens", before, adapter) == [4 * 3]


def test_two_that_merge_patches_in_the_same_layers_take_turns_in_each() -> None:
    halves = effect("encoder.tokens", remove="N_p // 2")
    last = effect("encoder.tokens", remove="min(12, N_p - 1)", from_layer="L_v - 1")
    # 16 patches and a class token: 8, 4, and of these 3 and then none, or 2 and then 1. Worked out before the halves of
    # the layers in front of it, the last layer's would be 12.
    assert numbers("encoder.tokens", member(last), member(halves)) == [17, 9, 5, 2]
    assert numbers("encoder.tokens", member(halves), member(last)) == [17, 9, 5, 2]
