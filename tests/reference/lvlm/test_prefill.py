"""Prefill in chunks and onto a cache: the same answer as in one piece."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import Attention, CacheTokens, LlmLayer
from lvlm_atlas.reference.ops.blocks import Blocks

PRESETS = ("tiny", "tiny-window", "tiny-deepstack")


def piece(whole: Sequence, start: int, end: int) -> Sequence:
    """Some of the tokens of a prompt, in their places."""
    cut = whole.keep(torch.arange(start, end, device=whole.hidden_BND.device).expand(len(whole.hidden_BND), -1))
    return replace(cut, origin_BN=None)


def in_chunks(lvlm: LVLM, whole: Sequence, size: int, run: object = None) -> list[Prefill]:
    cache: Cache | None = None
    parts = []
    for start in range(0, whole.length, size):
        parts.append(lvlm.prefill(piece(whole, start, min(start + size, whole.length)), run, cache))  # type: ignore[arg-type]
        cache = parts[-1].cache
    return parts


def padded(whole: Sequence, places: int) -> Sequence:
    """A batch of two: the prompt, and the prompt without its first tokens but padded on the left."""
    real = torch.ones(2, whole.length, dtype=torch.bool, device=whole.hidden_BND.device)
    real[1, :places] = False

    def twice(x: Tensor) -> Tensor:
        return x.expand(2, *x.shape[1:])

    return Sequence(*map(twice, (whole.hidden_BND, whole.position_BN, whole.vision_BN, whole.index_BN)), real_BN=real)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
@torch.inference_mode()
def test_a_prompt_in_chunks_gives_what_it_gives_in_one_piece(preset: str, size: int, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    run, other = (lvlm.begin(random_request(lvlm.config, frames=1)) for _ in range(2))
    whole = lvlm.prepare(run)
    lvlm.prepare(other)
    one, parts = lvlm.prefill(whole, run), in_chunks(lvlm, whole, size, other)
    torch.testing.assert_close(parts[-1].logits_BC, one.logits_BC, atol=1e-4, rtol=1e-4)
    hidden = torch.cat([each.outputs.hidden_BND for each in parts], dim=1)
    torch.testing.assert_close(hidden, one.outputs.hidden_BND, atol=1e-4, rtol=1e-4)
    cache = parts[-1].cache
    for layer, (mine, theirs) in enumerate(zip(cache.stores, one.cache.stores, strict=True)):
        torch.testing.assert_close(mine.read(), theirs.read(), atol=1e-4, rtol=1e-4)
        for name, column in vars(cache.held(layer)).items():
            assert column is None or torch.equal(column, getattr(one.cache.held(layer), name))
    for name in ("llm_tokens", "llm_vision_tokens", "score_entries", "kv_entries", "kv_vision_entries", "kv_byte"):
        assert getattr(other.trace, name) == getattr(run.trace, name), name
    token = torch.tensor([5, 6])
    step, step_in_chunks = lvlm.step(token, one.cache), lvlm.step(token, cache)
    torch.testing.assert_close(step_in_chunks, step, atol=1e-4, rtol=1e-4)
    if size >= whole.length:
        assert torch.equal(parts[-1].logits_BC, one.logits_BC)


@pytest.mark.parametrize("size", [1, 9])
@torch.inference_mode()
def test_padding_is_seen_by_no_later_chunk_and_no_step(size: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    whole = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
    both, alone = padded(whole, 5), piece(whole, 5, whole.length)
    parts, one = in_chunks(lvlm, both, size), lvlm.prefill(alone)
    torch.testing.assert_close(parts[-1].logits_BC[1], one.logits_BC[0], atol=1e-4, rtol=1e-4)
    step = lvlm.advance(torch.tensor([[5], [5]]), parts[-1].cache)
    torch.testing.assert_close(step[1, 0], lvlm.step(torch.tensor([5]), one.cache)[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(step[0, 0], step[1, 0], atol=1e-3)


@torch.inference_mode()
def test_another_turn_goes_on_behind_the_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    first = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
    second = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1, seed=1)))
    answer = torch.tensor([5, 6, 7], device=device)

    cache = lvlm.prefill(first).cache
    lvlm.step(answer.cpu(), cache)
    cache.retain(torch.arange(3, device=device))
    assert cache.next_index == first.length + 3
    turn = lvlm.prefill(cache.behind(second), cache=cache)

    hidden = torch.cat([first.hidden_BND, lvlm.embed(answer)[None], second.hidden_BND], dim=1)
    place = torch.arange(hidden.shape[1], device=device)[None]
    vision = torch.cat([first.vision_BN, torch.zeros(1, 3, dtype=torch.bool, device=device), second.vision_BN], dim=1)
    flat = lvlm.prefill(Sequence(hidden, place, vision, place))
    torch.testing.assert_close(turn.logits_BC, flat.logits_BC, atol=1e-4, rtol=1e-4)
    for layer in range(4):
        for name, column in vars(turn.cache.held(layer)).items():
            assert column is None or torch.equal(column, getattr(flat.cache.held(layer), name))


@torch.inference_mode()
def test_attention_of_a_chunk_spans_the_cache_and_keeps_its_own_columns(device: str) -> None:
    lvlm = LVLM.random(device=device)
    whole = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
    rows = lvlm.prefill(whole).outputs.attention.rows()  # type: ignore[union-attr]
    first, second = in_chunks(lvlm, whole, 48)
    probe = second.outputs.attention
    assert probe is not None
    assert probe.cached == 48
    torch.testing.assert_close(probe.rows(earlier=True), rows[:, :, 48:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(probe.rows(slice(-2, None)), rows[:, :, -2:, 48:], atol=1e-4, rtol=1e-4)
    cut = second.outputs.keep(torch.tensor([[1, 4, 30]], device=device)).attention
    assert cut is not None
    torch.testing.assert_close(
        cut.rows(earlier=True)[..., 48:], rows[:, :, 48:][..., [49, 52, 78]], atol=1e-4, rtol=1e-4
    )
    assert first.outputs.attention is not None
    assert first.outputs.attention.cached == 0


@torch.inference_mode()
def test_techniques_are_told_what_is_cached_before_a_chunk(device: str) -> None:
    lvlm, told = LVLM.random(device=device), []

    class Look(Technique):
        acts_at = ("llm-layer", "attention", "cache-tokens")

        def llm_layer(self, at: LlmLayer) -> Sequence:
            told.append(("llm-layer", at.layer, at.cached, at.sequence.length))
            return at.sequence

        def choose_blocks(self, at: Attention) -> Blocks | None:
            told.append(("attention", at.layer, at.cached, at.key_BGNd.shape[2]))
            return None

        def compress_cache(self, at: CacheTokens) -> object:
            told.append(("cache-tokens", at.layer, at.cached, at.entries.key_BGSd.shape[2]))
            return at.entries.keep(torch.arange(at.layer + 1, device=device).expand(1, 2, -1))

    run = lvlm.begin(random_request(lvlm.config, frames=1), [Look()])
    whole = lvlm.prepare(run)
    in_chunks(lvlm, whole, 30, run)
    for point in ("llm-layer", "attention", "cache-tokens"):
        assert [each[1:] for each in told if each[0] == point] == [
            (layer, chunk * (layer + 1), tokens) for chunk, tokens in enumerate((30, 30, 20)) for layer in range(4)
        ]
    assert run.trace.kv_entries == [3, 6, 9, 12]
    assert run.trace.kv_index[1][0, 0].tolist() == [0, 1, 30, 31, 60, 61]
    assert run.trace.llm_tokens == [80] * 4


@torch.inference_mode()
def test_blocks_of_a_chunk_see_the_whole_cache(device: str) -> None:
    lvlm = LVLM.random(device=device)

    class All(Technique):
        acts_at = ("attention",)

        def choose_blocks(self, at: Attention) -> Blocks:
            blocks = -(-at.sequence.length // 16)
            return Blocks(torch.ones(1, 4, blocks, blocks, dtype=torch.bool, device=device).tril(), 16)

    run, plain = (lvlm.begin(random_request(lvlm.config, frames=1), stack) for stack in ([All()], []))
    whole = lvlm.prepare(plain)
    lvlm.prepare(run)
    one, parts = lvlm.prefill(whole, plain), in_chunks(lvlm, whole, 33, run)
    torch.testing.assert_close(parts[-1].logits_BC, one.logits_BC, atol=1e-4, rtol=1e-4)
    assert run.trace.score_entries == plain.trace.score_entries


@torch.inference_mode()
def test_tokens_that_cannot_follow_a_cache_are_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    whole = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
    cache = lvlm.prefill(whole).cache
    with pytest.raises(ValueError, match=r"go on from 80 on, got 0; use `Cache.behind"):
        lvlm.prefill(whole, cache=cache)
    lvlm.step(torch.tensor([5]), cache)
    with pytest.raises(ValueError, match="1 tokens of the cache are not settled"):
        lvlm.prefill(cache.behind(whole), cache=cache)
