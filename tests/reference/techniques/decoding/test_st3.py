"""ST3."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.decoding.st3 import St3, anneal, layer_share
from lvlm_atlas.reference.techniques.decoding.streamingllm import StreamingLlm
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


@given(st.integers(2, 40), st.integers(1, 10), st.integers(1, 8), st.floats(0, 1))
def test_shares_fall_by_equal_steps_to_the_least(layers: int, first: int, step: int, least: float) -> None:
    first = min(first, layers - 1)
    shares = [layer_share(layer, layers, first, step, least) for layer in range(layers)]
    assert shares[:first] == [1.0] * first
    assert shares[-1] == pytest.approx(least)
    heights = sorted({*shares}, reverse=True)
    assert shares == sorted(shares, reverse=True)
    falls = [above - below for above, below in pairwise(heights)]
    assert all(fall == pytest.approx(falls[0], abs=1e-9) for fall in falls)
    assert all(shares.count(height) <= step for height in heights[1:])


def test_layers_run_on_falling_shares_of_what_entered(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [St3(first_layer=1, step_layers=1, min_share=0.25)]).trace
    assert trace.llm_vision_tokens == [384, 288, 192, 96]
    assert trace.kv_entries == [400, 304, 208, 112]
    trace = lvlm.run(random_request(lvlm.config), [St3(first_layer=2, step_layers=4, min_share=0.1)]).trace
    assert trace.llm_vision_tokens == [384, 384, 38, 38]
    assert trace.probe_entries == 4 * 400


def test_what_is_kept_in_a_deeper_layer_was_kept_before(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [St3(first_layer=1, step_layers=1, min_share=0.25)]).trace
    kept = [{*index[0].tolist()} for index in trace.kept]
    assert all(deeper < before for before, deeper in pairwise(kept))
    assert all({*range(4), *range(388, 400)} <= tokens for tokens in kept)


def test_one_step_is_fastv(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    ours = lvlm.run(request, [St3(first_layer=2, step_layers=4, min_share=0.25, annealing=False)])
    assert torch.equal(ours.logits_NC, lvlm.run(request, [FastV(layer=2, keep_ratio=0.25)]).logits_NC)


def test_the_least_attended_vision_entries_leave() -> None:
    score = torch.tensor([[[0.0, 0.3, 0.1, 0.1, 0.2, 0.0]]])
    vision = torch.tensor([[[False, True, True, True, True, False]]])
    assert anneal(score, vision, 1)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5]  # of equal ones the later leaves
    assert anneal(score, vision, 2)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 4, 5]
    assert anneal(score, vision, 9)[0, 0].nonzero()[:, 0].tolist() == [0, 5]
    assert anneal(score, vision, 0).all()


def test_each_token_of_the_answer_takes_the_place_of_a_vision_entry(lvlm: LVLM, device: str) -> None:
    run = lvlm.begin(random_request(lvlm.config, max_new_tokens=9), [St3(first_layer=1, step_layers=1, min_share=0.01)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        for number in range(1, 9):
            before = [cache.held(layer).vision_BGS.sum(-1)[0].tolist() for layer in range(4)]
            lvlm.step(torch.tensor([number]), cache)
            cache.retain(torch.tensor([0], device=device))
            for layer in range(4):
                held = cache.held(layer)
                assert held.vision_BGS.sum(-1)[0].tolist() == [max(0, count - 1) for count in before[layer]]
                assert int((~held.vision_BGS[0, 0]).sum()) == 16 + number
                assert (held.index_BGS == held.index_BGS[:, :1]).all()
    trace = lvlm.run(random_request(lvlm.config), [St3(first_layer=1, step_layers=1, min_share=0.01)]).trace
    assert trace.kv_entries == [400, 273, 146, 19]
    assert trace.kv_most_entries == [400, 273, 146, 16 + 11]


@pytest.mark.parametrize("first", [True, False])
def test_the_allowance_is_what_stood_there_before_the_answer_whoever_else_evicts(lvlm: LVLM, first: bool) -> None:
    sinks, setting = StreamingLlm(start_size=4, recent_size=60), St3(first_layer=1, step_layers=1, min_share=0.5)
    stack = [sinks, setting] if first else [setting, sinks]
    trace = lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=6), stack).trace
    assert trace.kv_most_entries == [64] * 4
    assert trace.kv_byte_end == 4 * 64 * trace.kv_byte[0] // trace.kv_entries[0]


def test_without_either_half_nothing_changes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, same = lvlm.run(request), lvlm.run(request, [St3(min_share=1.0, annealing=False)])
    assert torch.equal(same.logits_NC, plain.logits_NC)
    assert same.trace.kv_most_entries == plain.trace.kv_most_entries


def test_rejected_drafts_let_no_entry_leave(lvlm: LVLM, device: str) -> None:
    request, setting = random_request(lvlm.config, frames=1), St3(first_layer=1, step_layers=1, min_share=0.5)
    draft = SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=device))
    one, drafted = lvlm.run(request, [setting]), lvlm.run(request, [setting, draft])
    assert one.trace.kv_most_entries == drafted.trace.kv_most_entries
    assert one.trace.kv_byte_end == drafted.trace.kv_byte_end


def test_a_later_turn_is_refused(lvlm: LVLM) -> None:
    stream, request = lvlm.stream([St3()]), random_request(lvlm.config, frames=1)
    stream.ask(request.prompt_N, 2, frames=request.frames_F3HW)
    with pytest.raises(Refusal, match="ST3 has dropped what a later turn may ask about"):
        stream.ask(torch.arange(1, 5), 2)


def test_others_between_the_layers_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(
        Refusal, match="the shares of ST3 are of the tokens that entered the LLM, and FastV may drop some"
    ):
        lvlm.run(random_request(lvlm.config), [St3(), FastV()])


def test_a_layer_that_is_not_there_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match=r"first_layer must be in 1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(random_request(lvlm.config), [St3(first_layer=4)])


def test_arguments_out_of_range_are_refused() -> None:
    for name in ("first_layer", "step_layers"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            St3(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"min_share must lie in \[0, 1\], got 2"):
        St3(min_share=2)
