"""AKVQ-VL: the rotation, bits by modality and by pivot, and the stores inside the LVLM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.lvlm.contexts import CacheBits, LlmLayer
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.ops.quantisation import rotated, uniform
from lvlm_atlas.reference.ops.rotation import hadamard
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.akvq_vl import AkvqVl, greatest_magnitudes, pivots_of
from lvlm_atlas.reference.techniques.prefilling.dart import Dart
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV

HEADS, WIDTH = 2, 16
SMALL = AkvqVl(text_layers=2, recent=3, pivots=2, group_size=8)


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def sequence(hidden_BND: Tensor) -> Sequence:
    index = torch.arange(hidden_BND.shape[1], device=hidden_BND.device)[None].expand(hidden_BND.shape[:2])
    return Sequence(hidden_BND, index, torch.zeros_like(index, dtype=torch.bool), index)


def filled(
    technique: AkvqVl,
    key: Tensor,
    value: Tensor,
    *,
    layer: int,
    vision: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Store:
    """The store of a layer with these entries; tokens have these hidden states where pivots are looked for."""
    acting, index = technique.begin(None), torch.arange(key.shape[2], device=key.device)  # type: ignore[arg-type]
    states = torch.zeros(1, key.shape[2], 4, device=key.device) if hidden is None else hidden
    seen = sequence(states)
    assert acting.llm_layer(LlmLayer(technique.text_layers, 4, seen)) is seen
    where = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device) if vision is None else vision
    entries = Entries(key, value, where, index.expand(key.shape[:3]))
    store = acting.new_store(CacheBits(layer, 4, entries))
    store.append(key, value)
    store.settle()
    return store


def byte(store: Store) -> int:
    return sum(x.nbytes for x in store.tensors)


def exact_entries(store: Store, key: Tensor) -> list[list[bool]]:
    return [row.tolist() for row in (store.read()[0] == key).all(-1)[0]]


def massive(length: int, *tokens: int, device: str = "cpu") -> Tensor:
    """Hidden states of which these tokens have a channel of large magnitude."""
    hidden = draw(1, length, 4, device=device)
    for size, token in enumerate(tokens):
        hidden[0, token, size % 4] = -100.0 - size
    return hidden


def test_at_many_bits_nothing_of_the_rotation_is_left(device: str) -> None:
    x = draw(1, HEADS, 5, WIDTH, device=device)
    form = rotated(uniform(8), hadamard(WIDTH, x))
    torch.testing.assert_close(form.decode(form.encode(x, WIDTH), WIDTH), x, atol=0.03, rtol=0)


def test_the_rotation_spreads_what_one_channel_would_spoil(device: str) -> None:
    x = 0.1 * draw(1, HEADS, 5, WIDTH, device=device)
    x[..., 3] += 1.0  # alike in every token: the rotated numbers are ±0.25 and a little
    forms = (uniform(2), rotated(uniform(2), hadamard(WIDTH, x)))
    straight, turned = ((form.decode(form.encode(x, WIDTH), WIDTH) - x).square().mean() for form in forms)
    assert turned < straight


@given(seed=st.integers(0, 10**6), bits=st.sampled_from([2, 4]), group=st.sampled_from([4, 8, 16]))
@settings(max_examples=30)
def test_the_squared_error_of_a_vector_keeps_its_bound(seed: int, bits: int, group: int) -> None:
    x, clip = draw(3, WIDTH, seed=seed), 0.8 if bits == 2 else 1.0
    matrix = hadamard(WIDTH, x)
    form = rotated(uniform(bits, clip), matrix)
    off = (form.decode(form.encode(x, group), group) - x).square().sum(-1)
    turned = (x @ matrix).unflatten(-1, (-1, group))
    low, high = turned.amin(-1, keepdim=True) * clip, turned.amax(-1, keepdim=True) * clip
    step = (high - low) / (2**bits - 1)
    bound = torch.maximum(step / 2, torch.maximum(turned - high, low - turned)).square().sum((-1, -2))
    assert (off <= bound * (1 + 1e-4)).all()


def test_magnitudes_and_pivots_by_hand(device: str) -> None:
    hidden = torch.tensor([[[1.0, -5.0], [2.0, 2.0], [0.0, 9.0], [-7.0, 0.0]]], device=device)
    magnitude = greatest_magnitudes(hidden)
    assert magnitude.tolist() == [[5.0, 2.0, 9.0, 7.0]]
    visible = torch.tensor([[[True, True, False, True]]], device=device)
    assert pivots_of(magnitude[:, None], visible, 2).tolist() == [[[True, False, False, True]]]
    assert pivots_of(magnitude[:, None], visible, 9).tolist() == [[[True] * 4]]
    assert not pivots_of(magnitude[:, None], visible, 0).any()


def test_pivots_and_recent_entries_are_exact_behind_the_first_layers(device: str) -> None:
    key, value = draw(2, 1, HEADS, 9, WIDTH, device=device)
    store = filled(SMALL, key, value, layer=2, hidden=massive(9, 1, 4, device=device))
    assert exact_entries(store, key) == [[False, True, False, False, True, False, True, True, True]] * HEADS
    held = 2 * HEADS * (5 * WIDTH * 4 + 4 * (WIDTH * 2 // 8 + WIDTH // 8 * 2 * 4))
    assert byte(store) == held
    window = filled(SMALL, key, value, layer=2, hidden=massive(9, 7, 8, device=device))
    assert exact_entries(window, key) == [[False] * 4 + [True] * 5] * HEADS, "pivots take no place of the window"


def test_text_of_the_first_layers_has_four_bits_of_the_whole_range(device: str) -> None:
    key, value = draw(2, 1, HEADS, 9, WIDTH, device=device)
    vision = torch.tensor([False, True, True, False, False, True, False, False, False], device=device)
    vision = vision.expand(1, HEADS, -1)
    store = filled(SMALL, key, value, layer=0, vision=vision, hidden=massive(9, 1, 4, device=device))
    assert exact_entries(store, key) == [[False] * 6 + [True] * 3] * HEADS
    text, seen = (WIDTH * bits // 8 + WIDTH // 8 * 2 * 4 for bits in (4, 2))
    assert byte(store) == 2 * HEADS * (3 * WIDTH * 4 + 3 * text + 3 * seen)
    matrix, (read, _) = hadamard(WIDTH, key), store.read()
    for token, form in ((3, uniform(4)), (2, uniform(2, 0.8))):
        same = rotated(form, matrix)
        torch.testing.assert_close(read[:, :, token], same.decode(same.encode(key[:, :, token], 8), 8))


def test_pivots_are_looked_for_where_the_first_layers_end() -> None:
    key, value = draw(2, 1, HEADS, 9, WIDTH)
    acting = SMALL.begin(None)  # type: ignore[arg-type]
    for layer, token in ((0, 3), (1, 3), (2, 5), (3, 0), (2, 0)):
        acting.llm_layer(LlmLayer(layer, 4, sequence(massive(9, token, token - 1 if token else 1))))
    where = torch.zeros(1, HEADS, 9, dtype=torch.bool)
    store = acting.new_store(CacheBits(3, 4, Entries(key, value, where, torch.arange(9).expand(1, HEADS, -1))))
    store.append(key, value)
    store.settle()
    assert exact_entries(store, key)[0][:6] == [False, False, False, False, True, True]


def test_entries_that_lack_some_tokens_find_their_own_pivots() -> None:
    key, value = draw(2, 1, HEADS, 4, WIDTH)
    acting = replace(SMALL, recent=0, pivots=1).begin(None)  # type: ignore[arg-type]
    acting.llm_layer(LlmLayer(2, 4, sequence(massive(9, 1, 6))))
    index = torch.tensor([[[0, 1, 5, 8], [1, 2, 6, 8]]])
    store = acting.new_store(CacheBits(2, 4, Entries(key, value, torch.zeros_like(index, dtype=torch.bool), index)))
    store.append(key, value)
    store.settle()
    assert exact_entries(store, key) == [[False, True, False, False], [False, False, True, False]]


def test_what_comes_later_is_no_pivot() -> None:
    key, value = draw(2, 1, HEADS, 12, WIDTH)
    store = filled(SMALL, key[:, :, :6], value[:, :, :6], layer=2, hidden=massive(6, 0, 1))
    store.announce(torch.ones(1, HEADS, 6, dtype=torch.bool))
    store.append(key[:, :, 6:], value[:, :, 6:])
    store.settle()
    assert exact_entries(store, key) == [[True, True] + [False] * 7 + [True] * 3] * HEADS


def test_a_pivot_that_is_evicted_leaves_its_place_to_the_window() -> None:
    key, value = draw(2, 1, HEADS, 9, WIDTH)
    store = filled(SMALL, key, value, layer=2, hidden=massive(9, 1, 4))
    before = byte(store)
    store.keep(torch.tensor([[[0, 2, 3, 5, 6, 7, 8], [0, 1, 4, 5, 6, 7, 8]]]))
    assert before - byte(store) == 2 * HEADS * 2 * (WIDTH * 2 // 8 + WIDTH // 8 * 2 * 4)
    assert store.length == 7


def test_drafted_tokens_stay_exact_until_they_are_verified() -> None:
    key, value = draw(2, 1, HEADS, 12, WIDTH)
    store = filled(replace(SMALL, recent=0), key[:, :, :8], value[:, :, :8], layer=2, hidden=massive(8, 0, 1))
    store.append(key[:, :, 8:], value[:, :, 8:])
    assert exact_entries(store, key)[0][8:] == [True] * 4
    store.retain(torch.tensor([1]))
    store.settle()
    assert store.length == 9
    assert not exact_entries(store, key[:, :, [*range(8), 9]])[0][8]


def test_keys_are_rotated_behind_the_rotary_embedding(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    technique = AkvqVl(text_layers=0, recent=0, pivots=0, group_size=4, clip=1.0)
    with torch.inference_mode():
        plain_run, run = lvlm.begin(request), lvlm.begin(request, [technique])
        inputs = lvlm.prepare(plain_run)
        plain, coded = lvlm.prefill(inputs).cache, lvlm.prefill(inputs, run).cache
    for one, other in zip(plain.stores, coded.stores, strict=True):
        key, read = one.read()[0], other.read()[0]
        form = rotated(uniform(2), hadamard(key.shape[3], key))
        torch.testing.assert_close(read, form.decode(form.encode(key, 4), 4))


def test_a_window_over_everything_without_first_layers_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=3)
    plain, same, coded = (
        lvlm.run(request, stack)
        for stack in ([], [AkvqVl(text_layers=0, recent=10**6, group_size=16)], [replace(SMALL, recent=8)])
    )
    assert torch.equal(plain.logits_NC, same.logits_NC)
    assert torch.equal(plain.logits_NC[0], coded.logits_NC[0])
    assert not torch.allclose(plain.logits_NC[1], coded.logits_NC[1], atol=1e-3)


def test_it_stands_beside_who_counts_on_being_alone_between_the_layers_since_it_only_looks() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, frames=2, text_tokens=12, max_new_tokens=3)
    both, alone = lvlm.run(request, [Dart(layer=1), SMALL]), lvlm.run(request, [Dart(layer=1)])
    assert both.trace.llm_vision_tokens == alone.trace.llm_vision_tokens
    with pytest.raises(Refusal, match="FastV may drop some between its layers"):
        lvlm.run(request, [Dart(layer=1), SMALL, FastV(layer=1)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text_layers": -1}, ValueError, "text_layers must be at least 0, got -1"),
        ({"recent": -1}, ValueError, "recent must be at least 0"),
        ({"pivots": -1}, ValueError, "pivots must be at least 0"),
        ({"group_size": 0}, ValueError, "group_size must be at least 1"),
        ({"clip": 0.0}, ValueError, r"clip must lie in \(0, 1\], got 0.0"),
        ({"group_size": 6}, Refusal, "group_size must be a multiple of 4, so that codes fill whole bytes, got 6"),
    ],
)
def test_illegal_parameters_and_sizes_that_do_not_fit_are_told_apart(
    arguments: dict[str, float], error: type[ValueError], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        AkvqVl(**arguments)  # type: ignore[arg-type]
    assert type(raised.value) is error


def test_heads_of_another_width_than_a_power_of_two_are_refused() -> None:
    key = draw(1, HEADS, 3, 12)
    with pytest.raises(Refusal, match="a power of two, got 12"):
        filled(SMALL, key, key, layer=0)
