"""Looking ahead: the attention of a layer that is about to run, or never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.lvlm.ahead import NextLayer
from lvlm_atlas.reference.lvlm.contexts import CacheTokens, EncoderLayer, EncoderOutput, LlmLayer
from lvlm_atlas.reference.techniques.encoding.tome import ToMe

PRESETS = ("tiny", "tiny-window", "tiny-deepstack")


@dataclass(frozen=True)
class Watch(Technique):
    """Calls functions at points and changes nothing."""

    llm: Callable[[LlmLayer], Sequence | None] = lambda _: None
    encoder: Callable[[EncoderLayer], Patches | None] = lambda _: None
    output: Callable[[EncoderOutput], None] = lambda _: None
    cache: Callable[[CacheTokens], None] = lambda _: None

    acts_at: ClassVar = ("encoder-layer", "encoder-output", "llm-layer", "cache-tokens")

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        return self.encoder(at) or at.patches

    def encoder_output(self, at: EncoderOutput) -> Patches:
        self.output(at)
        return at.patches

    def llm_layer(self, at: LlmLayer) -> Sequence:
        return self.llm(at) or at.sequence

    def compress_cache(self, at: CacheTokens) -> Any:
        self.cache(at)
        return at.entries


@dataclass
class Seen:
    """Rows by layer, as they were looked ahead to and as they came."""

    ahead: dict[int, torch.Tensor] = field(default_factory=dict)
    came: dict[int, torch.Tensor] = field(default_factory=dict)

    def check(self, layers: set[int]) -> None:
        assert self.ahead.keys() == layers <= self.came.keys()
        for layer, rows in self.ahead.items():
            torch.testing.assert_close(rows, self.came[layer], atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module", params=PRESETS)
def lvlm(request: pytest.FixtureRequest, device: str) -> LVLM:
    return LVLM.random(request.param, device=device)


def thinned(sequence: Sequence) -> Sequence:
    rank_V = torch.arange(0, int(sequence.vision_BN.sum()), 2, device=sequence.hidden_BND.device)
    return sequence.keep_vision(rank_V[None]).renumber()


@pytest.mark.parametrize("thin", [False, True], ids=["all", "thinned"])
def test_the_attention_ahead_is_that_of_the_layer_itself(lvlm: LVLM, thin: bool) -> None:
    seen = Seen()

    def look(at: LlmLayer) -> Sequence:
        sequence = thinned(at.sequence) if thin and at.layer == 1 else at.sequence
        seen.ahead[at.layer] = (at.ahead(sequence) if thin else at.ahead()).rows()
        return sequence

    def came(at: CacheTokens) -> None:
        seen.came[at.layer] = at.probe.rows()

    result = lvlm.run(random_request(lvlm.config, frames=2), [Watch(llm=look, cache=came)])
    seen.check({0, 1, 2, 3})
    scores = sum(lvlm.config.text.num_attention_heads * n * (n + 1) // 2 for n in result.trace.llm_tokens)
    assert result.trace.probe_entries == 2 * scores  # those read ahead count like those read behind


def test_looking_changes_nothing_and_is_projected_once(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, max_new_tokens=1)
    plain = lvlm.run(request)
    calls: list[int] = []
    hooks = [
        proj.register_forward_hook(lambda *_: calls.append(1))
        for layer in lvlm.language_model.layers
        for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    ]
    looked = lvlm.run(request, [Watch(llm=lambda at: at.ahead() and None)])
    for hook in hooks:
        hook.remove()
    assert len(calls) == 4 * 2
    assert torch.equal(looked.logits_NC, plain.logits_NC)


def test_tokens_that_change_after_the_look_are_projected_anew(lvlm: LVLM) -> None:
    def look_then_thin(at: LlmLayer) -> Sequence | None:
        at.ahead()
        return thinned(at.sequence) if at.layer == 1 else None

    def thin(at: LlmLayer) -> Sequence | None:
        return thinned(at.sequence) if at.layer == 1 else None

    request = random_request(lvlm.config, frames=2, max_new_tokens=2)
    one, two = (lvlm.run(request, [Watch(llm=each)]) for each in (look_then_thin, thin))
    assert torch.equal(one.logits_NC, two.logits_NC)


def test_padding_is_seen_by_itself_alone(device: str) -> None:
    lvlm = LVLM.random(device=device)
    layer = next(lvlm.language_model.layers)
    torch.manual_seed(0)
    hidden = torch.randn(1, 6, 64, device=device)
    place = torch.arange(6, device=device)[None]
    real = place >= 2
    padded = Sequence(hidden, (place - 2).clamp(min=0), place < 0, place, real_BN=real)
    own = Sequence(hidden[:, 2:], place[:, :4], place[:, 2:] < 0, place[:, 2:])
    with torch.inference_mode():
        rows, alone = (
            NextLayer(layer, 0, Cache([], [], torch.empty(0)), lambda _: None).probe(each).rows()
            for each in (padded, own)
        )
    torch.testing.assert_close(rows[:, :, 2:, 2:], alone)
    assert not rows[:, :, 2:, :2].any()
    assert torch.equal(rows[:, :, :2], torch.eye(2, 6, device=device).expand_as(rows[:, :, :2]))


def test_the_next_encoder_layer_can_be_looked_ahead_to(lvlm: LVLM) -> None:
    seen = Seen()

    def look(at: EncoderLayer) -> None:
        seen.came[at.layer] = at.patches.attention.rows()
        if at.layer + 1 < at.layers:
            seen.ahead[at.layer + 1] = at.patches.ahead().rows()

    lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), [Watch(encoder=look)])
    seen.check(set(range(1, lvlm.config.encoder_layers)))


def test_layers_between_run_on_the_side(lvlm: LVLM) -> None:
    seen, last = Seen(), lvlm.config.encoder_layers - 1

    def look(at: EncoderLayer) -> None:
        seen.came[at.layer] = at.patches.attention.rows()
        if at.layer == 0:
            seen.ahead[last] = at.patches.ahead(last).rows()

    trace = lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), [Watch(encoder=look)]).trace
    seen.check({last})
    assert len(trace.encoder_tokens) == last + 2


def test_in_a_layer_with_windows_a_patch_sees_its_own_window_alone(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    assert lvlm.config.vision.full_attention_layers == (1, 3)
    positive = {}

    def look(at: EncoderLayer) -> None:
        if at.layer < 3:
            positive[at.layer + 1] = int((at.patches.ahead().rows(slice(0, 1)) > 0)[0, 0, 0].sum())

    lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), [Watch(encoder=look)])
    assert positive == {1: 120, 2: 16, 3: 120}


def by_hand(lvlm: LVLM, hidden: torch.Tensor, size: torch.Tensor | None) -> torch.Tensor:
    """Attention of LLaVA's last encoder layer on features, from the published layer's formula."""
    layer: nn.Module = lvlm.dialect.vision_tower.vision_model.encoder.layers[-1]
    x, attn = layer.layer_norm1(hidden), layer.self_attn
    query, key = (proj(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for proj in (attn.q_proj, attn.k_proj))
    logit = query @ key.mT * query.shape[-1] ** -0.5
    return (logit if size is None else logit + size.log()[:, None, None]).softmax(-1)


@pytest.mark.parametrize("merged", [False, True])
def test_the_layer_that_llava_leaves_out_is_ahead_of_the_output(device: str, merged: bool) -> None:
    lvlm = LVLM.random(device=device)
    assert (lvlm.config.vision.num_hidden_layers, lvlm.config.encoder_layers) == (4, 3)
    found: list[tuple[Patches, Probe]] = []
    watch = Watch(output=lambda at: found.append((at.patches, at.patches.ahead())))
    stack = [ToMe(r=4), watch] if merged else [watch]
    trace = lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), stack).trace
    ((patches, probe),) = found
    assert (patches.size_FN is not None) == merged
    torch.testing.assert_close(probe.rows(), by_hand(lvlm, patches.hidden_FND, patches.size_FN), atol=1e-6, rtol=1e-5)
    assert len(trace.encoder_tokens) == 4  # the layer ahead did not run


def test_where_no_layer_is_left_or_patches_are_no_towers_it_is_refused(lvlm: LVLM) -> None:
    def refuse(at: EncoderOutput) -> None:
        with pytest.raises(Refusal, match=r"4 layers .* got layer 4"):
            at.patches.ahead(4)
        with pytest.raises(Refusal, match="got layer 1"):
            at.patches.ahead(1)
        with pytest.raises(Refusal, match="earlier technique"):
            replace(at.patches, upcoming=None).ahead()
        if lvlm.config.encoder_layers == 4:
            with pytest.raises(Refusal, match="no layer can be looked ahead to"):
                at.patches.ahead()

    lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=1), [Watch(output=refuse)])
