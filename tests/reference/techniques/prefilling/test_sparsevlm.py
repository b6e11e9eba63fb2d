"""SparseVLM."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.sparsevlm import (
    SparseVLM,
    clusters,
    mean_of,
    raters,
    rating,
    sparsify,
    split,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_words_rate_whose_share_is_above_the_mean(device: str) -> None:
    vision = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], device=device)
    words = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0], [0.0, 0.0]]], device=device)
    # Two of three vision tokens ask for the first word: 0.65, 0.34, and 0.006 of the others; the mean is a quarter.
    assert raters(vision, words).tolist() == [[True, True, False, False]]
    assert raters(vision[:, :2], words).tolist() == [[True, False, False, False]]


def test_the_softmax_is_over_the_words_and_not_over_the_vision_tokens(device: str) -> None:
    vision = torch.tensor([[[1.0], [1.0], [1.0]]], device=device)
    words = torch.tensor([[[3.0], [0.0], [-3.0]]], device=device)
    # Over the vision tokens each word would have a third of each, and none would stand out.
    assert raters(vision, words).tolist() == [[True, False, False]]


def test_where_no_word_stands_out_all_rate(device: str) -> None:
    vision = torch.ones(2, 3, 4, device=device)
    assert raters(vision, torch.ones(2, 4, 4, device=device)).tolist() == [[True] * 4] * 2
    assert raters(vision, torch.ones(2, 1, 4, device=device)).tolist() == [[True]] * 2


def test_a_rating_is_the_mean_over_heads_and_raters_alone(device: str) -> None:
    row = torch.zeros(1, 2, 3, 4, device=device)
    row[0, 0, 0, 1], row[0, 1, 0, 1] = 0.5, 0.25  # a rater
    row[0, :, 1, 2] = 0.9  # no rater
    row[0, :, 2, 2] = 0.25  # a rater
    rates = torch.tensor([[True, False, True]], device=device)
    assert rating(row, rates, torch.tensor([[1, 2]], device=device)).tolist() == [[0.1875, 0.125]]


@pytest.mark.parametrize(
    ("tokens", "count", "recycle", "divisor", "made"),
    [
        (576, 300, 0.3, 10, (300, 83, 9)),  # int(276 · 0.3) + 1, int(83 / 10) + 1
        (309, 200, 0.3, 10, (200, 33, 4)),
        (204, 110, 0.3, 10, (110, 29, 3)),
        (50, 300, 0.3, 10, (49, 1, 1)),  # one goes at least, and comes back alone
        (1, 5, 0.3, 10, (0, 1, 1)),
        (40, 10, 0.0, 2, (10, 1, 1)),
        (40, 10, 0.99, 2, (10, 30, 16)),
    ],
)
def test_how_many_stay_are_recycled_and_made(
    tokens: int, count: int, recycle: float, divisor: int, made: tuple[int, int, int]
) -> None:
    assert split(tokens, count, recycle, divisor) == made


def test_a_cluster_is_the_plain_mean_of_its_members(device: str) -> None:
    x = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [0.0, 0.2], [9.0, 9.0], [9.0, 9.3]]], device=device)
    centre, matching = clusters(x, 2)
    groups = matching.group_BN[0].tolist()
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4]
    mean = mean_of(matching, x)[0]
    torch.testing.assert_close(mean[groups[0]], x[0, :3].mean(0))
    torch.testing.assert_close(mean[groups[3]], x[0, 3:].mean(0))
    assert sorted(groups[place] for place in centre[0].tolist()) == [0, 1]


def test_the_highest_peak_comes_first(device: str) -> None:
    # A tight pair far away, and a loose pair: the tight one is denser, and farthest from what is denser.
    x = torch.tensor([[[0.0], [2.0], [20.0], [20.1]]], device=device)
    centre, matching = clusters(x, 2)
    assert centre[0, 0].item() in (2, 3)
    assert matching.group_BN[0, 2].item() == matching.group_BN[0, 3].item() == 0


def sequence(hidden_ND: Tensor, vision: list[bool]) -> Sequence:
    place = torch.arange(len(hidden_ND), device=hidden_ND.device)[None]
    return Sequence(hidden_ND[None], place, torch.tensor([vision], device=hidden_ND.device), place)


def test_recycled_tokens_follow_the_kept_ones_in_front_of_the_question(device: str) -> None:
    hidden = torch.tensor([[100.0], [1], [2], [3], [4], [5], [6], [200], [300]], device=device)
    score = torch.tensor([[0.1, 0.9, 0.3, 0.0, 0.8, 0.2]], device=device)
    # 2 and 5 stay. Of 1, 3, 4, 6 the best int(4 · 0.5) + 1 = 3, which are 3, 6 and 1, become int(3 / 4) + 1 = 1.
    out = sparsify(sequence(hidden, [False] + [True] * 6 + [False] * 2), score, 2, 0.5, 4)
    torch.testing.assert_close(out.hidden_BND[0, :, 0].cpu(), torch.tensor([100.0, 2, 5, 10 / 3, 200, 300]))
    assert out.vision_BN.tolist() == [[False, True, True, True, False, False]]


def test_positions_are_the_first_ones_of_what_was_there(device: str) -> None:
    hidden = torch.randn(12, 4, device=device)
    score = torch.rand(1, 8, generator=torch.Generator().manual_seed(0)).to(device)
    out = sparsify(sequence(hidden, [False] * 2 + [True] * 8 + [False] * 2), score, 3, 0.3, 10)
    assert out.position_BN.tolist() == [[*range(8)]]
    assert out.next_position.tolist() == [8]
    out = sparsify(sequence(hidden, [False] * 2 + [True] * 8 + [False] * 2), score, 99, 0.3, 10)
    assert out.length == 12  # one is recycled into one
    assert (out.position_BN.tolist(), out.next_position.tolist()) == ([[*range(12)]], [12])


def test_sequences_of_a_batch_are_sparsified_on_their_own(device: str) -> None:
    hidden, score = torch.randn(2, 14, 6, device=device), torch.rand(2, 9, device=device)
    place = torch.arange(14, device=device).expand(2, -1)
    vision = torch.tensor([[False] * 2 + [True] * 9 + [False] * 3] * 2, device=device)
    together = sparsify(Sequence(hidden, place, vision, place), score, 4, 0.6, 2)
    for row in range(2):
        one = slice(row, row + 1)
        alone = sparsify(Sequence(hidden[one], place[one], vision[one], place[one]), score[one], 4, 0.6, 2)
        torch.testing.assert_close(together.hidden_BND[one], alone.hidden_BND)


SETTING = SparseVLM(layers=(0, 2), counts=(40, 11))


def by_hand(lvlm: LVLM, request: Request) -> tuple[list[int], list[Tensor]]:
    """Vision tokens before each layer, and the score of each sparse layer, every pass on whole maps."""
    inputs = lvlm.prepare(lvlm.begin(request))
    current, counts, scores, stage = inputs, [], [], dict(zip((0, 2), (40, 11), strict=True))
    behind = int(inputs.vision_BN[0].nonzero().max()) + 1
    vision, words = inputs.hidden_BND[:, inputs.vision_BN[0]], inputs.hidden_BND[:, behind:]
    share = (vision @ words.mT).softmax(2).mean(1)
    rating_words = (share > share.mean())[0].nonzero()[:, 0]
    for index, layer in enumerate(lvlm.language_model.layers):
        counts.append(int(current.vision_BN.sum()))
        query, key, value = layer.project(current.hidden_BND, current.position_BN)
        logit = query @ share_heads(key, query.shape[1]).mT / query.shape[-1] ** 0.5
        later = torch.ones(current.length, current.length, dtype=torch.bool, device=lvlm.device).triu(1)
        weight = logit.masked_fill(later, float("-inf")).softmax(-1)
        out = layer.finish(current.hidden_BND, weight @ share_heads(value, query.shape[1]))
        current = Sequence(out, current.position_BN, current.vision_BN, current.index_BN, next_B=current.next_position)
        if index in stage:
            rows = rating_words + current.length - words.shape[1]
            scores.append(weight.mean(1)[:, rows][:, :, current.vision_BN[0]].mean(1))
            current = sparsify(current, scores[-1], stage[index], 0.3, 10)
    return counts, [*scores, lvlm.language_model.logits(current.hidden_BND)[0, -1]]


def test_the_raters_attention_in_the_sparse_layers_decides(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    result = lvlm.run(request, [SETTING])
    with torch.inference_mode():
        counts, (*_, logits_C) = by_hand(lvlm, request)
    assert result.trace.llm_vision_tokens == counts == [128, 43, 43, 13]
    torch.testing.assert_close(result.logits_NC[0], logits_C, atol=1e-4, rtol=1e-4)


def test_decoding_goes_on_behind_each_layers_own_prompt(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=2), [SETTING])
        prefill = lvlm.prefill(lvlm.prepare(run), run)
    assert [store.length for store in prefill.cache.stores] == [144, 59, 59, 29]
    assert prefill.cache.next_position.tolist() == [[144], [59], [59], [29]]


def test_only_rows_behind_the_image_are_read(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=2), [SETTING]).trace
    rows = [sum(range(length - 11, length + 1)) for length in (144, 59)]  # twelve words, causal
    assert trace.probe_entries == 4 * sum(rows)


def test_without_layers_nothing_changes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    plain, none = lvlm.run(request), lvlm.run(request, [SparseVLM(layers=(), counts=())])
    assert torch.equal(none.logits_NC, plain.logits_NC)


def test_what_does_not_fit_is_refused(lvlm: LVLM, device: str) -> None:
    request = random_request(lvlm.config, frames=1)
    for layers, counts in (((0, 1), (5,)), ((0, 1, 2, 3), (9, 8, 7, 6))):
        with pytest.raises(Refusal, match="equally many, three at most"):
            lvlm.run(request, [SparseVLM(layers, counts)])
    with pytest.raises(Refusal, match=r"0\.\.2, so that a layer follows each, got \[3\]"):
        lvlm.run(request, [SparseVLM((3,), (5,))])
    with pytest.raises(Refusal, match="FastV may drop some"):
        lvlm.run(request, [FastV(), SparseVLM((0,), (5,))])
    window = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="one-position-axis"):
        window.run(random_request(window.config, frames=2), [SparseVLM((0,), (5,))])
    bare = Request(**{**vars(request), "prompt_N": request.prompt_N[:5]})  # four words and the image
    with pytest.raises(Refusal, match="text behind the last vision token"):
        lvlm.run(bare, [SparseVLM((0,), (5,))])


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in (
        {"layers": (1, 1)}, {"layers": (-1,)}, {"counts": (0,)}, {"recycle": 1.0}, {"recycle": -0.1}, {"divisor": 1},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SparseVLM(**wrong)
