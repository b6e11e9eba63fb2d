"""FastV."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV, keep_top, last_query_score


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def by_hand(lvlm: LVLM, inputs: Sequence, dropped_N: Tensor, from_layer: int) -> tuple[list[Tensor], Tensor]:
    """Each layer's attention (B, H, N, N) and the last logits, with dropped tokens hidden, not removed."""
    x_BND, maps = inputs.hidden_BND, []
    later_NN = torch.ones(inputs.length, inputs.length, dtype=torch.bool, device=lvlm.device).triu(1)
    for index, layer in enumerate(lvlm.language_model.model.layers):
        query, key, value = layer.project(x_BND, inputs.position_BN)
        logit = query @ share_heads(key, query.shape[1]).mT / query.shape[-1] ** 0.5
        hidden_NN = later_NN | (dropped_N & (index >= from_layer))
        maps.append(logit.masked_fill(hidden_NN, float("-inf")).softmax(-1))
        x_BND = layer.finish(x_BND, maps[-1] @ share_heads(value, query.shape[1]))
        if inputs.deepstack_BNLD is not None and index < inputs.deepstack_BNLD.shape[2]:
            x_BND = x_BND + inputs.deepstack_BNLD[:, :, index]
    return maps, lvlm.language_model.logits(x_BND)[0, -1]


def test_a_score_is_the_attention_of_the_last_token_averaged_over_heads(device: str) -> None:
    row_BHN = torch.tensor([[[0.5, 0.25, 0.125, 0.125], [0.0, 0.25, 0.375, 0.375]]], device=device)
    assert last_query_score(row_BHN, torch.tensor([[1, 2]], device=device)).tolist() == [[0.25, 0.25]]
    assert last_query_score(row_BHN, torch.tensor([[0, 3]], device=device)).tolist() == [[0.25, 0.25]]
    assert last_query_score(row_BHN[:, :1], torch.tensor([[0, 3]], device=device)).tolist() == [[0.5, 0.125]]


@given(st.permutations(range(12)), st.floats(0, 1))
@settings(max_examples=30)
def test_kept_ranks_ascend(device: str, ranking: list[int], keep_ratio: float) -> None:
    kept = keep_top(torch.tensor([ranking], dtype=torch.float32, device=device), keep_ratio)[0].tolist()
    best = sorted(range(12), key=lambda rank: -ranking[rank])[: round(12 * keep_ratio)]
    assert kept == sorted(best)


@pytest.mark.parametrize(("tokens", "kept"), [(1, 0), (3, 2), (5, 2), (7, 4), (8, 4)])
def test_the_count_is_rounded_halves_to_even(device: str, tokens: int, kept: int) -> None:
    assert keep_top(torch.rand(2, tokens, device=device), 0.5).shape == (2, kept)


def test_only_the_last_row_counts(device: str) -> None:
    early, late = [4.0, 0.0], [0.0, 4.0]  # what the first three queries, and the last one, look for
    query = torch.tensor([[[early, early, early, late]]], device=device)
    key = torch.tensor([[[[0.0, 0.0], early, late, [0.0, 0.0]]]], device=device)
    place = torch.arange(4, device=device)[None]
    vision = torch.tensor([[False, True, True, False]], device=device)
    sequence = Sequence(place[..., None].float(), place, vision, place, Probe(query, key, causal=True))
    assert FastV(layer=1).llm_layer(LlmLayer(1, 2, sequence)).index_BN.tolist() == [[0, 2, 3]]
    assert FastV(layer=1).llm_layer(LlmLayer(0, 2, sequence)) is sequence


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_layer_before_decides_and_the_layer_itself_is_shorter(lvlm: LVLM, layer: int) -> None:
    request = random_request(lvlm.config)
    trace = lvlm.run(request, [FastV(layer=layer, keep_ratio=0.25)]).trace
    assert trace.llm_vision_tokens == [384] * layer + [96] * (4 - layer)

    inputs = lvlm.prepare(lvlm.begin(request))
    with torch.inference_mode():
        maps, _ = by_hand(lvlm, inputs, torch.zeros_like(inputs.vision_BN[0]), from_layer=0)
    score = maps[layer - 1][0, :, -1].mean(0).masked_fill(~inputs.vision_BN[0], -1)
    expected = set(score.topk(96).indices.tolist()) | set((~inputs.vision_BN[0]).nonzero()[:, 0].tolist())
    assert trace.kept[layer][0].tolist() == sorted(expected)


def test_pruning_equals_masking_the_dropped_tokens_at_their_original_positions(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, max_new_tokens=1)
    result = lvlm.run(request, [FastV(layer=2, keep_ratio=0.1)])
    inputs = lvlm.prepare(lvlm.begin(request))
    dropped_N = torch.ones_like(inputs.vision_BN[0])
    dropped_N[result.trace.kept[2][0]] = False
    assert int(dropped_N.sum()) == 384 - 38
    with torch.inference_mode():
        _, logits_C = by_hand(lvlm, inputs, dropped_N, from_layer=2)
    torch.testing.assert_close(result.logits_NC[0], logits_C, atol=1e-4, rtol=1e-4)


def test_pruning_among_the_deepstack_layers_equals_masking_with_the_features_of_the_kept_tokens(device: str) -> None:
    lvlm = LVLM.random("tiny-deepstack", device=device)
    assert lvlm.config.vision.deepstack_layers == (0, 2)  # features come after LLM layers 0 and 1
    result = lvlm.run(random_request(lvlm.config, max_new_tokens=1), [FastV(layer=1, keep_ratio=0.3)])
    assert result.trace.llm_vision_tokens == [90, 27, 27, 27]
    inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, max_new_tokens=1)))
    dropped_N = torch.ones_like(inputs.vision_BN[0])
    dropped_N[result.trace.kept[1][0]] = False
    early_only = replace(inputs, deepstack_BNLD=inputs.deepstack_BNLD[:, :, :1])
    with torch.inference_mode():
        _, logits_C = by_hand(lvlm, inputs, dropped_N, from_layer=1)
        _, without_C = by_hand(lvlm, early_only, dropped_N, from_layer=1)
    torch.testing.assert_close(result.logits_NC[0], logits_C, atol=1e-4, rtol=1e-4)
    assert float((logits_C - without_C).abs().max()) > 0.01  # features added behind the cut do matter


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, kept = lvlm.run(request), lvlm.run(request, [FastV(keep_ratio=1.0)])
    assert kept.tokens_N.tolist() == plain.tokens_N.tolist()
    torch.testing.assert_close(kept.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("keep_ratio", "vision"), [(0.5, 192), (0.0, 0)])
def test_later_layers_compute_and_cache_less_and_text_stays(lvlm: LVLM, keep_ratio: float, vision: int) -> None:
    trace = lvlm.run(random_request(lvlm.config), [FastV(layer=2, keep_ratio=keep_ratio)]).trace
    length = 16 + vision
    assert trace.llm_tokens == trace.kv_entries == [400, 400, length, length]
    assert trace.kv_byte == [entries * 2 * 2 * 16 * 4 for entries in trace.kv_entries]  # K and V, 2 heads, d = 16
    assert trace.score_entries == [4 * n * (n + 1) // 2 for n in trace.llm_tokens]
    assert trace.probe_entries == 4 * 400  # one row of four heads
    text = [*range(4), *range(388, 400)]
    for kept in trace.kept:
        places = kept[0].tolist()
        assert places == sorted(set(places))
        assert set(text) <= set(places)


def test_decoding_goes_on_behind_the_whole_prompt(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [FastV(layer=1, keep_ratio=0.1)])
        prefill = lvlm.prefill(lvlm.prepare(run), run)
    assert [store.length for store in prefill.cache.stores] == [400, 54, 54, 54]
    assert prefill.cache.next_position.tolist() == [[400]] * 4


def test_a_second_pruning_starts_from_what_the_first_left(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [FastV(1, 0.5), FastV(2, 0.5)]).trace
    assert trace.llm_vision_tokens == [384, 192, 96, 96]
    assert set(trace.kept[2][0].tolist()) < set(trace.kept[1][0].tolist())


def test_a_layer_beyond_the_model_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(random_request(lvlm.config), [FastV(layer=4)])


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FastV(layer=0)
    for keep_ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            FastV(keep_ratio=keep_ratio)
