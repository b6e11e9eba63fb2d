"""What is observed of runs: counted by the model, whatever the technique says."""

from __future__ import annotations

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from lvlm_atlas import load
from lvlm_atlas.lab.conformance import Report, item, report
from lvlm_atlas.lab.expectation import Interval, Observed
from lvlm_atlas.lab.observation import carry_out, compare, dimensions_for, observe
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.lab.verification import Plan, Shape, StackJob
from lvlm_atlas.reference.lvlm import LVLM, Trace, random_request
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.ops.flops import count_flop
from lvlm_atlas.schema.technique import Technique

ATLAS = load(Path(__file__).resolve().parents[2])
FRAMES, TEXT, OUT, LAYERS = 1, 16, 8, 4
PROMPT = 64 * FRAMES + TEXT


@pytest.fixture(autouse=True)
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def observed(*names: str, preset: str = "tiny", out: int = OUT) -> Observed:
    """What is observed of a run with made-up references."""
    lvlm = LVLM.random(preset)
    request = random_request(lvlm.config, frames=FRAMES, text_tokens=TEXT, max_new_tokens=out)
    stack = [resolve_name(f"made_up:{name}")() for name in names]
    return observe(lvlm.run(request, stack).trace, dimensions_for(lvlm, request))


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_without_techniques_shares_are_whole_and_counts_are_the_models(preset: str) -> None:
    seen = observed(preset=preset)
    (vision,) = seen["vision-tokens"]
    assert [seen[measure] for measure in ("pixels", "kv.resident", "text-tokens")] == [(1,), (1,), (TEXT,)]
    assert [seen[measure] for measure in ("kv.layers", "llm.depth")] == [(LAYERS,), (LAYERS,)]
    assert seen["llm.vision-queries"] == seen["llm.vision-mlp"] == (vision,) * LAYERS
    assert seen["kv.read"] == (1,) * LAYERS
    assert seen["kv.tokens: most while decoding"] == (vision + TEXT + OUT - 1,) * LAYERS


def test_without_decoding_steps_there_is_nothing_to_count_of_them() -> None:
    seen = observed(out=1)
    assert seen["kv.read"] == seen["llm.depth"] == ()
    assert seen["kv.tokens: most while decoding"] == seen["kv.tokens"]


def test_a_cache_that_evicts_while_decoding_is_seen_at_its_fullest_and_in_its_bytes() -> None:
    plain, bounded = observed(), observed("BoundsCache")
    assert bounded["kv.tokens"] == plain["kv.tokens"] == (PROMPT,) * LAYERS
    assert bounded["kv.tokens: most while decoding"] == (PROMPT + 3,) * LAYERS
    end, grown = bounded["kv.bits: bytes at the end"][0], plain["kv.bits: bytes at the end"][0]
    assert end / grown == (PROMPT + 3) / (PROMPT + OUT - 1)


def test_a_store_that_evicts_the_prompt_hides_which_entries_are_visual() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, frames=FRAMES, text_tokens=TEXT, max_new_tokens=OUT)
    result = lvlm.run(request, [resolve_name("made_up:BoundsCache")(room=-10)])
    seen = observe(result.trace, dimensions_for(lvlm, request))
    assert seen["kv.tokens"] == seen["kv.tokens: most while decoding"] == (PROMPT - 10,) * LAYERS
    assert "kv.tokens: vision" not in seen


def test_text_that_does_not_enter_the_llm_is_missing_from_the_count() -> None:
    seen = observed("DropsText")
    assert (seen["text-tokens"], seen["vision-tokens"]) == ((TEXT - 1,), (64,))


def test_tokens_that_sit_a_layer_out_are_missing_there_and_in_its_cache() -> None:
    seen = observed("SitsOut")
    assert seen["llm.vision-tokens"] == seen["llm.vision-mlp"] == (64, 32, 64, 64)
    assert seen["kv.tokens: vision"] == (64, 32, 64, 64)


def test_the_share_of_the_cache_that_is_read_is_what_attention_was_given() -> None:
    held = range(PROMPT + 1, PROMPT + OUT)
    share = sum((n - n // 2) / n for n in held) / len(held)
    assert observed("ReadsRecent")["kv.read"] == pytest.approx((share,) * LAYERS, rel=1e-12)


def test_layers_that_hold_another_ones_tensors_have_no_cache_of_their_own_and_no_bytes() -> None:
    seen, plain = observed("SharesLayers"), observed()
    assert seen["kv.layers"] == (LAYERS / 2,)
    byte = plain["kv.bits: bytes"][0]
    assert seen["kv.bits: bytes"] == (byte, 0, byte, 0)
    assert seen["kv.bits: bytes at the end"][0] * 2 == plain["kv.bits: bytes at the end"][0]


def test_tensors_that_wait_in_the_hosts_memory_are_not_resident() -> None:
    seen = observed("Offloads")
    assert seen["kv.resident"] == seen["kv.resident: fetched"] == (0.5,)
    assert seen["kv.bits: bytes"] == observed()["kv.bits: bytes"]


def test_frames_that_shrink_have_fewer_patches_where_the_tower_takes_any_size_alone() -> None:
    window, fixed = observed("HalvesSides", preset="tiny-window"), observed("HalvesSides")
    assert window["pixels"] == fixed["pixels"] == (0.25,)
    assert window["encoder.tokens"][0] == 24  # of 120: 20 × 24 pixels are 16 × 24 after rounding to tokens
    assert fixed["encoder.tokens"] == observed()["encoder.tokens"]


def test_an_encoder_in_the_place_of_the_models_is_counted_by_its_flops_and_by_what_leaves_it() -> None:
    seen = observed("ConvolvesPatches")
    assert seen["encoder.flop"] == (2 * 3 * 14**2 * 32 * 16 * FRAMES,)
    assert seen["encoder.tokens"] == seen["vision-tokens"] == (16 * FRAMES,)
    assert "encoder.density" not in seen
    plain = observed()
    assert "encoder.flop" not in plain
    assert plain["encoder.density"] == (1,) * (LAYERS - 1)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_the_models_own_encoder_costs_twice_if_it_runs_twice(preset: str) -> None:
    lvlm = LVLM.random(preset)
    (clip,) = lvlm.dialect.split(random_request(lvlm.config, frames=FRAMES))
    with torch.no_grad():
        _, once = count_flop(lambda: lvlm.dialect.patches(clip.frames_F3HW, Trace(), lambda _l, _n, patches: patches))
    assert once > 0
    seen, plain = observed("EncodesTwice", preset=preset), observed(preset=preset)
    assert seen["encoder.flop"] == (2 * once,)
    assert seen["vision-tokens"] == plain["vision-tokens"]


def test_an_adapter_in_the_place_of_the_models_is_counted_by_its_flops() -> None:
    seen = observed("PoolsTokens")
    assert seen["adapter.flop"] == (2 * 64 * 32 * 64 * FRAMES,)
    assert seen["vision-tokens"] == (16 * FRAMES,)
    assert "adapter.flop" not in observed()


def test_the_density_of_encoder_attention_is_what_it_computes_of_its_own_scores() -> None:
    pairs = observed("AttendsInPairs")["encoder.density"]  # 65 tokens: 32 pairs and one left over
    assert pairs == (1, (32 * 4 + 1) / 65**2, (32 * 4 + 1) / 65**2)
    window = observed("AttendsInPairs", preset="tiny-window")["encoder.density"]
    # 10 × 12 patches. Layers 1 and 3 attend to all, layer 2 inside windows of 4 × 4, of which those below are 2 × 4.
    assert window == (1, 60 * 4 / 120**2, 60 * 4 / (6 * 16**2 + 3 * 8**2), 60 * 4 / 120**2)


def test_linear_attention_is_counted_by_the_products_that_it_forms() -> None:
    n, d = 65, 8
    forms = 2 * (2 * n * d * d + n * d)  # keys by values, queries by both, and by the sum of keys
    assert observed("AttendsLinearly")["encoder.density"] == (forms / (4 * n * n * d),) * (LAYERS - 1)


UNCHANGED, HALF = (Interval(1, 1),), (Interval(0.5, 0.5),)


@pytest.mark.parametrize(
    ("bounds", "counted", "declared", "holds"),
    [
        (UNCHANGED, (1.0,), (), None),
        (UNCHANGED, None, (), None),
        (HALF, None, (), None),
        (UNCHANGED, (0.5,), (), False),
        (UNCHANGED, (1.0,), ("kv.read",), True),
        (HALF, None, ("kv.read",), False),
        (HALF, (), ("kv.read",), True),
        (HALF * 4, (), ("kv.read",), True),
        (HALF * 4, (0.5,) * 3, ("kv.read",), False),
    ],
)
def test_a_measure_nobody_declares_has_a_row_only_where_it_is_wrong(
    bounds: Any, counted: Any, declared: Any, holds: bool | None
) -> None:
    seen = {} if counted is None else {"kv.read": counted}
    rows = list(compare({"kv.read": bounds}, seen, declared))
    assert [row.holds for row in rows] == ([] if holds is None else [holds])


@pytest.mark.parametrize(("measure", "count"), [("frames", 1), ("kv.tokens: most while decoding", 0)])
def test_what_every_report_shows_has_a_row_where_it_is_as_it_was(measure: str, count: int) -> None:
    assert len(list(compare({measure: UNCHANGED}, {measure: (1,)}))) == count


def verified(name: str, *effects: dict[str, Any], acts_at: str, shapes: Any = SHAPES) -> Report:
    """What verification says of a made-up reference with these effects."""
    plans = tuple(Plan(settings=({},), shape=shape) for shape in shapes)
    technique = entry(name, *effects, acts_at=acts_at)
    job = StackJob(items=(item(ATLAS.atlas, technique),), plans=plans, dtype="float32", device="cpu")
    return report(carry_out(job))


def entry(name: str, *effects: dict[str, Any], acts_at: str) -> Technique:
    """The entry of a made-up reference."""
    raw = ATLAS.technique("fastv").model_dump(mode="json", by_alias=True, exclude_none=True)
    changes = {"effects": effects, "acts_at": [acts_at], "trials": [{}], "parameters": {}, "neutral": None}
    record = {**raw, **changes, "overheads": [], "no_neutral": "It is made up.", "reference": f"made_up:{name}"}
    return Technique.model_validate_json(json.dumps(record))


def wrong(found: Report) -> set[str]:
    return {line.quantity for line in found.lines if line.mismatches}


def test_a_technique_that_halves_each_side_and_says_so_holds_on_towers_of_one_size() -> None:
    """Towers of any size take whole tokens, which half a side need not be."""
    shapes = [shape for shape in SHAPES if PRESETS[shape.preset].vision.factor == 1]
    found = verified("HalvesSides", {"quantity": "pixels", "scale": 0.25}, acts_at="pixels", shapes=shapes)
    assert found.holds, [line.mismatches[0] for line in found.lines if line.mismatches]
    assert [line.held for line in found.lines if line.quantity == "pixels"] == [len(shapes)]


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[7]], ids=lambda shape: shape.preset)
def test_one_that_says_it_keeps_half_the_pixels_fails_there_and_nowhere_else(shape: Any) -> None:
    found = verified("HalvesSides", {"quantity": "pixels", "scale": 0.5}, acts_at="pixels", shapes=[shape])
    assert wrong(found) == {"pixels"}


def test_one_that_does_not_say_so_fails() -> None:
    found = verified("HalvesSides", {"quantity": "output-tokens", "cap": 99}, acts_at="pixels", shapes=SHAPES[7:8])
    assert wrong(found) == {"pixels"}


@pytest.mark.parametrize(
    ("share", "fetch", "holds"), [(0.5, 0.5, True), (0.25, 0.5, False), (0.5, 0.25, False), (0.5, 0, False)]
)
def test_a_cache_kept_on_the_host_and_what_is_fetched_of_it_are_verified(
    share: float, fetch: float, holds: bool
) -> None:
    effect = {"quantity": "kv.resident", "scale": share, "fetch": fetch}
    found = verified("Offloads", effect, acts_at="cache-bits", shapes=SHAPES[:1])
    assert wrong(found) == (set() if holds else {"kv.resident"})


def test_only_what_is_fetched_is_counted_and_each_time_anew() -> None:
    seen = observed("FetchesBlocks")
    assert seen["kv.resident"] == (pytest.approx(TEXT / PROMPT),)
    held = range(PROMPT + 1, PROMPT + OUT)
    assert seen["kv.resident: fetched"] == (pytest.approx(sum(16 / n for n in held) / len(held)),)
    read = sum((TEXT + 16 + n - PROMPT) / n for n in held) / len(held)
    assert seen["kv.read"] == pytest.approx((read,) * LAYERS)


def test_a_share_that_falls_as_the_cache_grows_is_verified_between_its_bounds() -> None:
    resident = {
        "quantity": "kv.resident", "at_least": "N_t / N", "at_most": "(N_t + 15) / N",
        "fetch": "16 / N", "fetch_at_least": "16 / (N + N_o)",
    }  # fmt: skip
    read = {"quantity": "kv.read", "at_least": "(N_t + 16) / (N + N_o)", "at_most": "(N_t + N_o + 16) / N"}
    # In a session, `N_t` is the text of a round, and not all that stays on the device.
    once = [shape for shape in SHAPES if shape.rounds == 1]
    found = verified("FetchesBlocks", resident, read, acts_at="cache-bits", shapes=once)
    assert [line.mismatches[0] for line in found.lines if line.mismatches] == []
    assert found.faults == ()
    for error in ({"fetch": "8 / N", "fetch_at_least": 0}, {"fetch_at_least": None}):
        failed = verified("FetchesBlocks", resident | error, read, acts_at="cache-bits", shapes=SHAPES[:1])
        assert wrong(failed) == {"kv.resident"}


def test_what_a_technique_does_by_modality_and_layer_is_verified_in_bytes() -> None:
    def bits(of: str, bit: float, group: float, **layers: int) -> dict[str, Any]:
        return (
            {"quantity": "kv.bits", "of": of, "key": bit, "value": bit, "group_size": 8}
            | layers
            | {"group_overhead_bit": group}
        )

    effects = [bits("vision", 2, "16 * P", to_layer=2), bits("vision", 8, "8 * P", from_layer=2)]
    found = verified("MixesBits", *effects, acts_at="cache-bits")
    assert [line.mismatches[0] for line in found.lines if line.mismatches] == []
    assert found.faults == ()
    everything = [effect | {"of": "all"} for effect in effects]
    layers = [effects[0] | {"to_layer": 1}, effects[1] | {"from_layer": 1}]
    for error in (everything, layers, effects[:1]):
        assert wrong(verified("MixesBits", *error, acts_at="cache-bits", shapes=SHAPES[:1])) == {"kv.bits"}


CONVOLVES = (
    {"quantity": "encoder.flop", "set": "N_s * N_p / 4 * 2 * 3 * 14 * 14 * D_v"},
    {"quantity": "encoder.tokens", "scale": 0.25},
)
POOLS = (
    {"quantity": "adapter.flop", "set": "2 * N_s * N_p * D_v * D"},
    {"quantity": "vision-tokens", "set": "N_s * N_p / 4"},
)


@pytest.mark.parametrize(
    ("name", "acts_at", "effects"), [("ConvolvesPatches", "encoder", CONVOLVES), ("PoolsTokens", "adapter", POOLS)]
)
def test_what_takes_a_modules_place_is_verified_and_cannot_keep_its_flops_to_itself(
    name: str, acts_at: str, effects: tuple[dict[str, Any], ...]
) -> None:
    assert wrong(verified(name, *effects, acts_at=acts_at)) == set()
    for flop in ([], [effects[0] | {"set": "1 + " + str(effects[0]["set"])}]):
        failed = verified(name, *flop, effects[1], acts_at=acts_at, shapes=SHAPES[:1])
        assert wrong(failed) == {effects[0]["quantity"]}
    error = {"scale": 0.5} if "scale" in effects[1] else {"set": "N_v / 2"}
    failed = verified(name, effects[0], effects[1] | error, acts_at=acts_at, shapes=SHAPES[:1])
    assert effects[1]["quantity"] in wrong(failed)


MADE_UP = {
    "AttendsInPairs": (
        "encoder-attention",
        # The share is of the scores that the layer itself forms, and inside windows these are fewer.
        {"quantity": "encoder.density", "at_least": "1 / (N_p + 1)", "at_most": 0.5, "from_layer": 1},
        {"from_layer": 2},
    ),
    "BoundsCache": ("cache-bits", {"quantity": "kv.tokens", "limit": "N + 3"}, {"limit": "N + 4"}),
    "UnevenHeads": (
        "cache-tokens",
        {"quantity": "kv.tokens", "of": "vision", "remove": "3 * (G - 1)", "per_head": True},
        {"remove": "3 * G"},
    ),
    "DropsText": ("llm-input", {"quantity": "text-tokens", "remove": 1}, {"remove": 2}),
    "SitsOut": (
        "llm-layer",
        {"quantity": "llm.vision-tokens", "scale": 0.5, "rounding": "down", "from_layer": 1, "to_layer": 2},
        {"to_layer": 3},
    ),
    "ReadsRecent": (
        "cache-bits",
        {"quantity": "kv.read", "at_least": 0.5, "at_most": "0.5 + 1 / N"},
        {"at_least": 0.3, "at_most": 0.4},
    ),
    "SharesLayers": ("cache-bits", {"quantity": "kv.layers", "set": "L - L // 2"}, {"set": "L - 1"}),
}
"""For each reference where it acts, an effect that says what it does, and what makes the effect wrong."""


@pytest.mark.parametrize("name", MADE_UP)
def test_what_a_made_up_reference_declares_holds_and_is_needed(name: str) -> None:
    acts_at, effect, _ = MADE_UP[name]
    # Their stores know of one prompt alone: how long it was, or that no other follows.
    shapes = [shape for shape in SHAPES if shape.rounds == 1 or name not in ("BoundsCache", "SharesLayers")]
    found = verified(name, effect, acts_at=acts_at, shapes=shapes)
    assert [line.mismatches[0] for line in found.lines if line.mismatches] == []
    assert found.faults == ()


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_what_holds_in_the_first_round_alone_is_found_wrong_in_the_second(preset: str) -> None:
    effect = {"quantity": "kv.tokens", "of": "vision", "set": 5}
    session = Shape(preset=preset, frames=2, text_tokens=6, output_tokens=3, rounds=3)
    found = verified("CutsFirstRound", effect, acts_at="cache-tokens", shapes=[session])
    measures = {row.measure for line in found.lines for _, row in line.mismatches}
    assert measures == {
        f"{measure}: round {number}"
        for number in (2, 3)
        for measure in ("kv.tokens", "kv.tokens: vision")
    }  # fmt: skip
    once = verified("CutsFirstRound", effect, acts_at="cache-tokens", shapes=[session.model_copy(update={"rounds": 1})])
    assert wrong(once) == set()


@pytest.mark.parametrize("name", MADE_UP)
def test_a_wrong_declaration_of_it_fails_at_its_own_quantity(name: str) -> None:
    acts_at, effect, error = MADE_UP[name]
    failed = wrong(verified(name, effect | error, acts_at=acts_at, shapes=SHAPES[:1]))
    follows = {"kv.bits"} if "limit" in effect else set()  # bytes at the end are predicted from the limit declared
    assert failed == {effect["quantity"]} | follows


@pytest.mark.parametrize("residual_length", [16, 32, 64])
def test_bytes_of_uneven_heads_in_codes_lie_between_bounds_that_the_mean_alone_leaves(residual_length: int) -> None:
    uneven = entry("UnevenHeads", MADE_UP["UnevenHeads"][1], acts_at="cache-tokens")
    items = tuple(item(ATLAS.atlas, each) for each in (uneven, ATLAS.technique("kivi")))
    kivi = {"bits": 2, "group_size": 16, "residual_length": residual_length}
    plans = tuple(Plan(settings=({}, kivi), shape=shape) for shape in SHAPES if shape.rounds == 1)
    outcomes = carry_out(StackJob(items=items, plans=plans, dtype="float32", device="cpu")).outcomes
    assert [outcome.crashed or outcome.refused for outcome in outcomes] == [None] * len(plans)
    rows = [row for outcome in outcomes for row in outcome.rows]
    assert [row for row in rows if not row.holds] == []
    byte = [row for row in rows if row.measure == "kv.bits: bytes"]
    assert any(low < high for row in byte for low, high in row.declared)


@pytest.mark.parametrize(("rows", "wrong_measures"), [(1, set()), (2, {"overhead: attention scores of steps"})])
@pytest.mark.parametrize("drafting", [False, True])
def test_attention_that_decoding_steps_form_again_is_counted(
    rows: int, wrong_measures: set[str], *, drafting: bool
) -> None:
    h2o = ATLAS.technique("h2o")
    prompt, step, *others = h2o.overheads
    h2o = h2o.model_copy(
        update={"overheads": (prompt, step.model_copy(update={"attention_rows": rows, "upper_bound": False}), *others)}
    )
    stack = [h2o, *([ATLAS.technique("speculative-sampling")] if drafting else [])]
    items = tuple(item(ATLAS.atlas, each) for each in stack)
    plans = tuple(Plan(settings=({},) * len(stack), shape=shape) for shape in SHAPES[:3])
    outcomes = carry_out(StackJob(items=items, plans=plans, dtype="float32", device="cpu")).outcomes
    assert {row.measure for outcome in outcomes for row in outcome.rows if not row.holds} == wrong_measures
