"""PyramidDrop."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.ops.attention import attend, share_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.pyramiddrop import (
    PyramidDrop,
    instruction_score,
    rank_and_drop,
    stage_count,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def by_hand(lvlm: LVLM, request: Request, tokens: list[int], stages: dict[int, float]) -> tuple[list, torch.Tensor]:
    """Kept places before each layer and logits after the prompt and each token, every pass from scratch."""
    inputs = lvlm.prepare(lvlm.begin(request))
    vision_N, arrived = inputs.vision_BN[0], int(inputs.vision_BN.sum())
    answer_MD = lvlm.embed(torch.tensor(tokens, dtype=torch.long))
    alive = torch.arange(inputs.length, device=lvlm.device)
    x_BND, kept = torch.cat([inputs.hidden_BND, answer_MD[None]], dim=1), []
    for index, layer in enumerate(lvlm.language_model.layers):
        prompt = len(alive)
        if index in stages:
            query, key, _ = layer.project(x_BND[:, :prompt], torch.arange(prompt, device=lvlm.device)[None])
            logit_HN = (query[0, :, -1:] @ share_heads(key, query.shape[1])[0].mT)[:, 0] / query.shape[-1] ** 0.5
            score_N = logit_HN.softmax(-1).mean(0).masked_fill(~vision_N[alive], -1)
            best = score_N.topk(int(arrived * stages[index])).indices
            keep_N = ~vision_N[alive]
            keep_N[best] = True
            x_BND = torch.cat([x_BND[:, :prompt][:, keep_N], x_BND[:, prompt:]], dim=1)
            alive = alive[keep_N]
        kept.append(alive.tolist())
        position = torch.arange(x_BND.shape[1], device=lvlm.device)[None]
        query, key, value = layer.project(x_BND, position)
        x_BND = layer.finish(x_BND, attend(query, key, value, causal=True))
    return kept, lvlm.language_model.logits(x_BND)[0, len(alive) - 1 :]


STAGES = {1: 0.5, 2: 0.3, 3: 0.06}


def test_each_stage_closes_up_its_positions_and_decodes_behind_them(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=5)
    result = lvlm.run(request, [PyramidDrop(tuple(STAGES), tuple(STAGES.values()))])
    with torch.inference_mode():
        kept, logits_MC = by_hand(lvlm, request, result.tokens_N[:-1].tolist(), STAGES)
    assert [each[0].tolist() for each in result.trace.kept] == kept
    torch.testing.assert_close(result.logits_NC, logits_MC, atol=1e-4, rtol=1e-4)


def test_the_layer_about_to_run_decides(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    ours = lvlm.run(request, [PyramidDrop((2,), (0.25,))]).trace.kept[2][0].tolist()
    before = lvlm.run(request, [FastV(layer=2, keep_ratio=0.25)]).trace.kept[2][0].tolist()
    assert len(ours) == len(before)
    assert ours != before
    with torch.inference_mode():
        assert by_hand(lvlm, request, [], {2: 0.25})[0][2] == ours


def test_ratios_are_of_the_tokens_that_entered_the_llm(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    trace = lvlm.run(request, [PyramidDrop((1, 2, 3), (0.5, 0.25, 0.125))]).trace
    assert trace.llm_vision_tokens == [128, 64, 32, 16]
    assert trace.kv_entries == [144, 80, 48, 32]


@pytest.mark.parametrize(("arrived", "ratio", "kept"), [(7, 0.5, 3), (9, 0.99, 8), (3, 1.0, 3), (5, 0.1, 0)])
def test_the_count_is_rounded_down(arrived: int, ratio: float, kept: int) -> None:
    assert stage_count(arrived, ratio) == kept


def test_kept_ranks_ascend_and_the_earlier_of_equals_stays(device: str) -> None:
    score = torch.tensor([[0.1, 0.5, 0.3, 0.5, 0.3]], device=device)
    assert rank_and_drop(score, 3).tolist() == [[1, 2, 3]]
    assert rank_and_drop(score, 5).tolist() == [[0, 1, 2, 3, 4]]
    assert rank_and_drop(score, 0).shape == (1, 0)


def test_a_score_is_the_mean_over_heads_at_the_vision_tokens(device: str) -> None:
    row = torch.tensor([[[0.5, 0.25, 0.25], [0.25, 0.75, 0.0]]], device=device)
    assert instruction_score(row, torch.tensor([[1, 2]], device=device)).tolist() == [[0.5, 0.125]]


def test_one_row_a_boundary_is_read(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=2), [PyramidDrop((1, 3), (0.5, 0.25))]).trace
    assert trace.probe_entries == 4 * (144 + 80)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_keeping_everything_changes_nothing(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2)
    plain, kept = lvlm.run(request), lvlm.run(request, [PyramidDrop((1, 2), (1.0, 1.0))])
    torch.testing.assert_close(kept.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)


def test_lists_that_do_not_fit_are_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match="equally many, got 2 and 1"):
        lvlm.run(request, [PyramidDrop((1, 2), (0.5,))])
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers"):
        lvlm.run(request, [PyramidDrop((1, 4), (0.5, 0.2))])
    for layers, ratios in (((0, 1), (0.5, 0.2)), ((2, 1), (0.5, 0.2)), ((1, 1), (0.5, 0.2))):
        with pytest.raises(ValueError, match="layers"):
            PyramidDrop(layers, ratios)
    for ratios in ((0.2, 0.5), (1.1, 0.2), (0.5, -0.1), (0.5, float("nan"))):
        with pytest.raises(ValueError, match="ratios"):
            PyramidDrop((1, 2), ratios)


def test_beside_another_technique_between_the_layers_it_is_refused(lvlm: LVLM) -> None:
    for stack in ([FastV(), PyramidDrop((2,), (0.5,))], [PyramidDrop((2,), (0.5,)), FastV()]):
        with pytest.raises(Refusal, match="FastV may drop some between its layers"):
            lvlm.run(random_request(lvlm.config, frames=1), stack)
