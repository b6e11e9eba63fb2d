"""Entries on the host: what is read is what was written, and every byte that moves is counted once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.host import HostStore
from lvlm_atlas.reference.caches.store import PlainStore, Store

GROUPS, WIDTH = 2, 4
ENTRY_BYTE = 2 * GROUPS * WIDTH * 4
"""Bytes of key and value of an entry, all heads."""


def entries(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    key, value = torch.randn(2, 1, GROUPS, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    return key, value


def filled(store: Store, length: int, device: str = "cpu") -> Store:
    store.append(*(x.to(device) for x in entries(length)))
    store.settle()
    return store


def byte(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_settled_blocks_wait_on_the_host_and_the_rest_on_the_device(device: str) -> None:
    store = filled(HostStore([(2, 6), (6, 10)]), 13, device)
    assert byte(store.tensors) == 13 * ENTRY_BYTE
    assert byte(store.host_tensors) == 8 * ENTRY_BYTE
    assert all(tensor.device.type == "cpu" for tensor in store.host_tensors)


def test_an_entry_stays_on_the_device_until_it_is_settled() -> None:
    store = HostStore([(0, 4), (4, 8)])
    store.append(*entries(6))
    assert store.host_tensors == ()
    store.settle()
    assert byte(store.host_tensors) == 4 * ENTRY_BYTE, "the second block is not whole"
    store.append(*entries(2, seed=1))
    store.settle()
    assert byte(store.host_tensors) == 8 * ENTRY_BYTE


@given(
    spans=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    later=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    resident=st.integers(0, 3),
)
@settings(max_examples=40)
def test_what_is_read_is_what_a_plain_store_would_give(spans: list[int], later: int, seed: int, resident: int) -> None:
    edges = torch.tensor([0, *spans]).cumsum(0).tolist()
    length = edges[-1]
    host = filled(HostStore([*pairwise(edges)][::2], resident), length)
    plain = filled(PlainStore(), length)
    generator = torch.Generator().manual_seed(seed)
    for store in (host, plain):
        store.append(*entries(later + 1, seed=1))
    for _ in range(3):
        count = int(torch.randint(0, length + 1, (), generator=generator))
        index = torch.stack([torch.randperm(length, generator=generator)[:count].sort().values for _ in range(GROUPS)])
        for one, other in zip(host.read_at(index[None], length), plain.read_at(index[None], length), strict=True):
            assert torch.equal(one, other)
    kept = torch.arange(0, later + 1, 2)
    for store in (host, plain):
        store.retain(kept)
        store.settle()
    assert host.length == plain.length == length + len(kept)
    assert all(torch.equal(one, other) for one, other in zip(host.read(), plain.read(), strict=True))
    assert byte(host.tensors) == byte(plain.tensors)


def test_a_read_fetches_the_blocks_that_it_needs_whole_and_no_others() -> None:
    store = filled(HostStore([(2, 6), (6, 10), (10, 12)]), 13)
    store.read_at(torch.tensor([[[0, 7], [1, 2]]]), 13)
    assert store.fetched_byte == 8 * ENTRY_BYTE, "two blocks: each head reads from one of them"
    assert byte(store.host_tensors) == 2 * ENTRY_BYTE


def test_a_block_that_is_still_on_the_device_is_not_fetched_again() -> None:
    store = filled(HostStore([(2, 6), (6, 10)]), 13)
    first, second = torch.tensor([[[2], [2]]]), torch.tensor([[[6], [6]]])
    for index, total in ((first, 4), (first, 4), (second, 8), (first, 12)):
        store.read_at(index, 13)
        assert store.fetched_byte == total * ENTRY_BYTE


def test_blocks_beyond_those_that_may_stay_go_in_the_order_of_their_last_read() -> None:
    store = filled(HostStore([(0, 4), (4, 8), (8, 12)], resident=2), 12)
    places = [torch.full((1, GROUPS, 1), place) for place in (0, 4, 0, 8, 0)]
    fetched = []
    for index in places:
        store.read_at(index, 12)
        fetched.append(store.fetched_byte // ENTRY_BYTE)
    assert fetched == [4, 8, 8, 12, 12], "the second block went, not the first, which was read after it"
    store.read_at(torch.full((1, GROUPS, 1), 4), 12)
    assert store.fetched_byte == 16 * ENTRY_BYTE


def test_a_read_of_all_fetches_all() -> None:
    store = filled(HostStore([(2, 6), (6, 10)]), 13)
    store.read()
    assert store.fetched_byte == 8 * ENTRY_BYTE
    assert store.host_tensors == ()


def test_blocks_can_be_named_later() -> None:
    store = filled(HostStore([(0, 4)]), 6)
    store.offload([(6, 9)])
    store.append(*entries(5, seed=1))
    store.settle()
    assert byte(store.host_tensors) == 7 * ENTRY_BYTE
    assert torch.equal(store.read()[0][:, :, 6:], entries(5, seed=1)[0])


@pytest.mark.parametrize("unsettled", [0, 1, 3])
def test_rejected_entries_leave_nothing_behind(unsettled: int) -> None:
    store = filled(HostStore([(0, 6)]), 6)
    if unsettled:
        store.append(*entries(unsettled, seed=1))
    store.retain(torch.empty(0, dtype=torch.long))
    store.settle()
    assert (store.length, byte(store.tensors)) == (6, 6 * ENTRY_BYTE)
