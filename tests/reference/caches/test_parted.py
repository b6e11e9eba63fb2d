"""Entries in several stores: what is read comes in order, and each part pays for its own bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.parted import HeadStore, SortedStore, by_modality
from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.ops.quantisation import FLOAT8, SIGN, TERNARY, Format, uniform
from lvlm_atlas.reference.refusal import Refusal

GROUPS, WIDTH = 3, 16


def entries(length: int, seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    key, value = torch.randn(2, batch, GROUPS, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    return key, value


def coded(form: Format, group_size: int = 8) -> Store:
    """All settled entries as codes, keys and values both grouped across channels."""
    halves = (Half(form, group_size, across_tokens=False) for _ in range(2))
    return QuantisedStore(*halves)


def byte(store: Store) -> int:
    return sum(tensor.nbytes for tensor in store.tensors)


def like_a_plain_one(store: Store, lengths: list[int], seed: int) -> None:
    """Give a store entries in rounds, some of which are taken back, and hold every read against a plain store."""
    plain, generator = PlainStore(), torch.Generator().manual_seed(seed)
    for number, length in enumerate(lengths):
        for each in (store, plain):
            each.append(*entries(length, seed=number))
        assert all(torch.equal(one, other) for one, other in zip(store.read(), plain.read(), strict=True))
        if number:
            kept = torch.randperm(length, generator=generator)[: length // 2 + 1].sort().values
            for each in (store, plain):
                each.retain(kept)
        for each in (store, plain):
            each.settle()
        index = torch.arange(0, plain.length, 2).expand(1, GROUPS, -1)
        pairs = zip(store.read_at(index, plain.length), plain.read_at(index, plain.length), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        assert store.length == plain.length
        assert byte(store) == byte(plain)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_what_is_read_stands_in_order_of_arrival(lengths: list[int], seed: int) -> None:
    random = torch.rand(1, 1, lengths[0], generator=torch.Generator().manual_seed(seed))
    vision_BGS = (random < 0.5).expand(1, GROUPS, -1)
    like_a_plain_one(by_modality(vision_BGS, PlainStore, PlainStore), lengths, seed)
    like_a_plain_one(HeadStore([(1, PlainStore()), (2, PlainStore())]), lengths, seed)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_heads_may_hold_different_numbers_of_vision_entries(lengths: list[int], seed: int) -> None:
    vision_BGS = torch.rand(1, GROUPS, lengths[0], generator=torch.Generator().manual_seed(seed)) < 0.5
    like_a_plain_one(by_modality(vision_BGS, PlainStore, PlainStore), lengths, seed)


def test_vision_entries_are_coded_and_text_stays_exact_later_entries_too() -> None:
    vision_BGS = torch.tensor([False, True, True, True, False, True]).expand(1, GROUPS, -1)
    store = by_modality(vision_BGS, lambda: coded(uniform(2)), PlainStore)
    key, value = entries(6)
    store.append(key, value)
    store.settle()
    store.append(*entries(2, seed=1))
    store.settle()
    given_ = (torch.cat(pair, dim=2) for pair in zip((key, value), entries(2, seed=1), strict=True))
    exact = [(a == b).all(-1).all(1)[0].tolist() for a, b in zip(store.read(), given_, strict=True)]
    assert exact == [[True, False, False, False, True, False, True, True]] * 2
    coded_byte = 2 * 4 * GROUPS * (WIDTH * 2 // 8 + WIDTH // 8 * 2 * 4)
    assert byte(store) == coded_byte + 2 * 4 * GROUPS * WIDTH * 4


@pytest.mark.parametrize(
    ("form", "group_byte"),
    [(uniform(1), 1 + 8), (SIGN, 1 + 4), (TERNARY, 2 + 4), (uniform(4), 4 + 8), (uniform(8), 8 + 8), (FLOAT8, 8 + 4)],
    ids=["1-bit", "sign", "ternary", "4-bit", "8-bit", "e4m3"],
)
def test_each_head_pays_for_its_own_bits(form: Format, group_byte: int) -> None:
    store = HeadStore([(1, coded(form)), (2, PlainStore())])
    key, value = entries(5)
    store.append(key, value)
    store.settle()
    assert byte(store) == 2 * 5 * (WIDTH // 8 * group_byte + 2 * WIDTH * 4)
    read_key, read_value = store.read()
    assert torch.equal(read_key[:, 1:], key[:, 1:])
    assert torch.equal(read_value[:, 1:], value[:, 1:])
    assert not torch.equal(read_key[:, :1], key[:, :1])


def test_stores_for_another_number_of_heads_are_told() -> None:
    with pytest.raises(ValueError, match=r"for 3 heads together, got \[1, 1\]"):
        HeadStore([(1, PlainStore()), (1, PlainStore())]).append(*entries(2))


def test_a_batch_whose_sequences_hold_different_numbers_of_vision_entries_is_refused() -> None:
    vision_BGS = torch.tensor([[[True, False]] * GROUPS, [[True, True]] * GROUPS])
    with pytest.raises(Refusal, match="equally many vision entries"):
        by_modality(vision_BGS, PlainStore, PlainStore)
    with pytest.raises(ValueError, match="equally many"):
        SortedStore(vision_BGS, PlainStore(), PlainStore())


@pytest.mark.parametrize("alike", [True, False])
def test_entries_of_later_prompts_are_sorted_too(alike: bool) -> None:
    vision_BGS = torch.tensor([[[True, False, True], [True, True, False], [False, True, True]]])
    vision_BGS = vision_BGS if alike else torch.tensor([[[True, False, True], [True, True, True], [False] * 3]])
    store, plain = by_modality(vision_BGS, lambda: coded(FLOAT8), PlainStore), PlainStore()
    later = torch.tensor([False, True, True, False]).expand(1, GROUPS, -1)
    for number, (length, vision) in enumerate([(3, None), (2, None), (4, later), (1, None)]):
        if vision is not None:
            store.announce(vision)
        for each in (store, plain):
            each.append(*entries(length, seed=number))
            each.settle()
    exact = (store.read()[0] == plain.read()[0]).all(-1)[0]
    decoded = [True, True]
    for head in range(GROUPS):
        assert exact[head].tolist() == [*(~vision_BGS[0, head]).tolist(), *decoded, True, False, False, True, True]
    torch.testing.assert_close(store.read()[1], plain.read()[1], atol=0.3, rtol=0.1)
