"""HoliTom."""

import itertools

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.modules.received import pooled
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.holitom import (
    HoliTom,
    by_attention,
    by_density,
    gains,
    halved_into,
    outer,
    windows,
)

HOW = (0.6, 7)


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def still(rows: list[list[int]], device: str = "cpu") -> Tensor:
    return torch.tensor(rows, dtype=torch.bool, device=device)


def test_a_window_saves_a_frame_less_than_it_is_long(device: str) -> None:
    gain = gains(still([[1, 1], [1, 0]], device)).tolist()
    assert gain == [[0, 2, 2], [0, 0, 1], [0, 0, 0]]  # both places once, one place twice, one place once


def test_a_place_must_stand_still_all_through_the_window(device: str) -> None:
    gain = gains(still([[1, 1, 1], [0, 1, 1], [1, 1, 0]], device)).tolist()
    assert gain[0] == [0, 3, 4, 3]
    assert gain[1] == [0, 0, 2, 2]


def cuts(frames: int) -> list[list[tuple[int, int]]]:
    """All cuts of so many frames into windows."""
    every = []
    for borders in itertools.product([False, True], repeat=frames - 1):
        firsts = [0, *(place + 1 for place, border in enumerate(borders) if border)]
        every.append(list(zip(firsts, [first - 1 for first in firsts[1:]] + [frames - 1], strict=True)))
    return every


@pytest.mark.parametrize("seed", range(6))
def test_the_cut_saves_most_of_all_cuts(device: str, seed: int) -> None:
    frames = 2 + seed
    gain = gains(video(frames - 1, 5, seed=seed, device=device) > -0.6).tolist()
    cut, saved = windows(gain)
    assert saved == max(sum(gain[first][last] for first, last in each) for each in cuts(frames))
    assert cut in cuts(frames)
    assert saved == sum(gain[first][last] for first, last in cut)


def test_of_equal_cuts_the_shortest_last_window_counts(device: str) -> None:
    assert windows(gains(still([[0], [0]], device)).tolist()) == ([(0, 0), (1, 1), (2, 2)], 0)
    assert windows(gains(still([[1, 0], [0, 1]], device)).tolist()) == ([(0, 1), (2, 2)], 1)
    assert windows([[0]]) == ([(0, 0)], 0)


def test_a_still_video_becomes_one_frame_of_averages(device: str) -> None:
    frame = torch.eye(6, device=device)
    x = torch.stack([frame, 3 * frame, 2 * frame])
    left = outer(x, torch.rand(3, 6, device=device), 0.5, 0.9, 0.0, HOW)
    assert [len(each) for each in left] == [6, 0, 0]  # a third is left, less than the half that was asked for
    torch.testing.assert_close(left[0], 2 * frame)


def test_the_share_is_of_all_tokens_whatever_averaging_has_saved(device: str) -> None:
    x = video(4, 10, 6, device=device)
    x[1:, :5] = x[:1, :5]  # half stands still: 15 of 40 tokens are saved
    attention = torch.rand(4, 10, generator=torch.Generator().manual_seed(1)).to(device)
    left = outer(x, attention, 0.5, 0.999, 0.0, HOW)
    assert [len(each) for each in left] == [4 + 4, 4, 4, 4]  # r' = 0.5 / (25 / 40) = 0.8
    assert sum(map(len, left)) == 20


def test_what_changes_stays_by_the_encoders_attention_in_its_order(device: str) -> None:
    x = video(2, 6, 4, device=device)
    attention = torch.tensor([[5.0, 1, 4, 2, 3, 0], [0, 1, 2, 3, 4, 5]], device=device)
    one, two = outer(x, attention, 0.4, 1.0, 0.0, HOW)
    assert torch.equal(one, x[0, [0, 2, 4]])  # ⌈2.4⌉
    assert torch.equal(two, x[1, [3, 4, 5]])


def test_a_share_of_what_stays_may_be_density_peaks_of_the_others(device: str) -> None:
    x, attention = video(10, 4, device=device), torch.arange(10.0, device=device)
    kept = by_attention(x, attention, 0.5, 0.4, HOW)
    assert torch.equal(kept[:3], x[7:])
    torch.testing.assert_close(kept[3:], by_density(x[:7], 2, *HOW))


def test_a_peak_is_moved_towards_the_mean_of_the_others(device: str) -> None:
    x = torch.tensor([[0.0], [0.125], [-0.25], [3.0], [3.125]], device=device)
    out = by_density(x, 2, 0.6, 2).flatten().tolist()
    assert out == pytest.approx([0.4 * (0.125 - 0.25) / 2, 0.6 * 3 + 0.4 * 3.125])
    assert torch.equal(by_density(x, 5, 0.6, 7), x)
    assert by_density(x, 0, 0.6, 7).shape == (0, 1)


def test_the_last_of_those_merged_counts_half(device: str) -> None:
    kept = torch.tensor([[8.0, 0.0], [0.0, 8.0]], device=device)
    gone = torch.tensor([[4.0, 0.0], [0.0, 2.0], [16.0, 0.0]], device=device)
    out = halved_into(kept, gone)
    assert out.tolist() == [[(8 + 4) / 4 + 16 / 2, 0], [0, 5]]
    assert torch.equal(halved_into(kept, gone[:0]), kept)
    assert halved_into(kept[:0], gone).shape == (0, 2)


def test_merging_agrees_with_halving_one_by_one(device: str) -> None:
    kept, gone = video(5, 8, device=device), video(23, 8, seed=1, device=device)
    expected = kept.clone()
    for token in gone:
        into = torch.nn.functional.cosine_similarity(kept, token[None], dim=-1).argmax()  # as they were at first
        expected[into] = (expected[into] + token) / 2
    torch.testing.assert_close(halved_into(kept, gone), expected)


def test_attention_follows_the_tokens_to_a_coarser_grid(device: str) -> None:
    attention = torch.arange(16.0, device=device)[None]
    assert pooled(attention, 4, "HoliTom").tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert torch.equal(pooled(attention, 16, "HoliTom"), attention)
    with pytest.raises(Refusal, match="16 patches and 5 tokens"):
        pooled(attention, 5, "HoliTom")


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_frames_keep_the_tokens_of_their_window(lvlm: LVLM, device: str) -> None:
    acting = HoliTom(keep_ratio=0.5, layer=1).begin(lvlm.begin(random_request(lvlm.config, frames=2)))
    head = video(2, 1, 4, 8, device=device)
    acting.patches = Patches(video(2, 4, 8, device=device), prefix=0, attention=Probe(head, head, causal=False))
    x = video(1, 4, 8, device=device).expand(2, -1, -1)
    tokens = VisionTokens(blocks_of(x, grid_places(2, 2).expand(2, -1, -1)), grid=(2, 2))
    out = acting.adapter_output(AdapterOutput(tokens))
    assert out.lengths == (4, 0)
    assert all(block.place_N2 is None for block in out.blocks)
    with pytest.raises(Refusal, match=r"equally many tokens, got \[4, 3\]"):
        acting.adapter_output(AdapterOutput(VisionTokens((Block(x[0]), Block(x[1, :3])))))
    tiled = VisionTokens(blocks_of(x)[:1])  # of two views
    assert acting.adapter_output(AdapterOutput(tiled)) is tiled


def test_both_stages_leave_what_they_say(lvlm: LVLM) -> None:
    setting = HoliTom(keep_ratio=0.25, similarity=1.0, layer=2, reduction=0.4)
    trace = lvlm.run(random_request(lvlm.config, frames=3), [setting]).trace
    assert trace.llm_vision_tokens == [48, 48, 29, 29]
    assert trace.probe_entries == 3 * 4 * 65**2 + 4 * (48 + 16)  # maps of three frames, and one row
    for kept in trace.kept:
        assert {*range(4), *range(52, 64)} <= set(kept[0].tolist())  # all text


def test_the_question_chooses_what_others_are_merged_into(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    outside = HoliTom(keep_ratio=1.0, similarity=1.0, layer=2, reduction=0.5)
    merged, pruned = (lvlm.run(request, [each]) for each in (outside, FastV(layer=2, keep_ratio=0.5)))
    assert merged.trace.kept[2].tolist() == pruned.trace.kept[2].tolist()
    assert not torch.allclose(merged.logits_NC[0], pruned.logits_NC[0], atol=1e-4)


def test_keeping_all_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    kept = lvlm.run(request, [HoliTom(keep_ratio=1.0, similarity=1.0, layer=1, reduction=0.0)])
    torch.testing.assert_close(kept.logits_NC, lvlm.run(request).logits_NC, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers, got 18"):
        lvlm.run(request, [HoliTom()])
    with pytest.raises(Refusal, match="may drop some between its layers"):
        lvlm.run(request, [HoliTom(layer=1), FastV()])
    acting = HoliTom(layer=1).begin(lvlm.begin(request))
    acting.patches = Patches(torch.zeros(1, 4, 8), prefix=0)
    with pytest.raises(Refusal, match="encoder's attention"):
        acting.adapter_output(AdapterOutput(VisionTokens(blocks_of(torch.zeros(1, 4, 8)))))
    for wrong in (
        {"keep_ratio": 0.0}, {"similarity": 2.0}, {"centre": -0.1}, {"context": 1.1}, {"neighbours": 0}, {"layer": 0},
        {"reduction": 1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HoliTom(**wrong)
