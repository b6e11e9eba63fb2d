"""Decoding steps: the position of a new token in each layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Entries, Held, Sequence
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheBits, CacheLayers, LlmLayer
from lvlm_atlas.reference.ops.attention import attend, mask_of_heads

PRESETS = ("tiny", "tiny-window", "tiny-deepstack")
LAYER, EVERY = 2, 3
"""The tests keep every third vision token from layer 2 on."""


@dataclass(frozen=True)
class DropAndRenumber(Technique):
    """Keeps every third vision token from layer 2 on and closes up the positions."""

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        if at.layer != LAYER:
            return at.sequence
        rank_V = torch.arange(0, int(at.sequence.vision_BN.sum()), EVERY, device=at.sequence.hidden_BND.device)
        return at.sequence.keep_vision(rank_V[None]).renumber()


def logits_at_once(lvlm: LVLM, inputs: Sequence, tokens: list[int]) -> Tensor:
    """Logits (M, C) after each answer token, all read in one pass, positions counted by hand in each layer."""
    length, model = inputs.length, lvlm.language_model
    answer_ND = lvlm.embed(torch.tensor(tokens))
    vision = inputs.vision_BN[0].nonzero()[:, 0].tolist()
    kept = [place for place in range(length) if place not in vision or vision.index(place) % EVERY == 0]
    alive = torch.tensor([*kept, *range(length, length + len(tokens))], device=lvlm.device)

    before_N = inputs.position_BN[0].cpu()
    ids = sorted(set(before_N[kept].flatten().tolist()))
    gone = sorted(set(before_N.flatten().tolist()) - set(ids))
    after_N = before_N.clone().apply_(lambda id_: id_ - sum(other < id_ for other in gone))
    next_ = int(before_N[-1].max()) + 1
    step_M = torch.arange(len(tokens))

    def positions(prompt_N: Tensor, first: int) -> Tensor:
        answer_M = (first + step_M).reshape(-1, *(1,) * (prompt_N.dim() - 1)).expand(-1, *prompt_N.shape[1:])
        return torch.cat([prompt_N, answer_M]).to(lvlm.device)[None]

    early, late = positions(before_N, next_), positions(after_N, next_ - len(gone))[:, alive]
    x_BND = torch.cat([inputs.hidden_BND, answer_ND[None]], dim=1)
    added = inputs.deepstack_BNLD
    for index, layer in enumerate(model.model.layers):
        if index == LAYER:
            x_BND = x_BND[:, alive]
        query, key, value = layer.project(x_BND, early if index < LAYER else late)
        x_BND = layer.finish(x_BND, attend(query, key, value, causal=True))
        if added is not None and index < added.shape[2]:
            assert index < LAYER
            x_BND = torch.cat([x_BND[:, :length] + added[:, :, index], x_BND[:, length:]], dim=1)
    return model.logits(x_BND)[0, -len(tokens) :]


@pytest.mark.parametrize("preset", PRESETS)
def test_renumbering_between_layers_holds_for_the_tokens_that_are_decoded(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, max_new_tokens=5)
    result = lvlm.run(request, [DropAndRenumber()])
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        logits_MC = logits_at_once(lvlm, inputs, result.tokens_N[:-1].tolist())
    torch.testing.assert_close(result.logits_NC[1:], logits_MC, atol=1e-4, rtol=1e-4)


def test_each_layer_goes_on_behind_its_own_prompt(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [DropAndRenumber()])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert cache.next_position.tolist() == [[400], [400], [16 + 128], [16 + 128]]
    lvlm.step(torch.tensor([1, 2]), cache)
    cache.retain(torch.tensor([0], device=device))
    assert cache.next_position.tolist() == [[401], [401], [145], [145]]


def test_dropping_the_last_token_does_not_move_the_next_one() -> None:
    place = torch.arange(5)[None]
    sequence = Sequence(torch.ones(1, 5, 2), place, place < 0, place)
    assert sequence.next_position.tolist() == [5]
    left = sequence.keep(torch.tensor([[0, 2, 3]]))
    assert left.next_position.tolist() == [5]
    closed = left.renumber()
    assert closed.position_BN.tolist() == [[0, 1, 2]]
    assert closed.next_position.tolist() == [3]
    again = replace(closed).keep(torch.tensor([[0, 2]])).renumber()
    assert (again.position_BN.tolist(), again.next_position.tolist()) == ([[0, 1]], [2])


class Blind(PlainStore):
    """Says that no settled vision entry is to be seen in decoding."""

    def logit_bias(self, query_BHMd: Tensor, key_BGRd: Tensor, held: Callable[[], Held]) -> Tensor | None:
        assert held().vision_BGS.shape == key_BGRd.shape[:3]
        hidden_BHR = mask_of_heads(held().vision_BGS, query_BHMd.shape[1])
        return torch.zeros(hidden_BHR.shape).masked_fill(hidden_BHR, -torch.inf)[:, :, None]


@dataclass(frozen=True)
class Blinded(Technique):
    """Holds entries in such stores, and of the first head one entry less where heads are to be uneven."""

    uneven: bool = False
    acts_at: ClassVar = ("cache-layers", "cache-bits")

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        if not self.uneven:
            return at.entries
        keep_BGS = torch.ones_like(at.entries[0].vision_BGS)
        keep_BGS[:, 0, keep_BGS.shape[2] // 2] = False  # a vision token
        return tuple(entries.keep_where(keep_BGS) for entries in at.entries)

    def new_store(self, at: CacheBits) -> Store:
        return Blind()


@dataclass(frozen=True)
class TextAlone(Technique):
    """Caches no vision entry."""

    acts_at: ClassVar = ("cache-layers",)

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        return tuple(entries.keep_where(~entries.vision_BGS) for entries in at.entries)


@pytest.mark.parametrize("uneven", [False, True])
def test_what_a_store_adds_to_logits_counts_in_decoding_alone(uneven: bool) -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, max_new_tokens=4)
    blind, without = lvlm.run(request, [Blinded(uneven)]), lvlm.run(request, [TextAlone()])
    assert torch.equal(blind.logits_NC[0], lvlm.run(request).logits_NC[0])
    torch.testing.assert_close(blind.logits_NC, without.logits_NC, atol=1e-5, rtol=1e-4)


def test_what_a_store_adds_keeps_drafted_tokens_from_seeing_each_other() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, max_new_tokens=4)
    logits = []
    for technique in (Blinded(), TextAlone()):
        with torch.inference_mode():
            run = lvlm.begin(request, [technique])
            cache = lvlm.prefill(lvlm.prepare(run), run).cache
            logits.append(lvlm.advance(torch.tensor([[5, 6, 7]]), cache, torch.tensor([-1, -1, 0])))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
