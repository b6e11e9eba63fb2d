"""StreamingLLM: what stays, where it stands, and that any store holds it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.ops.attention import rotate
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.decoding.streamingllm import StreamingLlm, stay_mask, stays, stays_for_space


@pytest.mark.parametrize(
    ("length", "kept"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 3, 4, 5]), (9, [0, 1, 6, 7, 8])]
)
def test_the_first_and_the_most_recent_stay_and_all_while_they_fit(length: int, kept: list[int]) -> None:
    assert stays(length, start_size=2, recent_size=3).tolist() == kept


def test_room_is_made_for_what_is_coming() -> None:
    assert stays_for_space(6, start_size=2, recent_size=4, coming=1).tolist() == [0, 1, 3, 4, 5]
    assert stays_for_space(6, start_size=2, recent_size=4, coming=9).tolist() == [0, 1]


@given(length=st.integers(1, 60), start=st.integers(0, 6), recent=st.integers(1, 20))
def test_dropping_one_by_one_leaves_what_dropping_at_once_leaves(length: int, start: int, recent: int) -> None:
    held: list[int] = []
    for place in range(length):
        held.append(place)
        held = [held[kept] for kept in stays(len(held), start, recent).tolist()]
    assert held == stays(length, start, recent).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_heads_that_hold_different_numbers_keep_what_the_rule_says_of_each(seed: int, device: str) -> None:
    draw = torch.Generator().manual_seed(seed)
    start, recent = (int(torch.randint(low, 5, (), generator=draw)) for low in (0, 1))
    visible_BGS = torch.rand(2, 3, 11, generator=draw) < 0.6
    kept_BGS = stay_mask(visible_BGS.to(device), start, recent).cpu()
    for visible_S, kept_S in zip(visible_BGS.flatten(0, 1), kept_BGS.flatten(0, 1), strict=True):
        place_K = visible_S.nonzero()[:, 0]
        assert kept_S.nonzero()[:, 0].tolist() == place_K[stays(len(place_K), start, recent)].tolist()


def test_the_cache_never_grows_beyond_its_size_and_the_sinks_stay(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=30)
    run = lvlm.begin(request, [StreamingLlm(4, 60)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        sinks = [store.read()[0][:, :, :4].clone() for store in cache.stores]
        for token in range(70):
            lvlm.step(torch.tensor([token]), cache)
            cache.retain(torch.tensor([0], device=device))
            assert [store.length for store in cache.stores] == [64] * 4
    for store, sink in zip(cache.stores, sinks, strict=True):
        assert torch.equal(store.read()[0][:, :, :4], sink)
    assert cache.held(0).index_BGS[0, 0].tolist() == [0, 1, 2, 3, *range(410, 470)]
    trace = lvlm.run(request, [StreamingLlm(4, 60)]).trace
    assert trace.kv_entries == trace.kv_most_entries == [64] * 4


def test_positions_are_those_in_the_cache_of_the_query_too(device: str) -> None:
    """Held against an ordinary cache of the same entries, rotated at 0 … 63, and a next token at 64."""
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [StreamingLlm(4, 60)])
        inputs = lvlm.prepare(run)
        whole = lvlm.prefill(inputs).cache
        cache = lvlm.prefill(inputs, run).cache
        alone = Cache([], [], next_position=torch.full((4, 1), 64, device=device))
        kept = [*range(4), *range(340, 400)]
        theta = lvlm.config.text.rope_theta
        for store in whole.stores:
            key, value = (x[:, :, kept] for x in store.read())
            shift = torch.arange(64, device=device) - torch.tensor(kept, device=device)
            alone.stores.append(PlainStore())
            alone.stores[-1].append(rotate(key, shift[None], theta), value)
        token = torch.tensor([5])
        torch.testing.assert_close(lvlm.step(token, cache), lvlm.step(token, alone), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(lvlm.step(token, cache), lvlm.step(token, whole), atol=1e-2)


def test_text_before_the_picture_makes_the_sinks_not_its_patches(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, text_tokens=20), [StreamingLlm(4, 10)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert not cache.held(0).vision_BGS[..., :4].any()


@pytest.mark.parametrize("beside", [[], [SpeculativeSampling(gamma=3)]], ids=["alone", "with drafts"])
def test_a_cache_with_room_for_everything_decodes_as_without(beside: list[object], device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=20)
    plain, same = lvlm.run(request, beside), lvlm.run(request, [*beside, StreamingLlm(4, 2000)])
    torch.testing.assert_close(plain.logits_NC, same.logits_NC, rtol=0, atol=1e-5)
    assert plain.trace.kv_byte_end == same.trace.kv_byte_end


def test_codes_of_kivi_are_held_of_what_stays_and_bytes_are_theirs(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=20)
    kivi = Kivi(bits=8, group_size=16, residual_length=16)
    both = lvlm.run(request, [kivi, StreamingLlm(4, 60)])
    alone = lvlm.run(request, [StreamingLlm(4, 60)])
    assert both.trace.kv_most_entries == [64] * 4
    groups, width = lvlm.config.text.num_key_value_heads, lvlm.config.text.head_dim
    coded, exact = 64 + 48, 0 + 16  # keys and values
    byte = groups * width * (coded * (1 + 2 * 4 / 16) + exact * 4)
    assert both.trace.kv_byte == [byte] * 4
    assert both.trace.kv_byte_end == 4 * byte
    torch.testing.assert_close(both.logits_NC[:4], alone.logits_NC[:4], atol=0.2, rtol=0)
    assert not torch.equal(both.logits_NC[1], alone.logits_NC[1])


def test_drafted_tokens_that_are_rejected_push_nothing_out(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [StreamingLlm(4, 60)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        before = [store.read()[0].clone() for store in cache.stores]
        lvlm.step(torch.tensor([5, 6, 7, 8]), cache)
        cache.retain(torch.tensor([], dtype=torch.long, device=device))
    assert all(torch.equal(store.read()[0], key) for store, key in zip(cache.stores, before, strict=True))


def test_positions_of_three_axes_are_refused(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="needs `one-position-axis`"):
        lvlm.run(random_request(lvlm.config), [StreamingLlm(4, 60)])


@pytest.mark.parametrize(
    ("arguments", "message"), [({"start_size": -1}, "start_size"), ({"recent_size": 0}, "recent_size")]
)
def test_illegal_values_are_told(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingLlm(**arguments)
