"""Eviction from stores: what is kept is what was held, drafts still go back, and bytes are those of what is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.ragged import RaggedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Entries, Held
from lvlm_atlas.reference.ops.attention import attend, mask_of_heads
from lvlm_atlas.reference.ops.places import take, uneven_places
from lvlm_atlas.reference.ops.quantisation import uniform
from lvlm_atlas.reference.techniques.decoding.kivi import quantised_lengths

STORES: dict[str, Callable[[], Store]] = {
    "plain": PlainStore,
    "kivi": lambda: kivi(8),
}


def kivi(residual_length: int) -> QuantisedStore:
    halves = (Half(uniform(2), 4, across_tokens=across_tokens) for across_tokens in (True, False))
    return QuantisedStore(*halves, lambda length: quantised_lengths(length, residual_length))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(name: str, length: int, heads: int = 2) -> Store:
    store = STORES[name]()
    store.append(randn(1, heads, length, 8), randn(1, heads, length, 8, seed=1))
    store.settle()
    return store


def places(length: int, kept: int, heads: int, seed: int) -> Tensor:
    score = randn(1, heads, length, seed=seed)
    return score.argsort(dim=-1)[..., :kept].sort(dim=-1).values


def byte(store: Store) -> int:
    return sum(tensor.nbytes for tensor in store.tensors)


@pytest.mark.parametrize("name", STORES)
@given(length=st.integers(1, 40), share=st.floats(0, 1), drafted=st.integers(0, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_keeping_some_leaves_the_drafted_ones_to_be_taken_back(
    name: str, length: int, share: float, drafted: int, seed: int
) -> None:
    store = filled(name, length)
    settled = [x.clone() for x in store.read()]
    if drafted:
        store.append(randn(1, 2, drafted, 8, seed=2), randn(1, 2, drafted, 8, seed=3))
    index = places(length, max(1, int(share * length)), 2, seed)
    new = [x[:, :, length:].clone() for x in store.read()]
    store.keep(index)
    assert store.length == index.shape[2] + drafted
    for read, old, late in zip(store.read(), settled, new, strict=True):
        if name == "plain":
            assert torch.equal(read[:, :, : index.shape[2]], take(old, index))
        assert torch.equal(read[:, :, index.shape[2] :], late)
    store.retain(torch.arange(0, drafted, 2))
    for read, late in zip(store.read(), new, strict=True):
        assert torch.equal(read[:, :, index.shape[2] :], late[:, :, ::2])
    store.settle()
    assert byte(store) == byte(filled(name, index.shape[2] + -(-drafted // 2)))


@pytest.mark.parametrize("name", STORES)
def test_keeping_all_changes_nothing(name: str) -> None:
    store = filled(name, 30)
    before = [x.clone() for x in store.read()]
    store.keep(torch.arange(30).expand(1, 2, 30))
    assert all(torch.equal(x, y) for x, y in zip(store.read(), before, strict=True))
    assert byte(store) == byte(filled(name, 30))


def test_a_plain_store_changes_no_tensor_that_it_was_given_and_holds_none_of_what_it_drops() -> None:
    key, value = randn(1, 2, 400, 8), randn(1, 2, 400, 8, seed=1)
    store, copy = PlainStore(), key.clone()
    store.append(key, value)
    store.settle()
    store.keep(places(400, 40, 2, 0))
    store.append(key[:, :, :1], value[:, :, :1])
    assert torch.equal(key, copy)
    assert max(x.untyped_storage().nbytes() for x in store.read()) <= 2 * 8 * 4 * (40 + 40 // 8 + 16)


@given(length=st.integers(9, 60), kept=st.floats(0.1, 1), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_codes_of_values_and_of_keys_before_the_first_loss_stay_as_they_are(
    length: int, kept: float, seed: int
) -> None:
    store = filled("kivi", length)
    assert isinstance(store, QuantisedStore)
    key, value = (x.clone() for x in store.read())
    index = places(length, max(1, int(kept * length)), 2, seed)
    store.keep(index)
    count = index.shape[2]
    keys, values = quantised_lengths(count, 8)
    assert (store.key.coded, store.value.coded) == (keys, values)
    new_key, new_value = store.read()
    was_coded = quantised_lengths(length, 8)[1]
    both = min(int((index < was_coded).sum(-1).min()), values)
    assert torch.equal(new_value[:, :, :both], take(value, index)[:, :, :both])
    assert torch.equal(new_value[:, :, values:], take(value, index)[:, :, values:])
    first_loss = int((index == torch.arange(count)).long().cumprod(-1).sum(-1).min())
    untouched = min(first_loss, keys) // 4 * 4
    assert torch.equal(new_key[:, :, :untouched], key[:, :, :untouched])
    # What is quantised again is quantised from what was read, in groups of its new neighbours.
    again = filled_with(take(key, index)[:, :, untouched:keys], take(value, index)[:, :, untouched:keys])
    if keys > untouched:
        torch.testing.assert_close(new_key[:, :, untouched:keys], again, atol=1e-5, rtol=1e-5)


def filled_with(key: Tensor, value: Tensor) -> Tensor:
    store = kivi(4)
    store.append(key, value)
    store.settle()
    return store.read()[0]


def uneven(length: int, heads: int, seed: int) -> Tensor:
    """A mask that keeps other numbers in each head, one at least."""
    keep = randn(1, heads, length, seed=seed) > randn(1, heads, 1, seed=seed + 1)
    keep[..., -1] = True
    return keep


def entries(length: int, heads: int) -> Entries:
    place = torch.arange(length).expand(1, heads, length)
    return Entries(randn(1, heads, length, 8), randn(1, heads, length, 8, seed=1), place < length // 2, place)


@given(length=st.integers(1, 30), later=st.integers(1, 4), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_attention_to_uneven_heads_is_that_to_all_entries_with_the_others_masked(
    length: int, later: int, seed: int
) -> None:
    every, keep = entries(length, 2), uneven(length, 2, seed)
    kept = every.keep_where(keep)
    store = RaggedStore(lambda _: PlainStore(), kept) if kept.uneven else PlainStore()
    if not kept.uneven:
        store.append(kept.key_BGSd, kept.value_BGSd)
    new = randn(1, 2, later, 8, seed=5), randn(1, 2, later, 8, seed=6)
    store.append(*new)
    query = randn(1, 4, later, 8, seed=7)
    new_real = torch.ones(1, 2, later, dtype=torch.bool)
    real = torch.cat([kept.held.visible_BGS, new_real], dim=2)
    ours = attend(query, *store.read(), mask_of_heads(real, 4)[:, :, None])
    full = [torch.cat([x, y], dim=2) for x, y in zip((every.key_BGSd, every.value_BGSd), new, strict=True)]
    masked = torch.cat([keep, new_real], dim=2)
    bias = torch.zeros(masked.shape).masked_fill(~masked, float("-inf"))
    theirs = attend(query, *full, mask_of_heads(bias, 4)[:, :, None])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert byte(store) == 2 * int(masked.sum()) * 8 * 4
    assert kept.held.index_BGS[kept.held.visible_BGS].tolist() == every.index_BGS[keep].tolist()


@given(length=st.integers(2, 30), drafted=st.integers(0, 3), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_a_ragged_store_keeps_and_takes_back_head_by_head(length: int, drafted: int, seed: int) -> None:
    every, keep = entries(length, 3), uneven(length, 3, seed)
    kept = every.keep_where(keep)
    store = RaggedStore(lambda _: PlainStore(), kept)
    store.append(randn(1, 3, 3, 8, seed=5), randn(1, 3, 3, 8, seed=5))
    again = uneven(kept.held.length, 3, seed + 7) & kept.held.visible_BGS
    again[..., -1] = True
    store.keep_where(again)
    store.retain(torch.arange(drafted))
    held = kept.held.keep_where(again)
    for head in range(3):
        own = kept.key_BGSd[0, head, again[0, head]]
        read = store.read()[0][0, head, store.length - len(own) - drafted :]
        assert torch.equal(read[: len(own)], own)
        assert torch.equal(read[len(own) :], randn(1, 3, 3, 8, seed=5)[0, head, :drafted])
        assert int(held.visible_BGS[0, head].sum()) == len(own)
    assert store.mean_length == pytest.approx(float(again.sum(-1).double().mean()) + drafted)
    assert held.length == store.length - drafted


def test_a_ragged_store_of_codes_holds_the_codes_of_each_heads_own_entries() -> None:
    every, keep = entries(40, 2), torch.ones(1, 2, 40, dtype=torch.bool)
    keep[0, 0, 5:20] = False
    kept = every.keep_where(keep)
    store = RaggedStore(lambda _: STORES["kivi"](), kept)
    alone = [byte(filled("kivi", length, heads=1)) for length in (25, 40)]
    assert byte(store) == sum(alone)
    assert store.read()[0].shape == (1, 2, 40, 8)
    assert not store.read()[0][0, 0, :15].any()


def test_uneven_places_fill_up_in_front_with_places_that_are_not_kept() -> None:
    index, real = uneven_places(torch.tensor([[True, False, True, False], [False, True, False, False]]))
    assert real.tolist() == [[True, True], [False, True]]
    assert index[0].tolist() == [0, 2]
    assert index[1, 1] == 1
    assert index[1, 0] != 1


def test_heads_alike_in_padding_may_share_one_row_of_it() -> None:
    place = torch.arange(4).expand(1, 2, 4)
    held = Held(place > 1, place, place, torch.tensor([[[False, True, True, True]]]))
    assert held.keep(torch.tensor([[[0, 3], [1, 2]]])).visible_BGS.tolist() == [[[False, True], [True, True]]]
    assert held.then(Held(*(x[..., :1] for x in (place > 1, place, place)))).visible_BGS[0, 1].tolist() == [
        False, True, True, True, True,
    ]  # fmt: skip
