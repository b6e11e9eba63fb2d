"""What a run holds: no attention map where nobody reads one, and per step no more than the new entries."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The masks that attention is given, in order."""
    given: list[Any] = []
    attention = functional.scaled_dot_product_attention

    def spy(*args: Any, attn_mask: Any = None, **more: Any) -> Any:
        given.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    return given


def test_a_plain_run_forms_no_mask_and_no_map(device: str, masks: list[Any]) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config)).trace
    assert len(masks) == lvlm.config.encoder_layers + lvlm.config.text.num_hidden_layers * 12
    assert masks == [None] * len(masks)
    assert trace.probe_entries == 0


def test_who_reads_one_row_pays_for_one_row(device: str, masks: list[Any]) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [FastV(layer=2, keep_ratio=0.5)]).trace
    assert masks == [None] * len(masks)
    assert trace.probe_entries == lvlm.config.text.num_attention_heads * trace.llm_tokens[1]


def test_a_step_copies_its_own_entries_and_not_the_cache(device: str) -> None:
    store = PlainStore()
    store.append(*torch.zeros(2, 1, 2, 100, 4, device=device))
    places, room = set(), 0
    for step in range(100):
        store.append(*torch.full((2, 1, 2, 1, 4), float(step), device=device))
        store.settle()
        key, value = store.read()
        places.add(key.data_ptr())
        room = max(room, key.untyped_storage().nbytes())
        assert sum(tensor.nbytes for tensor in store.tensors) == 2 * (101 + step) * 2 * 4 * 4
    assert len(places) <= 4
    assert room <= (200 * 9 // 8 + 16) * 2 * 4 * 4
    assert key[0, 0, 100:, 0].tolist() == value[0, 1, 100:, 3].tolist() == [float(step) for step in range(100)]


def test_the_prompts_entries_have_one_holder_once_decoding_begins(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        prefill = lvlm.prefill(lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1))))
        held = [weakref.ref(store._key) for store in prefill.cache.stores if isinstance(store, PlainStore)]
        lvlm.step(torch.tensor([5]), prefill.cache)  # needs room, so that each store copies what it holds
    # The last layer's attention can still be read.
    assert [each() is None for each in held] == [True, True, True, False]


def test_room_to_grow_is_not_read_and_not_counted(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))).cache
        lvlm.step(torch.tensor([5, 6, 7]), cache)
        cache.retain(torch.tensor([0, 2], device=device))
    entries = 64 + 16 + 2
    element = 2 * lvlm.config.text.num_key_value_heads * lvlm.config.text.head_dim * 4
    assert [store.length for store in cache.stores] == [entries] * 4
    assert cache.layer_byte() == [entries * element] * 4
