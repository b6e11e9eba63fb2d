"""StreamingTOM."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.techniques.prefilling.streamingtom import (
    Memory,
    StreamingTom,
    group_scores,
    reduction,
    shares,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


@pytest.mark.parametrize(
    ("static", "dynamic", "budget", "expected"),
    [
        (98, 98, 50, (25, 25)),
        (0, 196, 50, (0, 50)),
        (196, 0, 50, (50, 0)),
        (3, 193, 195, (2, 193)),
        (97, 99, 50, (24, 26)),
    ],
)
def test_the_budget_is_divided_in_proportion(static: int, dynamic: int, budget: int, expected: tuple[int, int]) -> None:
    assert shares(static, dynamic, budget) == expected


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 80))
def test_what_one_part_cannot_fill_goes_to_the_other(static: int, dynamic: int, budget: int) -> None:
    if budget > static + dynamic:
        return
    of_static, of_dynamic = shares(static, dynamic, budget)
    assert of_static + of_dynamic == budget
    assert 0 <= of_static <= static
    assert 0 <= of_dynamic <= dynamic


def test_a_centre_keeps_its_weight_however_many_join_it(device: str) -> None:
    line = [[-0.2, 0], [-0.1, 0], [0, 0], [0.1, 0], [0.25, 0], [5.0, 5]]
    x = torch.tensor(line, device=device)
    static = torch.tensor([True] * 5 + [False], device=device)
    place, weight = reduction(x, torch.ones(6, device=device), static, 2, 0.6)
    assert place[1] == 5
    centre = int(place[0])
    left = weight @ x
    others = torch.tensor([row for n, row in enumerate(line[:5]) if n != centre]).mean(dim=0)
    expected = 0.6 * torch.tensor(line[centre]) + 0.4 * others
    torch.testing.assert_close(left.cpu(), torch.stack([expected, torch.tensor([5.0, 5])]))


def test_of_what_changed_the_tokens_of_most_attention_stay(device: str) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(device)
    attention = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7, 0.2], device=device)
    place, weight = reduction(x, attention, torch.zeros(6, dtype=torch.bool, device=device), 3, 0.6)
    assert place.tolist() == [0, 2, 4]
    torch.testing.assert_close(weight @ x, x[[0, 2, 4]])


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(1, 16), st.floats(0, 1), st.integers(0, 99))
def test_every_frame_is_left_with_exactly_its_budget(tokens: int, budget: int, weight: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, static = torch.randn(tokens, 4, generator=generator), torch.rand(tokens, generator=generator) < 0.5
    place, mixed = reduction(x, torch.rand(tokens, generator=generator), static, min(budget, tokens), weight)
    assert len(place) == min(budget, tokens)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(len(place)))
    assert bool((mixed[:, ~static].sum(dim=0) <= 1).all())


def seen(memory: Memory, frames: Tensor) -> list[list[int]]:
    """Columns of the grid that are left of each frame; the attention of all patches is alike."""
    count, tokens, _ = frames.shape
    even = torch.zeros(count, 1, 1 + tokens, 4)
    memory.encoder_output(EncoderOutput(Patches(torch.zeros(count, 1 + tokens, 4), 1, Probe(even, even, causal=False))))
    place = torch.stack([torch.zeros(tokens, dtype=torch.long), torch.arange(tokens)], dim=1).expand(count, -1, -1)
    out = memory.adapter_output(AdapterOutput(VisionTokens(blocks_of(frames, place), (1, tokens))))
    return [block.place_N2[:, 1].tolist() for block in out.blocks if block.place_N2 is not None]


def test_a_frame_is_compared_with_all_of_the_frame_before_in_a_later_round_too(lvlm: LVLM) -> None:
    setting = StreamingTom(tokens_per_frame=2, bits=4)
    memory = cast("Memory", setting.begin(lvlm.begin(random_request(lvlm.config))))
    frame = torch.eye(4)
    changed = frame.clone()
    changed[3] = torch.tensor([1.0, 1, 1, 0])
    # All of the first frame is dynamic, of equal attention the first two stay; of the second only the last changed.
    assert seen(memory, torch.stack([frame, changed])) == [[0, 1], [0, 3]]
    again = changed.clone()
    again[2] = torch.tensor([0.0, 1, 0, 0])
    assert seen(memory, again[None])[0][1] == 2  # against the frame of the round before, whose token 3 was the new one


def test_a_question_reads_the_groups_that_resemble_it(device: str) -> None:
    key = torch.tensor([[[[1.0, 0], [3, 0], [0, 2], [0, 4], [-1, 0]], [[1, 0], [1, 0], [0, 9], [0, 9], [0, 1]]]])
    key = key.to(device)
    # Two key-value heads with two query heads each, which are averaged: (1, 1) and (0, 2), as one row of four numbers.
    query = torch.tensor([[[2.0, 0], [0, 2], [0, 1], [0, 3]]], device=device)
    means = torch.tensor([[2.0, 0, 1, 0], [0, 3, 0, 9], [-1, 0, 0, 1]])
    expected = torch.nn.functional.cosine_similarity(means, torch.tensor([[1.0, 1, 0, 2]]), dim=-1)
    torch.testing.assert_close(group_scores(query, key, 2)[0].cpu(), expected)


def test_vision_entries_are_codes_in_groups_of_a_frame(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3, max_new_tokens=2)
    trace = lvlm.run(request, [StreamingTom(tokens_per_frame=8, retrieved_tokens=8)]).trace
    assert trace.llm_vision_tokens == [24] * 4
    text, heads, width = 16, 2, 16
    coded = 24 * width * 4 // 8 + 3 * width * 2 * 4
    assert trace.kv_byte == [2 * heads * (text * width * 4 + coded)] * 4
    assert trace.kv_read == pytest.approx([(16 + 8 + 1) / 41] * 4)


def test_another_question_reads_other_groups(lvlm: LVLM) -> None:
    stream, request = lvlm.stream([StreamingTom(tokens_per_frame=4, retrieved_tokens=8)]), random_request(lvlm.config)
    stream.ask(request.prompt_N, 2, frames=request.frames_F3HW)
    memory = cast("Memory", cast("Run", stream._run).acts.at("cache-read")[0])
    chosen = []
    for words in ([7, 8, 9], [30, 20, 41, 77]):
        stream.ask(torch.tensor(words), 2)
        chosen.append([memory.read[layer][0, 0].tolist() for layer in range(4)])
    assert all(len(tokens) == 8 for each in chosen for tokens in each)
    assert chosen[0] != chosen[1]


def test_frames_that_are_small_enough_stay(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    same = lvlm.run(request, [StreamingTom(tokens_per_frame=1000, retrieved_tokens=1000)])
    torch.testing.assert_close(same.logits_NC, lvlm.run(request).logits_NC, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"tokens_per_frame": 0}, ValueError),
        ({"static_threshold": 2}, ValueError),
        ({"center_weight": -0.1}, ValueError),
        ({"bits": 3}, ValueError),
        ({"retrieved_tokens": 0}, ValueError),
        ({"tokens_per_frame": 3}, Refusal),
    ],
)
def test_arguments_that_cannot_be_are_refused(wrong: dict[str, float], error: type[ValueError]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as raised:
        StreamingTom(**wrong)  # type: ignore[arg-type]
    assert type(raised.value) is error
