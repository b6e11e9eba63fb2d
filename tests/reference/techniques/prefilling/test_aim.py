"""AIM."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, grid_places
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.ops.attention import attend, share_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.aim import (
    AIM,
    Merging,
    matchings,
    merge,
    page_rank,
    retained,
    rounds,
    stands_for,
)
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def features(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def causal_map(*shape: int, scale: float = 1.0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Logits (B, H, N, N) without a mask, and the softmax attention."""
    logit_BHNN = features(*shape, shape[-1], device=device) * scale
    later_NN = torch.ones(shape[-1], shape[-1], dtype=torch.bool, device=device).triu(1)
    return logit_BHNN, logit_BHNN.masked_fill(later_NN, float("-inf")).softmax(-1)


def test_merges_remove_halves_of_the_number_at_first() -> None:
    assert rounds(8, 2) == [4, 2]
    assert rounds(7, 2) == [3, 1]  # 4 are left of 7, and halving those would take 2
    assert rounds(196, 3) == [98, 49, 24]
    assert rounds(5, 9) == [2, 1]
    assert rounds(3, 2) == [1]
    assert rounds(1, 2) == rounds(8, 0) == []


def by_hand(x_ND: Tensor, merges: int) -> list[Tensor]:
    """The merged tokens, with loops."""
    tokens, first = [*x_ND.double()], len(x_ND)
    for step in range(1, merges + 1):
        even, odd = range(0, len(tokens), 2), range(1, len(tokens), 2)
        likes = {}
        for e in even:
            cosines = [float(torch.cosine_similarity(tokens[e], tokens[o], dim=0)) for o in odd]
            likes[e] = (max(cosines, default=-math.inf), [*odd][cosines.index(max(cosines))] if cosines else -1)
        order = sorted(even, key=lambda e: -likes[e][0])
        gone, stay = order[: first // 2**step], order[first // 2**step :]
        groups = [[e] for e in stay] + [[o, *(e for e in gone if likes[e][1] == o)] for o in odd]
        tokens = [torch.stack([tokens[i] for i in group]).mean(0) for group in groups]
    return tokens


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 12, 25])
def test_merging_equals_the_definition(device: str, tokens: int) -> None:
    x_ND = features(tokens, 5, seed=tokens, device=device)
    for merges in (1, 2, 3):
        if tokens >= 2**merges:
            merged_KD = merge(matchings(x_ND, merges), x_ND)
            expected_KD = torch.stack(by_hand(x_ND.cpu(), merges)).float()
            torch.testing.assert_close(merged_KD.cpu(), expected_KD, atol=1e-5, rtol=1e-5)


def test_what_stays_comes_first_by_falling_likeness(device: str) -> None:
    angle_N = torch.tensor([0.0, 0.01, 90, 0, 50, 180], device=device).deg2rad()
    x_ND = torch.stack([angle_N.cos(), angle_N.sin()], dim=1)
    # Best partners of the even ones: 0 → 3 (0°), 2 → 1 (almost 90°), 4 → 1 (almost 50°).
    steps = matchings(x_ND, 3)[:1]
    assert steps[0].count == 3
    assert stands_for(steps, torch.arange(6, device=device)).tolist() == [1, 3, 5]
    one = matchings(x_ND[:5], 1)  # two go, of three even ones: the least alike stays, in front
    assert stands_for(one, torch.arange(5, device=device)).tolist() == [2, 1, 3]
    torch.testing.assert_close(merge(one, x_ND[:5])[0], x_ND[2])


def test_the_second_merge_counts_places_as_the_first_has_left_them(device: str) -> None:
    seven = features(7, 4, seed=3, device=device)
    steps = matchings(seven, 2)
    last = steps[1]
    assert (steps[0].count, last.count) == (4, 3)
    after = merge(steps[:1], seven)
    cosine = torch.cosine_similarity(after[::2, None], after[None, 1::2], dim=-1).amax(1)
    stays = int(cosine.argmin()) * 2
    torch.testing.assert_close(merge(steps, seven)[0], after[stays])


def test_means_forget_earlier_merges(device: str) -> None:
    # The first merge takes 0 and 2 into 1 (mean 1), then that mean is merged with 3 as one token with one token.
    x_ND = torch.tensor([[0.9, 0.0], [1.2, 0.0], [0.9, 0.0], [1.0, 1.0]], device=device)
    steps = matchings(x_ND, 2)
    assert [step.count for step in steps] == [2, 1]
    assert merge(steps, x_ND).flatten().tolist() == pytest.approx([1.0, 0.5])


def test_equal_tokens_lose_nothing(device: str) -> None:
    x_ND = torch.full((13, 4), 0.75, device=device)
    merged_KD = merge(matchings(x_ND, 2), x_ND)
    assert merged_KD.shape == (13 - 6 - 3, 4)
    torch.testing.assert_close(merged_KD, x_ND[:4])


def test_frames_are_merged_apart(device: str) -> None:
    frames = features(3, 9, 6, device=device)
    tokens = VisionTokens(tuple(Block(frame) for frame in frames), (3, 3))
    merged = Merging(AIM()).adapter_output(AdapterOutput(tokens))
    assert merged.lengths == (3, 3, 3)
    assert merged.grid is None
    for frame, block in zip(frames, merged.blocks, strict=True):
        torch.testing.assert_close(block.token_ND, merge(matchings(frame, 2), frame))


def test_what_takes_others_in_keeps_its_place_and_deepstack_features_are_merged_alike(device: str) -> None:
    x_ND = features(12, 6, device=device)
    block = Block(x_ND, grid_places(3, 4), torch.stack([x_ND, 2 * x_ND], dim=1))
    merged = Merging(AIM(merges=1)).adapter_output(AdapterOutput(VisionTokens((block,), (3, 4)))).blocks[0]
    odd = [[place // 4, place % 4] for place in range(1, 12, 2)]
    assert merged.place_N2 is not None
    assert merged.place_N2.tolist() == odd  # six go, so that no even one is left
    assert merged.deepstack_NLD is not None
    torch.testing.assert_close(merged.deepstack_NLD[:, 0], merged.token_ND)
    torch.testing.assert_close(merged.deepstack_NLD[:, 1], 2 * merged.token_ND)


def test_mass_follows_the_map_and_none_is_given_back(device: str) -> None:
    # At temperature 1 the walk is on the map itself: token 1 sends half to token 0, token 2 all to token 1.
    weight = torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]]], device=device)
    assert page_rank(weight, 1.0, 1)[0].tolist() == pytest.approx([0.5, 0.5, 0])
    assert page_rank(weight, 1.0, 2)[0].tolist() == pytest.approx([0.75, 0.25, 0])
    assert page_rank(weight, 1.0, 3)[0].tolist() == pytest.approx([0.875, 0.125, 0])


def test_mass_is_kept_and_many_steps_bring_it_to_the_first(device: str) -> None:
    weight = causal_map(2, 1, 9, device=device)[1]
    assert page_rank(weight, 0.7, 5).sum(dim=1).tolist() == pytest.approx([1, 1])
    assert page_rank(weight, 1.0, 400)[:, 0].tolist() == pytest.approx([1, 1], abs=1e-3)


def test_heads_walk_apart_and_their_mean_square_counts(device: str) -> None:
    back = [[1.0, 0], [1, 0]]
    itself = [[1.0, 0], [0, 1]]
    score = page_rank(torch.tensor([[back, itself]], device=device), 1.0, 2)[0].tolist()
    assert score == pytest.approx([math.sqrt((1 + 0.25) / 2), math.sqrt(0.25 / 2)])


def test_the_temperature_divides_logits(device: str) -> None:
    logit, weight = causal_map(1, 3, 8, scale=2.0, device=device)
    later = torch.ones(8, 8, dtype=torch.bool, device=device).triu(1)
    share = (logit / 0.1).masked_fill(later, float("-inf")).softmax(-1)
    mass = torch.full((1, 3, 1, 8), 1 / 8, device=device)
    for _ in range(5):
        mass = mass @ share
    torch.testing.assert_close(page_rank(weight, 0.1, 5), mass[:, :, 0].square().mean(1).sqrt(), atol=1e-5, rtol=1e-4)


def test_the_number_falls_on_a_line_to_none(lvlm: LVLM) -> None:
    assert [retained(49, layer, 14, 0.125) for layer in (15, 16, 21, 22, 27)] == [42, 36, 6, 0, 0]
    request = random_request(lvlm.config, frames=2)
    trace = lvlm.run(request, [AIM(merges=0, layer=0, slope=0.4)]).trace
    assert trace.llm_vision_tokens == [128, 76, 25, 0]
    assert trace.kv_entries == [144, 92, 41, 16]
    trace = lvlm.run(request, [AIM(merges=2, layer=1, slope=0.5)]).trace
    assert trace.llm_vision_tokens == [32, 32, 16, 0]


def expected_run(lvlm: LVLM, request: Request, tokens: list[int], first: int, slope: float) -> tuple[list, Tensor]:
    """Kept places before each layer and logits after the prompt and each token, every pass from scratch."""
    inputs = lvlm.prepare(lvlm.begin(request))
    arrived, alive = int(inputs.vision_BN.sum()), torch.arange(inputs.length, device=lvlm.device)
    answer_MD = lvlm.embed(torch.tensor(tokens, dtype=torch.long))
    x_BND, kept = torch.cat([inputs.hidden_BND, answer_MD[None]], dim=1), []
    answer_M = inputs.length + torch.arange(len(tokens), device=lvlm.device)
    score_N = torch.zeros(0)
    for index, layer in enumerate(lvlm.language_model.layers):
        if index > first:
            vision_N = inputs.vision_BN[0, alive]
            keep = int(arrived * max(0.0, 1 - slope * (index - first)))
            best = score_N.masked_fill(~vision_N, -1).topk(keep).indices
            keep_N = ~vision_N
            keep_N[best] = True
            x_BND = torch.cat([x_BND[:, : len(alive)][:, keep_N], x_BND[:, len(alive) :]], dim=1)
            alive = alive[keep_N]
        kept.append(alive.tolist())
        query, key, value = layer.project(x_BND, torch.cat([alive, answer_M])[None])
        prompt = len(alive)
        logit = query[0, :, :prompt] @ share_heads(key, query.shape[1])[0, :, :prompt].mT / query.shape[-1] ** 0.5
        later = torch.ones(prompt, prompt, dtype=torch.bool, device=lvlm.device).triu(1)
        share = (logit / 0.1).masked_fill(later, float("-inf")).softmax(-1)
        mass = torch.full((len(logit), 1, prompt), 1 / prompt, device=lvlm.device)
        score_N = (mass @ torch.linalg.matrix_power(share, 5))[:, 0].square().mean(0).sqrt()
        x_BND = layer.finish(x_BND, attend(query, key, value, causal=True))
    return kept, lvlm.language_model.logits(x_BND)[0, len(alive) - 1 :]


def test_positions_keep_their_gaps(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, max_new_tokens=4)
    result = lvlm.run(request, [AIM(merges=0, layer=0, slope=0.25)])
    with torch.inference_mode():
        kept, logits_MC = expected_run(lvlm, request, result.tokens_N[:-1].tolist(), 0, 0.25)
    assert [each[0].tolist() for each in result.trace.kept] == kept
    torch.testing.assert_close(result.logits_NC, logits_MC, atol=1e-4, rtol=1e-4)


def test_whole_maps_are_read_until_no_vision_token_is_left(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=2), [AIM(merges=0, layer=0, slope=0.5)]).trace
    assert trace.llm_vision_tokens == [128, 64, 0, 0]
    assert trace.probe_entries == 4 * sum(n * (n + 1) // 2 for n in (144, 80))


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_without_merges_and_slope_nothing_changes(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2)
    plain, same = lvlm.run(request), lvlm.run(request, [AIM(merges=0, layer=0, slope=0.0)])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert not same.trace.probe_entries


def test_what_does_not_fit_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match=r"0\.\.2 for an LLM of 4 layers, got 3"):
        lvlm.run(request, [AIM(layer=3)])
    for stack in ([FastV(), AIM(layer=1)], [AIM(layer=1), FastV()]):
        with pytest.raises(Refusal, match="FastV may drop some between its layers"):
            lvlm.run(request, stack)
    for name, value in (("merges", -1), ("layer", -1), ("slope", -0.1), ("iterations", 0), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=name):
            AIM(**{name: value})
