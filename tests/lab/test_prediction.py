"""Predictions: effects apply in pipeline order, layer by layer, and bounds stay bounds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lvlm_atlas.lab.interval import Interval, Names, changed, longest_rows, scheduled
from lvlm_atlas.lab.prediction import predict
from lvlm_atlas.lab.setup import Member, Setup
from lvlm_atlas.schema.effect import Effect, Frames, LlmVisionTokens, Overhead

SETUP = Setup(
    frames_a_patch=1, patches_a_token=1,
    frames=4, patches=16, prefix=1, encoder_layers=3, encoder_heads=2, encoder_width=8, text_tokens=10, layers=4,
    heads=4, kv_heads=2, width=32, head_dim=8, element_byte=2, output_tokens=6,
)  # fmt: skip
PLACES = {"frames": 1, "encoder.tokens": 3, "vision-tokens": 6, "llm.vision-tokens": 7, "kv.tokens": 9, "kv.bits": 10}


def effect(quantity: str, **rest: Any) -> Any:
    return TypeAdapter(Effect).validate_python({"quantity": quantity, **rest})


def member(*effects: Any, overheads: tuple[Overhead, ...] = (), **parameters: Any) -> Member:
    return Member(parameters, tuple((PLACES.get(e.quantity, 8), e) for e in effects), overheads)


def numbers(measure: str, *members: Member, observed: dict[str, tuple[float, ...]] | None = None) -> list[Any]:
    """The predicted numbers; a pair where they are bounds."""
    bounds = predict(SETUP, members, observed)[measure]
    return [bound.low if bound.low == bound.high else (bound.low, bound.high) for bound in bounds]


def test_without_effects_everything_is_exact_and_plain() -> None:
    found = predict(SETUP, ())
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


def test_a_cap_never_raises_and_a_removal_never_goes_below_zero() -> None:
    assert numbers("frames", member(effect("frames", cap=9))) == [4]
    assert numbers("frames", member(effect("frames", cap=3))) == [3]
    assert numbers("frames", member(effect("frames", remove=7))) == [0]


def test_effects_start_from_what_earlier_places_left_whatever_the_order_of_the_stack() -> None:
    frames, tokens = member(effect("frames", set=2)), member(effect("vision-tokens", scale=0.25))
    assert numbers("vision-tokens", frames, tokens) == numbers("vision-tokens", tokens, frames) == [8]


def test_at_one_place_effects_apply_in_the_order_of_the_stack() -> None:
    cap, scale = member(effect("frames", cap=2)), member(effect("frames", scale=0.5))
    assert numbers("frames", cap, scale) == [1]
    assert numbers("frames", scale, cap) == [2]


def test_encoder_tokens_removed_in_a_layer_are_gone_in_those_that_follow() -> None:
    halving = member(effect("encoder.tokens", remove="min(r, N_p // 2)"), r=6)
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
    assert numbers("kv.bits: bytes at the end", member(draft)) == [((74 + 5) * entry, (74 + 8) * entry)]
    seen = {"speculation: accepted": (3.0, 1.0), "speculation: target passes": (2.0,)}
    assert numbers("kv.bits: bytes at the end", member(draft), observed=seen) == [(74 + 6) * entry]


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


def test_one_bound_leaves_the_other_at_zero_or_at_the_old_value() -> None:
    assert numbers("frames", member(effect("frames", at_most=3))) == [(0, 3)]
    assert numbers("frames", member(effect("frames", at_least=1))) == [(1, 4)]


def test_a_wrong_declaration_shows_at_its_own_quantity_alone() -> None:
    wrong = member(effect("frames", set=1))
    seen = {"frames": (2.0,)}
    assert numbers("frames", wrong, observed=seen) == [1]
    assert numbers("vision-tokens", wrong, observed=seen) == [32]


def test_an_amount_that_cannot_be_evaluated_is_said() -> None:
    with pytest.raises(ValueError, match="needs nonsense"):
        predict(SETUP, [member(effect("frames", set="nonsense"))])


@given(low=st.integers(0, 50), more=st.integers(0, 50), share=st.floats(0, 1), inside=st.floats(0, 1))
def test_an_interval_holds_what_the_effect_makes_of_every_number_in_it(
    low: int, more: int, share: float, inside: float
) -> None:
    number = low + round(inside * more)
    for change in ({"scale": share}, {"cap": 20}, {"remove": 7}, {"set": "F // 2"}):
        made = Frames(quantity="frames", **change)
        wide = changed(made, Interval(low, low + more), Names({"F": Interval(low, low + more)}))
        exact = changed(made, Interval.of(number), Names({"F": number}))
        assert exact.low in wide
        assert exact.low == exact.high


@given(count=st.integers(0, 40), first=st.integers(0, 5), share=st.floats(0, 1))
def test_a_schedule_leaves_the_layers_before_it_alone(count: int, first: int, share: float) -> None:
    prune = LlmVisionTokens(quantity="llm.vision-tokens", scale=share, from_layer=first)
    layers = scheduled(prune, [Interval.of(count)] * 5, lambda _, n: Names({"N_v": n}), flows=True)
    assert [n.low for n in layers] == [count if layer < first else round(count * share) for layer in range(5)]


@given(tokens=st.lists(st.integers(0, 12), min_size=1, max_size=4), rows=st.integers(0, 60))
def test_the_longest_rows_are_at_most_the_whole_maps(tokens: list[int], rows: int) -> None:
    whole = sum(n * (n + 1) // 2 for n in tokens)
    assert longest_rows(rows, tokens) <= min(whole, rows * max(tokens))
    assert longest_rows(sum(tokens), tokens) == whole


def test_predictions_need_no_torch() -> None:
    code = "import sys, lvlm_atlas.lab.prediction, lvlm_atlas.lab.conformance; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
