"""Policies over stores: what they are told, and that eviction is attention with the evicted entries masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheLayers, CacheStep, CacheTokens
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


@dataclass(frozen=True)
class Evict(Technique):
    """Keeps what a function of the context says."""

    choose: Callable[[CacheStep], Tensor | None]
    acts_at: ClassVar = ("cache-step",)

    def evict(self, at: CacheStep) -> Tensor | None:
        return self.choose(at)


@dataclass(frozen=True)
class Uneven(Technique):
    """Lets heads cache different numbers: head g of layer l drops the vision tokens at places ≡ 0 modulo g + l + 2."""

    acts_at: ClassVar = ("cache-tokens",)

    def compress_cache(self, at: CacheTokens) -> Entries:
        return at.entries.keep_where(self.keep(at.layer, at.entries))

    @staticmethod
    def keep(layer: int, entries: Entries) -> Tensor:
        head = torch.arange(entries.index_BGS.shape[1], device=entries.index_BGS.device)[None, :, None]
        return (entries.index_BGS % (head + layer + 2) != 0) | ~entries.vision_BGS


@pytest.fixture
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def window(sink: int, recent: int) -> Callable[[CacheStep], Tensor]:
    def choose(at: CacheStep) -> Tensor:
        place = torch.arange(at.held.length, device=at.held.index_BGS.device).expand_as(at.held.index_BGS)
        return (place < sink) | (place >= at.held.length - recent)

    return choose


def begun(lvlm: LVLM, *stack: Technique, **request: int) -> Cache:
    run = lvlm.begin(random_request(lvlm.config, frames=1, **request), stack)
    return lvlm.prefill(lvlm.prepare(run), run).cache


def masked(cache: Cache, layer: int, real_BGS: Tensor) -> None:
    """Hide entries of a layer, which stay where they are."""
    held = cache.held(layer)
    cache.ledgers[layer].held = replace(held, real_BGS=real_BGS)


@torch.inference_mode()
def test_a_step_after_eviction_is_a_step_with_the_evicted_entries_masked(lvlm: LVLM, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(4, 1, 2, 80, generator=generator).to(device)
    keeps = [each > each.quantile(0.4, dim=-1, keepdim=True) for each in score]
    evicted = begun(lvlm, Evict(lambda at: keeps[at.layer] if at.prompt else None))
    full = begun(lvlm)
    for layer, keep in enumerate(keeps):
        masked(full, layer, keep)
    assert [store.length for store in evicted.stores] == [48] * 4
    for token in ([5], [6, 7]):
        ours, theirs = (lvlm.step(torch.tensor(token), cache) for cache in (evicted, full))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        for cache in (evicted, full):
            cache.retain(torch.arange(len(token), device=device))
    assert evicted.held(0).index_BGS[..., -3:].unique().tolist() == [80, 81, 82]


@torch.inference_mode()
def test_heads_with_different_numbers_decode_as_if_the_others_were_masked(lvlm: LVLM, device: str) -> None:
    uneven, full = begun(lvlm, Uneven()), begun(lvlm)
    for layer in range(4):
        every = full.held(layer)
        key, value = full.stores[layer].read()
        masked(full, layer, Uneven.keep(layer, Entries(key, value, every.vision_BGS, every.index_BGS)))
    for token in ([5], [6, 7]):
        ours, theirs = (lvlm.step(torch.tensor(token), cache) for cache in (uneven, full))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        for cache in (uneven, full):
            cache.retain(torch.arange(len(token), device=device))


def test_what_uneven_heads_hold_is_counted_without_the_padding(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=3), [Uneven()]).trace
    vision = range(4, 68)
    kept = [[16 + sum(place % (head + layer + 2) != 0 for place in vision) for head in (0, 1)] for layer in range(4)]
    assert trace.kv_entries == [sum(each) / 2 for each in kept]
    assert trace.kv_vision_entries == [sum(each) / 2 - 16 for each in kept]
    assert trace.kv_byte == [sum(each) * 2 * 16 * 4 for each in kept]
    assert trace.kv_byte_end == sum(sum(each) + 4 for each in kept) * 2 * 16 * 4
    assert trace.kv_most_entries == [sum(each) / 2 + 2 for each in kept]
    assert [(index >= 0).sum(-1)[0].tolist() for index in trace.kv_index] == kept


def test_uneven_heads_are_quantised_head_by_head(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=1), [Uneven(), Kivi(group_size=16, residual_length=32)]).trace
    assert all(
        byte < 0.6 * entries * 2 * 2 * 16 * 4 for byte, entries in zip(trace.kv_byte, trace.kv_entries, strict=True)
    )
    assert trace.kv_vision_entries == [entries - 16 for entries in trace.kv_entries]


@torch.inference_mode()
def test_rows_of_a_step_are_the_attention_that_it_paid(lvlm: LVLM, device: str) -> None:
    seen: list[Tensor] = []

    def look(at: CacheStep) -> None:
        if not at.prompt and at.layer == 2:
            seen.append(at.rows(slice(None)))

    run = lvlm.begin(random_request(lvlm.config, frames=1), [Evict(look)])
    inputs = lvlm.prepare(run)
    cache = lvlm.prefill(inputs, run).cache
    lvlm.step(torch.tensor([5]), cache)
    lvlm.step(torch.tensor([9, 6]), cache, torch.tensor([0, 0]))  # both follow 5
    cache.retain(torch.tensor([0, 2], device=device))

    tokens = torch.tensor([5, 6], device=device)
    place = torch.arange(82, device=device)[None]
    vision = torch.cat([inputs.vision_BN, torch.zeros(1, 2, dtype=torch.bool, device=device)], dim=1)
    whole = replace(
        inputs, hidden_BND=torch.cat([inputs.hidden_BND, lvlm.embed(tokens)[None]], dim=1), position_BN=place,
        index_BN=place, vision_BN=vision, origin_BN=None,
    )  # fmt: skip
    look_at_all = lvlm.begin(random_request(lvlm.config, frames=1), [Evict(look_at_prompt := Keep())])
    lvlm.prefill(whole, look_at_all)
    torch.testing.assert_close(seen[0], look_at_prompt.rows[2][:, :, -2:], atol=1e-4, rtol=1e-4)
    assert run.trace.step_probe_entries == 4 * (81 + 82)
    assert look_at_all.trace.probe_entries == 4 * 4 * 82 * 83 // 2


class Keep:
    """A choice that notes the attention of the prompt."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def __call__(self, at: CacheStep) -> None:
        self.rows.append(at.rows(slice(None)))


def test_policies_apply_one_after_the_other(lvlm: LVLM) -> None:
    told: list[tuple[int, int, tuple[int, ...]]] = []

    def second(at: CacheStep) -> Tensor:
        if at.layer == 0:
            told.append((at.held.length, at.new, tuple(at.rows(slice(-1, None)).shape)))
            key, _ = at.read()
            assert key.shape[2] == at.held.length
        return window(1, 20)(at)

    trace = lvlm.run(
        random_request(lvlm.config, frames=1, max_new_tokens=3), [Evict(window(4, 30)), Evict(second)]
    ).trace
    assert told == [(34, 34, (1, 4, 1, 34)), (22, 1, (1, 4, 1, 22)), (22, 1, (1, 4, 1, 22))]
    assert trace.kv_most_entries == [21] * 4
    assert trace.kv_index[0][0, 0].tolist() == [0, *range(60, 80)]
    assert trace.kv_vision_entries == [8.0] * 4


def test_policies_know_every_entry_through_decoding_and_rejected_drafts(lvlm: LVLM) -> None:
    seen: list[tuple[list[int], list[int], int]] = []

    def look(at: CacheStep) -> Tensor:
        held = at.held
        if at.layer == 3:
            seen.append((held.index_BGS[0, 1].tolist(), held.position_BGS[0, 1].tolist(), at.new))
        assert torch.equal(held.vision_BGS, (held.index_BGS >= 4) & (held.index_BGS < 68))
        return window(2, 10)(at)

    request = random_request(lvlm.config, frames=1, temperature=1.0, seed=3)
    draft = LVLM.random(seed=1, device=lvlm.device)
    trace = lvlm.run(request, [Evict(look), SpeculativeSampling(gamma=3, draft=draft)]).trace
    assert any(accepted < 3 for accepted in trace.accepted_lengths)
    end = 80
    assert seen[0][0] == [*range(80)]
    for (index, position, new), accepted in zip(seen[1:], trace.accepted_lengths, strict=True):
        assert new == accepted + 1
        end += new
        assert index == position == [0, 1, *range(end - new - 10, end)]
    assert trace.kv_most_entries == [12] * 4


def test_speculation_behind_a_policy_of_the_prompt_gives_the_answer_of_plain_decoding(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    text = Evict(lambda at: ~at.held.vision_BGS)
    plain = lvlm.run(request, [text])
    drafted = lvlm.run(request, [text, SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=lvlm.device))])
    assert torch.equal(plain.tokens_N, drafted.tokens_N)
    torch.testing.assert_close(plain.logits_NC, drafted.logits_NC, atol=1e-4, rtol=1e-4)
    assert drafted.trace.kv_entries == plain.trace.kv_entries == [16] * 4


def test_a_policy_is_told_what_entered_each_layer_of_the_tokens_that_settle(lvlm: LVLM) -> None:
    told: dict[tuple[int, int], Tensor] = {}

    def look(at: CacheStep) -> None:
        assert bool(at.entered) != at.prompt
        told.update({(at.layer, place): state_BD for place, state_BD in at.entered.items()})

    request = random_request(lvlm.config, frames=1, max_new_tokens=4)
    plain = lvlm.run(request, [Evict(look)])
    assert [*told] == [(layer, place) for place in (80, 81, 82) for layer in range(4)]
    with torch.inference_mode():
        cache = begun(lvlm)
        states = lvlm.hidden_states(plain.tokens_N[:3], cache)
    for (layer, place), state_BD in told.items():
        torch.testing.assert_close(state_BD[0], states[layer][place - 80], atol=1e-5, rtol=1e-5)

    one_by_one = dict(told)
    told.clear()
    draft = SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=lvlm.device))
    lvlm.run(request, [Evict(look), draft])  # rejected tokens are not told, accepted ones where they came to stand
    assert {*told} >= {*one_by_one}
    for key, state_BD in one_by_one.items():
        torch.testing.assert_close(told[key], state_BD, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class Refuse(Evict):
    """Caches no generated token."""

    admits: ClassVar = True


def test_who_admits_to_the_cache_comes_before_who_evicts_from_it(lvlm: LVLM) -> None:
    def no_new(at: CacheStep) -> Tensor | None:
        return None if at.prompt else at.held.index_BGS < 80

    for stack in ([Evict(window(2, 38)), Refuse(no_new)], [Refuse(no_new), Evict(window(2, 38))]):
        run = lvlm.begin(random_request(lvlm.config, frames=1, max_new_tokens=4), stack)
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        with torch.inference_mode():
            for token in (3, 4):
                lvlm.step(torch.tensor([token], device=lvlm.device), cache)
                cache.retain(torch.zeros(1, dtype=torch.long, device=lvlm.device))
        assert cache.held(0).index_BGS[0, 0].tolist() == [0, 1, *range(42, 80)]


def test_a_policy_of_all_layers_sees_them_at_once(lvlm: LVLM) -> None:
    class Divide(Technique):
        acts_at = ("cache-layers",)

        def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
            assert len(at.entries) == len(at.probes) == 4
            assert [probe.rows(slice(-1, None)).shape[-1] for probe in at.probes] == [80] * 4
            return tuple(
                entries.keep_where(entries.index_BGS >= 80 - 10 * (layer + 1))
                for layer, entries in enumerate(at.entries)
            )

    trace = lvlm.run(random_request(lvlm.config, frames=1), [Divide(), Evict(window(0, 35))]).trace
    assert trace.kv_entries == [10, 20, 30, 35]
    assert trace.kv_most_entries == [21, 31, 35, 35]
    assert trace.kv_vision_entries == [0, 8, 18, 23]


@torch.inference_mode()
def test_a_policy_sees_each_chunk_and_all_that_is_held(lvlm: LVLM, device: str) -> None:
    told: list[tuple[bool, int, int, int]] = []

    def look(at: CacheStep) -> Tensor:
        if at.layer == 0:
            told.append((at.prompt, at.held.length, at.new, at.rows(slice(None)).shape[2]))
        return window(4, 20)(at)

    run = lvlm.begin(random_request(lvlm.config, frames=1), [Evict(look)])
    inputs = lvlm.prepare(run)
    cache = None
    for start in (0, 40):
        chunk = inputs.keep(torch.arange(start, start + 40, device=device)[None])
        cache = lvlm.prefill(replace(chunk, origin_BN=None), run, cache).cache
    assert told == [(True, 40, 40, 40), (True, 64, 40, 40)]
    assert run.trace.kv_index[3][0, 0].tolist() == [0, 1, 2, 3, *range(60, 80)]


@torch.inference_mode()
def test_rows_of_a_prompt_follow_what_the_heads_have_cached(lvlm: LVLM) -> None:
    everything, kept = Keep(), Keep()
    lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=1), [Evict(everything)])
    trace = lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=1), [Uneven(), Evict(kept)]).trace
    for layer, (all_rows, rows) in enumerate(zip(everything.rows, kept.rows, strict=True)):
        for head in range(4):
            index = trace.kv_index[layer][0, head // 2]
            torch.testing.assert_close(rows[0, head][:, index >= 0], all_rows[0, head][:, index[index >= 0]])


def test_heads_that_hold_equally_many_must_keep_equally_many_in_decoding(lvlm: LVLM) -> None:
    def choose(at: CacheStep) -> Tensor:
        keep = torch.ones_like(at.held.vision_BGS)
        keep[0, 0, 0] = False
        return keep

    with pytest.raises(Refusal, match=r"must keep equally many, got \[\[79, 80\]\] in layer 0"):
        lvlm.run(random_request(lvlm.config, frames=1), [Evict(choose)])
