"""Sliding-window attention with sinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import Rotary, attend
from lvlm_atlas.reference.ops.blocks import Blocks
from lvlm_atlas.reference.ops.window import Window, window_attention
from lvlm_atlas.reference.techniques.prefilling.sliding_window_attention import SlidingWindowAttention, in_sight

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


class Masked(Technique):
    """The same by a mask that is formed: blocks of one token, by distances of a loop."""

    acts_at = ("attention",)
    needs = ("block-sparse-kernel",)

    def __init__(self, window_size: int, sink_size: int) -> None:
        self.window_size, self.sink_size = window_size, sink_size

    def choose_blocks(self, at: Attention) -> Blocks:
        heads, length = at.query_BHNd.shape[1:3]
        seen = [
            [j <= i and (i - j < self.window_size or j < self.sink_size) for j in range(length)] for i in range(length)
        ]
        keep_NN = torch.tensor(seen, device=at.query_BHNd.device)
        return Blocks(keep_NN.expand(len(at.query_BHNd), heads, -1, -1), 1)


def rows(mask_NN: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask_NN]


def test_the_token_itself_is_one_of_the_window(device: str) -> None:
    device_ = torch.device(device)
    assert rows(in_sight(4, 1, 0, device_)) == [[0], [1], [2], [3]]
    assert rows(in_sight(4, 2, 0, device_)) == [[0], [0, 1], [1, 2], [2, 3]]


def test_the_first_tokens_stay_in_sight_of_all(device: str) -> None:
    expected = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 3, 4], [0, 1, 4, 5]]
    assert rows(in_sight(6, 2, 2, torch.device(device))) == expected
    assert bool((in_sight(5, 1, 9) == torch.ones(5, 5).tril().bool()).all())


def tensors(length: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    draw = lambda heads: torch.randn(2, heads, length, 8, generator=generator).to(device)  # noqa: E731
    return draw(4), draw(2), draw(2)


@pytest.mark.parametrize(
    ("length", "window", "sinks"),
    [(1, 1, 0), (7, 1, 0), (7, 3, 2), (7, 7, 3), (7, 9, 1), (9, 2, 20), (300, 31, 5), (300, 257, 60)],
)
def test_attention_is_dense_attention_under_the_mask_and_its_scores_are_counted(
    length: int, window: int, sinks: int, device: str
) -> None:
    query, key, value = tensors(length, device)
    mask_NN = in_sight(length, window, sinks, query.device)
    position = torch.arange(length, device=device)[None]
    out, scores = window_attention(query, key, value, position, None, Window(window, sinks), Rotary(1e4))
    torch.testing.assert_close(out, attend(query, key, value, mask_NN), **CLOSE)
    assert scores == 2 * 4 * int(mask_NN.sum())
    near, far = min(length, window), max(length - window, 0)  # as the entry's density has it
    sinks = min(sinks, far)
    assert 2 * int(mask_NN.sum()) == near * (near + 1) + 2 * far * window + sinks * (2 * far - sinks + 1)


def test_a_sink_inside_the_window_counts_once(device: str) -> None:
    query, key, value = tensors(12, device)
    position = torch.arange(12, device=device)[None]
    with_sinks, without = (
        window_attention(query, key, value, position, None, Window(8, sinks), Rotary(1e4)) for sinks in (8, 0)
    )
    torch.testing.assert_close(with_sinks[0][:, :, :8], without[0][:, :, :8])
    assert not torch.allclose(with_sinks[0][:, :, 8:], without[0][:, :, 8:], atol=1e-2)
    assert with_sinks[1] - without[1] == 8 * (1 + 2 + 3 + 4)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
@pytest.mark.parametrize(("window", "sinks"), [(40, 0), (25, 6)])
def test_a_run_equals_dense_attention_under_the_mask(preset: str, window: int, sinks: int, device: str) -> None:
    model = LVLM.random(preset, device=device)
    request = random_request(model.config)
    result = model.run(request, [SlidingWindowAttention(window, sinks)])
    masked = model.run(request, [Masked(window, sinks)])
    torch.testing.assert_close(result.logits_NC, masked.logits_NC, **CLOSE)
    assert result.trace.score_entries == masked.trace.score_entries
    plain = model.run(request)
    assert result.trace.llm_tokens == plain.trace.llm_tokens
    assert result.trace.kv_byte == plain.trace.kv_byte
    assert all(few < all_ for few, all_ in zip(result.trace.score_entries, plain.trace.score_entries, strict=True))
    assert not torch.allclose(result.logits_NC, plain.logits_NC, atol=1e-3)


def test_a_window_over_the_whole_prompt_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [SlidingWindowAttention(400, 0)])
    assert torch.equal(same.logits_NC, plain.logits_NC)
    assert same.trace.score_entries == plain.trace.score_entries
    shorter = lvlm.run(request, [SlidingWindowAttention(399, 0)])
    assert shorter.trace.score_entries == [plain.trace.score_entries[0] - 4] * 4  # one score a head


def test_sinks_that_reach_to_the_window_leave_nothing_out(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [SlidingWindowAttention(100, 300)])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, **CLOSE)
    assert same.trace.score_entries == plain.trace.score_entries


def test_a_round_looks_back_into_the_cache_by_the_same_rule(lvlm: LVLM) -> None:
    """In two rounds as in one prompt: the last tokens see the same, wherever a round began."""
    frames_F3HW = random_request(lvlm.config, frames=3).frames_F3HW
    question_N = torch.arange(10, 20)
    answers = []
    for rounds in ((3,), (1, 2)):
        stream = lvlm.stream([SlidingWindowAttention(50, 3)])
        for part_F3HW in frames_F3HW.split(rounds):
            stream.see(part_F3HW)
        answers.append(stream.ask(question_N, 2).logits_NC)
    torch.testing.assert_close(*answers, **CLOSE)
    dense = lvlm.stream()
    dense.see(frames_F3HW)
    assert not torch.allclose(dense.ask(question_N, 2).logits_NC, answers[0], atol=1e-3)


@pytest.mark.parametrize(("arguments", "message"), [({"window_size": 0}, "window_size"), ({"sink_size": -1}, "sink")])
def test_illegal_values_are_told(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlidingWindowAttention(**arguments)
