"""MMInference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.attention import causal_mask, share_heads
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.mminference import PATTERNS, Choice, MMInference, gain, grid_lines

SMALL = MMInference(vertical_size=6, slash_size=4, probe_queries=5, first_columns=1, nearest_diagonals=1)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def choice(setting: MMInference, query: Tensor, key: Tensor, vision: range, frames: int = 1) -> Choice:
    """On tokens of which those in a range are visual."""
    length, device = query.shape[2], query.device
    place = torch.arange(length, device=device)[None]
    seen = (place >= vision.start) & (place < vision.stop)
    sequence = Sequence(torch.zeros(1, length, 4, device=device), place, seen, place)
    return Choice(setting, Probe(query, key, causal=True), sequence, frames)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def test_the_grid_is_that_of_the_planted_stride_and_phase(device: str) -> None:
    column = 0.1 * torch.rand(1, 2, 60, generator=torch.Generator().manual_seed(0)).to(device)
    column[0, 0, 3::12] += 1  # every twelfth key from 3 on
    column[0, 1, 4::5] += 1
    column[0, 0, 20] += 3  # a single key that is looked at most
    lines = grid_lines(column, (12, 5))
    assert lines[0, 0].nonzero()[:, 0].tolist() == [*range(3, 60, 12)]
    assert lines[0, 1].nonzero()[:, 0].tolist() == [*range(4, 60, 5)]
    assert not grid_lines(column, ()).any()


def planted(device: str) -> Choice:
    """Six text tokens, 40 of vision, eight of text: text looks at key 2 and at 14 places back, vision at key 20."""
    query, key = torch.zeros(1, 1, 54, 16, device=device), torch.zeros(1, 1, 54, 16, device=device)
    query[..., 0], query[:, :, 6:46, 0], query[:, :, 6:46, 1] = 40, 0, 40
    key[:, :, 2, 0], key[:, :, 20, 1] = 9, 9
    return choice(replace(SMALL, vertical_size=2), query, key, range(6, 46))


def test_queries_of_a_modality_choose_by_their_own_last_rows(device: str) -> None:
    at = planted(device)
    one, apart = at.keep("vertical-slash")[0, 0], at.keep("q-boundary")[0, 0]
    assert one[40, 2]
    assert not one[40, 20]  # the last rows are text, and choose for all
    assert apart[40, 20]
    assert not apart[40, 2]
    assert apart[50, 2]
    assert not apart[50, 20]


def test_with_boundaries_both_ways_each_part_has_half_of_the_columns(device: str) -> None:
    query, key = randn(1, 1, 54, 16, device=device), randn(1, 1, 54, 16, device=device, seed=1)
    at = choice(SMALL, query, key, range(6, 46))
    keep = at.keep("2d-boundary")[0, 0]
    weight, place = at.rows("text")
    column = weight.sum(2)[0, 0]
    text = torch.tensor([*range(6), *range(46, 54)], device=device)
    text_best = [0, *text[1:][column[text[1:]].topk(2).indices].tolist()]  # the first column is always among them
    vision_best = (column[6:46].topk(3).indices + 6).tolist()
    assert bool(keep[53, text_best + vision_best].all())
    assert int(keep[53, 6:46].sum()) <= 3 + 2  # its columns, and half of the diagonals
    assert int(keep[53, text].sum()) <= 3 + 2
    assert keep.diagonal().all()
    assert not keep.triu(1).any()
    assert place.tolist() == [49, 50, 51, 52, 53]


@pytest.mark.parametrize("name", PATTERNS)
def test_no_row_computes_more_than_the_sizes_or_the_grid(device: str, name: str) -> None:
    query, key = randn(1, 4, 54, 16, device=device), randn(1, 2, 54, 16, device=device, seed=1)
    keep = choice(SMALL, query, key, range(6, 46), frames=4).keep(name)
    most = max(6 + 4, -(-54 // 10) + 2)
    assert bool((keep.sum(-1) <= most).all())
    assert bool(keep.diagonal(dim1=-2, dim2=-1).all())


def test_parts_share_one_softmax(device: str) -> None:
    """The merge of parts by their sums of exponentials is the softmax over the union."""
    query, key, value = (randn(1, 1, 30, 8, device=device, seed=seed) for seed in range(3))
    at = choice(replace(SMALL, slash_size=2), query, key, range(5, 25))
    keep = at.keep("2d-boundary")
    vision = at.sequence.vision_BN[0]
    logit = (query @ key.mT) * 8**-0.5
    total, mixed = torch.zeros(1, 1, 30, 1, device=device), torch.zeros_like(query)
    for of_key in (vision, ~vision):
        part = logit.masked_fill(~(keep & of_key), float("-inf")).exp()
        total, mixed = total + part.sum(-1, keepdim=True), mixed + part @ value
    torch.testing.assert_close(pair_attention(query, key, value, Pairs(keep))[0], mixed / total)


def test_permuted_blocks_give_the_same(device: str) -> None:
    query, key, value = (randn(1, 2, 48, 8, device=device, seed=seed) for seed in range(3))
    keep = choice(SMALL, query, key, range(48), frames=4).keep("grid")
    order = torch.arange(48, device=device).reshape(4, 12).T.flatten()  # tokens of one residue side by side
    logit = (query[:, :, order] @ key[:, :, order].mT) * 8**-0.5
    seen = keep[:, :, order][..., order] & (order[:, None] >= order)
    out = torch.empty_like(query)
    out[:, :, order] = logit.masked_fill(~seen, float("-inf")).softmax(-1) @ value[:, :, order]
    torch.testing.assert_close(pair_attention(query, key, value, Pairs(keep))[0], out)


def test_gain_is_the_attention_that_kept_pairs_hold_beyond_an_even_one(device: str) -> None:
    weight = torch.tensor([[[[1, 0], [0.3, 0.7]], [[1, 0], [0.6, 0.4]]]], device=device)
    keep = torch.eye(2, dtype=torch.bool, device=device)[None, None]
    # The pairs hold 1 and 0.7, or 1 and 0.4; of an even attention 1 and 0.5.
    torch.testing.assert_close(gain(weight, keep), torch.tensor([0.1, -0.05], device=device))


def test_each_head_gets_the_pattern_that_gains_most(lvlm: LVLM) -> None:
    samples = [random_request(lvlm.config, frames=2, seed=seed) for seed in (5, 6)]
    setting = MMInference(vertical_size=8, slash_size=12, probe_queries=8, first_columns=2, nearest_diagonals=4)
    patterns = setting.calibrate(lvlm, samples).calibration
    assert patterns is not None
    assert [len(row) for row in patterns] == [4] * 4
    assert len({name for row in patterns for name in row}) > 1
    layer, head = 2, 1
    sums = dict.fromkeys(PATTERNS, 0.0)
    for sample in samples:
        observed = lvlm.observe(sample)
        probe, _ = observed.attention[layer]
        weight = probe.rows()
        for name in PATTERNS:
            keep = Choice(setting, probe, observed.inputs, 2).keep(name)
            sums[name] += float(gain(weight, keep)[head % len(gain(weight, keep))])
    assert patterns[layer][head] == max(PATTERNS, key=sums.__getitem__)


def test_heads_attend_by_their_own_patterns(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    technique = replace(SMALL, calibration=(PATTERNS[:4], PATTERNS[1:], PATTERNS[:4], PATTERNS[1:]))
    seen: list[tuple[Choice, Tensor]] = []
    keep = Choice.keep

    def noted(self: Choice, name: str) -> Tensor:
        seen.append((self, keep(self, name)))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Choice, "keep", noted)
        trace = lvlm.run(request, [technique]).trace
    assert len(seen) == 16
    masks = [mask[:, h % mask.shape[1]] for h, (_, mask) in enumerate(seen[:4])]
    assert trace.score_entries[0] == sum(int(mask.sum()) for mask in masks)
    assert seen[0][0].strides[0] * 6 == int(seen[0][0].sequence.vision_BN.sum())  # a frame's tokens, of six frames


def test_sizes_over_the_prompt_change_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    setting = MMInference(vertical_size=400, slash_size=400, nearest_diagonals=400)
    technique = setting.calibrate(lvlm, [random_request(lvlm.config, frames=1, seed=3)])
    plain, same = lvlm.run(request), lvlm.run(request, [technique])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, **CLOSE)
    assert same.trace.kv_entries == plain.trace.kv_entries


def test_patterns_of_another_model_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="calibrate it"):
        lvlm.run(random_request(lvlm.config), [replace(SMALL, calibration=(PATTERNS,))])
    with pytest.raises(ValueError, match="got none"):
        SMALL.calibrate(lvlm, [])


def test_an_even_attention_gains_nothing(device: str) -> None:
    even = causal_mask(9, torch.device(device)).float()
    even = share_heads((even / even.sum(-1, keepdim=True))[None, None], 2)
    for name in PATTERNS:
        at = choice(SMALL, torch.zeros(1, 2, 9, 4, device=device), torch.zeros(1, 2, 9, 4, device=device), range(2, 6))
        torch.testing.assert_close(gain(even, at.keep(name)), torch.zeros(2, device=device), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [{"vertical_size": 1}, {"slash_size": 1}, {"probe_queries": 0}, {"first_columns": -1}, {"nearest_diagonals": 0}],
)
def test_illegal_values_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MMInference(**wrong)


def test_a_question_without_frames_goes_through_behind_a_picture() -> None:
    lvlm = LVLM.random("tiny")
    request = random_request(lvlm.config, frames=2, text_tokens=6, max_new_tokens=2)
    session = lvlm.stream([MMInference().calibrate(lvlm, [request])])
    session.see(request.frames_F3HW)
    asked = session.ask(request.text_N, 2)
    assert asked.trace.llm_vision_tokens[0] == 0
    assert len(asked.tokens_N) == 2
