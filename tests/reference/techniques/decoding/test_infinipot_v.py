"""InfiniPot-V."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.infinipot_v import InfiniPotV, pooled, select, temporal_redundancy
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(
    key_Sd: Tensor, norm_S: Tensor, tokens: int, frames: int, tar_ratio: float, query_ratio: float
) -> list[int]:
    """The choice of one head, entry by entry."""
    entries, held = frames * tokens, len(norm_S) // tokens
    budget = entries - round((1 - tar_ratio) * entries)
    recent = min(int(held * query_ratio), budget // tokens)
    older = range((held - recent) * tokens)
    redundancy = {}
    for i in older if recent else ():
        alike = [(held - 1 - r) * tokens + i % tokens for r in range(recent)]
        cosines = [float(torch.nn.functional.cosine_similarity(key_Sd[i], key_Sd[j], dim=0)) for j in alike]
        redundancy[i] = sum(cosines) / recent
    chosen = {*range(len(older), len(norm_S))} if recent else set()
    chosen |= {*sorted(redundancy, key=lambda i: redundancy[i])[: budget - recent * tokens]}
    rest = sorted((i for i in range(len(norm_S)) if i not in chosen), key=lambda i: -float(norm_S[i]))
    return sorted([*chosen, *rest[: entries - len(chosen)]])


@given(
    tokens=st.integers(1, 5), held=st.integers(1, 8), kept=st.integers(1, 8),
    tar=st.sampled_from([0.0, 0.3, 0.5, 1.0]), query=st.sampled_from([0.0, 0.25, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_choice_is_that_of_the_rule_entry_by_entry(
    tokens: int, held: int, kept: int, tar: float, query: float, seed: int
) -> None:
    frames = min(kept, held)
    key, norm = randn(1, 2, held * tokens, 4, seed=seed), randn(1, 2, held * tokens, seed=seed + 100).abs()
    places = select(key, norm, tokens, frames, tar, query)
    assert places.shape == (1, 2, frames * tokens)
    for head in range(2):
        assert places[0, head].tolist() == by_hand(key[0, head], norm[0, head], tokens, frames, tar, query)


def test_redundancy_is_the_mean_cosine_with_the_same_place_of_the_recent_frames() -> None:
    e1, e2 = [1.0, 0.0], [0.0, 1.0]
    old = [e1, e2]
    recent = [[[3.0, 0.0], e1], [e2, [0.0, -2.0]]]  # the place of e1 has e1 and e2, that of e2 has e1 and −e2
    key = torch.tensor([[old + recent[0] + recent[1]]])
    torch.testing.assert_close(temporal_redundancy(key, 2, 2), torch.tensor([[[0.5, -0.5]]]))


def test_both_measures_share_one_budget_and_the_recent_frames_are_in_it() -> None:
    key = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]], [[1.0, 0.0]]]]).reshape(1, 1, 4, 2)
    norm = torch.tensor([[[9.0, 8.0, 1.0, 2.0]]])
    # Three of four: TaR's two are the recent one and the older one least like it, the third has the longest value.
    assert select(key, norm, 1, 3, tar_ratio=0.6, query_ratio=0.25).tolist() == [[[0, 2, 3]]]
    assert select(key, norm, 1, 3, tar_ratio=0.0).tolist() == [[[0, 1, 3]]]
    assert select(key, norm, 1, 2, tar_ratio=1.0, query_ratio=0.25).tolist() == [[[2, 3]]]


def test_each_head_chooses_for_itself() -> None:
    key, norm = randn(1, 2, 6, 4), torch.tensor([[[5.0, 1, 1, 1, 1, 1], [1.0, 5, 1, 1, 1, 1]]])
    assert select(key, norm, 1, 1, tar_ratio=0.0).tolist() == [[[0], [1]]]


def test_frames_that_repeat_the_newest_go_first() -> None:
    newest, other = randn(1, 1, 4, 8), randn(1, 1, 4, 8, seed=1)
    key = torch.cat([newest, other, newest, newest], dim=2)
    places = select(key, torch.ones(1, 1, 16), 4, 2, tar_ratio=1.0, query_ratio=0.25)
    assert places[0, 0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_all_kept_is_identity() -> None:
    key, norm = randn(2, 3, 12, 4), randn(2, 3, 12).abs()
    assert torch.equal(select(key, norm, 3, 4), torch.arange(12).expand(2, 3, -1))


def test_norms_are_pooled_over_time_and_grid_early_along_the_sequence_later_and_last_not_at_all() -> None:
    norm = randn(1, 2, 7 * 56).abs()
    grid = norm.reshape(2, 7, 7, 8)
    first, second, third, last = (pooled(norm, 56, 7, layer, 4) for layer in range(4))
    torch.testing.assert_close(first.reshape(2, 7, 7, 8)[0, 3, 3, 3], grid[0, :, :, :7].mean())
    torch.testing.assert_close(second.reshape(2, 7, 7, 8)[1, 6, 3, 4], grid[1, 6, 1:6, 2:7].mean())
    torch.testing.assert_close(third[0, 0, 9], norm[0, 0, 8:11].mean())
    torch.testing.assert_close(third[0, 0, 0], norm[0, 0, :2].sum() / 3)  # what lies outside counts as zero
    assert torch.equal(last, norm)
    assert torch.equal(pooled(norm, 56, 7, 26, 27), norm)  # layers behind the last quarter
    assert torch.equal(pooled(norm[..., :56], 56, 7, 0, 4), norm[..., :56])  # one frame has no neighbour in time


def frame(lvlm: LVLM, number: int, seed: int = 0) -> Tensor:
    return random_request(lvlm.config, frames=number, seed=seed).frames_F3HW  # type: ignore[return-value]


def test_the_cache_is_cut_whenever_it_is_full(lvlm: LVLM) -> None:
    stream = lvlm.stream([InfiniPotV(block_size=3, compress_frames=2)])
    held = []
    for seed in range(40):
        stream.see(frame(lvlm, 1, seed))
        held.append(stream.cache.stores[0].length // 64)
    assert held == [1, 2, *[2] * 38]
    assert stream.trace.frames == 40


def test_text_is_never_cut(lvlm: LVLM) -> None:
    stream = lvlm.stream([InfiniPotV(block_size=2, compress_frames=1)])
    token = lvlm.config.image_token_id
    for seed in range(5):
        stream.see(frame(lvlm, 1, seed), torch.tensor([seed + 1, 50, token]))
    stream.ask(torch.tensor([7, 8]), 3)
    held = stream.cache.held(1)
    assert int(held.vision_BGS[0, 0].sum()) == 64
    assert held.index_BGS[0, 0][~held.vision_BGS[0, 0]].tolist()[:4] == [0, 1, 66, 67]
    assert int((~held.vision_BGS[0, 0]).sum()) == 10 + 2 + 3


def test_positions_go_on_as_the_video_does(lvlm: LVLM) -> None:
    stream = lvlm.stream([InfiniPotV(block_size=2, compress_frames=1)])
    for seed in range(4):
        stream.see(frame(lvlm, 1, seed))
    assert stream.cache.next_position.unique().tolist() == [4 * 64]
    held = stream.cache.held(0)
    assert torch.equal(held.position_BGS, held.index_BGS)


def test_a_question_cuts_nothing(lvlm: LVLM) -> None:
    stream = lvlm.stream([InfiniPotV(block_size=2, compress_frames=2)])
    stream.see(frame(lvlm, 2))
    length = stream.cache.stores[0].length
    stream.ask(torch.tensor([3, 4, 5]), 4)
    assert stream.cache.stores[0].length == length + 3 + 4


def test_after_a_cut_entries_are_taken_for_frames_slot_by_slot(lvlm: LVLM) -> None:
    cut, plain = lvlm.stream([InfiniPotV(block_size=3, compress_frames=2)]), lvlm.stream()
    for clip in (frame(lvlm, 3), frame(lvlm, 1, seed=5)):
        cut.see(clip)
        plain.see(clip)
    # In the first layer keys and values depend on nothing that was cut.
    key, value = plain.cache.stores[0].read()
    held = torch.arange(192, device=key.device).expand(1, 2, -1)
    for new in (torch.empty(0, dtype=torch.long), torch.arange(192, 256)):
        held = torch.cat([held, new.to(key.device).expand(1, 2, -1)], dim=-1)
        chosen = select(take(key, held), take(value, held).norm(dim=-1), 64, 2)
        held = held.gather(-1, chosen)
    assert torch.equal(cut.cache.held(0).index_BGS, held)
    torch.testing.assert_close(cut.cache.stores[0].read()[0], take(key, held))
    assert not torch.equal(held[0, 0], held[0, 1])


def test_it_leaves_what_kivi_packs_as_many_entries(lvlm: LVLM) -> None:
    stack = [Kivi(group_size=8, residual_length=16), InfiniPotV(block_size=3, compress_frames=2)]
    stream = lvlm.stream(stack)
    for seed in range(5):
        stream.see(frame(lvlm, 1, seed))
    assert [store.length for store in stream.cache.stores] == [128] * 4
    assert stream.ask(torch.tensor([1, 2]), 3).logits_NC.isfinite().all()


def test_what_makes_frames_uneven_is_refused(lvlm: LVLM) -> None:
    setting = InfiniPotV(block_size=2, compress_frames=1)
    with pytest.raises(Refusal, match="needs `equal-frames`, which nobody finds behind FastV"):
        lvlm.run(random_request(lvlm.config, frames=3), [FastV(layer=2, keep_ratio=64 / 192), setting])
    qwen = LVLM.random("tiny-window")
    stream = qwen.stream([setting], image_token_id=qwen.config.image_token_id)
    stream.see(torch.zeros(1, 3, 40, 48))
    with pytest.raises(Refusal, match="compares frames token by token, these have 15, 30"):
        stream.see(torch.zeros(1, 3, 40, 24))


def test_frames_of_a_tiled_image_have_no_grid_to_pool(device: str) -> None:
    tiled = LVLM.random("tiny-tiles", device=device)
    setting = InfiniPotV(block_size=1, compress_frames=1, adaptive_pooling=True)
    with pytest.raises(Refusal, match="adaptive_pooling needs frames whose tokens fill a grid"):
        tiled.run(random_request(tiled.config, frames=2), [setting])


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_pooling_reads_the_grid_of_every_dialect(preset: str, device: str) -> None:
    model = LVLM.random(preset, device=device)
    request: Request = replace(random_request(model.config, frames=6), max_new_tokens=3)
    setting = InfiniPotV(block_size=2, compress_frames=1, adaptive_pooling=True)
    result = model.run(request, [setting])
    assert result.logits_NC.isfinite().all()
    tokens = result.trace.vision_tokens // (6 // model.config.frames_a_patch)
    assert result.trace.kv_entries == [16 + tokens] * 4


def test_more_frames_cannot_stay_than_are_cached() -> None:
    with pytest.raises(Refusal, match="compress_frames must be at most block_size, got 3 and 2"):
        InfiniPotV(block_size=2, compress_frames=3)
    with pytest.raises(ValueError, match=r"tar_ratio must be in 0\.\.1, got 1\.5"):
        InfiniPotV(tar_ratio=1.5)
