"""HiMix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import turn
from lvlm_atlas.reference.techniques.prefilling.himix import HiMix, vision_first
from lvlm_atlas.reference.techniques.prefilling.random import RandomPruning


@dataclass(frozen=True)
class Watch(Technique):
    """Keeps what enters each layer."""

    seen: list[Sequence] = field(default_factory=list, compare=False)
    acts_at: ClassVar = ("llm-layer",)
    only_looks_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        self.seen.append(at.sequence)
        return at.sequence


@dataclass(frozen=True)
class Prompt(Technique):
    """Keeps the prompt as it was."""

    seen: list[Sequence] = field(default_factory=list, compare=False)
    acts_at: ClassVar = ("llm-input",)

    def llm_input(self, at: LlmInput) -> Sequence:
        self.seen.append(at.sequence)
        return at.sequence


def plain_loop(lvlm: LVLM, prompt: Sequence) -> Tensor:
    """Logits of the last token, token by token and head by head."""
    request = random_request(lvlm.config, frames=1)
    readings = lvlm.begin(request, [HiMix()]).acts.owner("projections").readings
    text, d = lvlm.config.text, lvlm.config.text.head_dim
    share = text.num_attention_heads // text.num_key_value_heads
    vision = prompt.hidden_BND[0][prompt.vision_BN[0]]
    x = prompt.hidden_BND[0][~prompt.vision_BN[0]]
    for layer, reading in zip(lvlm.language_model.layers, readings, strict=True):
        own, normed = layer.self_attn, layer.input_layernorm(x)
        angle = own.rotary.angles(torch.arange(len(x))[None], d, x.device)
        query, key = (
            turn(proj(normed).reshape(1, len(x), -1, d).transpose(1, 2), angle)[0] for proj in (own.q_proj, own.k_proj)
        )
        value = own.v_proj(normed).reshape(len(x), -1, d)
        rms = vision.square().mean(-1, keepdim=True).add(text.rms_norm_eps).rsqrt()
        under = reading.input_layernorm_img.weight * vision * rms
        keys, values = (proj(under).reshape(len(vision), -1, d) for proj in (reading.k_proj_img, reading.v_proj_img))
        rows = []
        for at in range(len(x)):
            heads = []
            for head in range(text.num_attention_heads):
                group = head // share
                key_S = torch.cat([keys[:, group], key[group, : at + 1]])
                value_S = torch.cat([values[:, group], value[: at + 1, group]])
                heads.append((key_S @ query[head, at] / d**0.5).softmax(0) @ value_S)
            rows.append(torch.cat(heads))
        x = x + own.o_proj(torch.stack(rows))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return lvlm.language_model.logits(x[None])[0, -1]


def test_a_run_is_that_of_a_plain_loop_over_the_layers() -> None:
    lvlm = LVLM.random()
    with torch.no_grad():  # norms of one would hide which of them is taken
        for layer in lvlm.language_model.layers:
            layer.input_layernorm.weight += torch.rand_like(layer.input_layernorm.weight)
    request, prompt = random_request(lvlm.config, frames=1, max_new_tokens=1), Prompt()
    result = lvlm.run(request, [prompt, HiMix()])
    with torch.inference_mode():
        wanted = plain_loop(lvlm, prompt.seen[0])
    torch.testing.assert_close(result.logits_NC[0], wanted, atol=1e-4, rtol=1e-4)


def test_text_before_the_image_sees_it(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=1)
    words = request.text_N
    behind = type(request)(
        frames_F3HW=request.frames_F3HW,
        prompt_N=torch.cat([words[:3], torch.tensor([lvlm.config.image_token_id]), words[3:]]),
        image_token_id=lvlm.config.image_token_id,
        max_new_tokens=1,
    )
    before = type(request)(
        frames_F3HW=request.frames_F3HW,
        prompt_N=torch.cat([torch.tensor([lvlm.config.image_token_id]), words]),
        image_token_id=lvlm.config.image_token_id,
        max_new_tokens=1,
    )
    one, two = (lvlm.run(each, HiMix()).logits_NC for each in (behind, before))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_vision_keys_are_not_turned_and_text_is_counted_alone() -> None:
    lvlm, prompt = LVLM.random(), Prompt()
    lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=1), [prompt])
    first = vision_first(prompt.seen[0])
    seen = int(prompt.seen[0].vision_BN.sum())
    assert first.silent == seen
    assert first.vision_BN[0].tolist() == [True] * seen + [False] * (first.length - seen)
    assert first.position_BN[0].tolist() == [0] * seen + list(range(first.length - seen))
    assert first.next_position.tolist() == [first.length - seen]
    assert sorted(first.index_BN[0].tolist()) == list(range(first.length))


def test_every_layer_reads_the_vision_sequence_as_it_came(device: str) -> None:
    lvlm, watch = LVLM.random(device=device), Watch()
    result = lvlm.run(random_request(lvlm.config, frames=1, max_new_tokens=1), [HiMix(), watch])
    silent = watch.seen[0].silent
    states = [each.hidden_BND[:, :silent] for each in watch.seen]
    assert all(torch.equal(states[0], each) for each in states[1:])
    heads, text = lvlm.config.text.num_attention_heads, watch.seen[0].length - silent
    assert result.trace.llm_silent_tokens == [silent] * len(watch.seen)
    assert result.trace.score_entries == [heads * (text * silent + text * (text + 1) // 2)] * len(watch.seen)
    assert not torch.equal(watch.seen[0].hidden_BND[:, silent:], watch.seen[1].hidden_BND[:, silent:])


def test_decoding_goes_on_as_prefill_would(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=5)
    result = lvlm.run(request, HiMix())
    longer = torch.cat([request.prompt_N, result.tokens_N[:-1].cpu()])
    whole = type(request)(
        frames_F3HW=request.frames_F3HW, prompt_N=longer, image_token_id=request.image_token_id, max_new_tokens=1
    )
    torch.testing.assert_close(result.logits_NC[-1], lvlm.run(whole, HiMix()).logits_NC[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(lvlm.run(request).logits_NC[0], result.logits_NC[0])


def test_pruned_vision_tokens_are_read_by_no_layer() -> None:
    lvlm, watch = LVLM.random(), Watch()
    lvlm.run(random_request(lvlm.config, frames=1), [RandomPruning(keep_ratio=0.5), HiMix(), watch])
    alone = lvlm.run(random_request(lvlm.config, frames=1), HiMix()).trace.llm_silent_tokens[0]
    assert {each.silent for each in watch.seen} == {alone // 2}
    fewer = watch.seen[0].keep(torch.arange(3, watch.seen[0].length)[None])
    assert fewer.silent == alone // 2 - 3


def test_positions_of_several_axes_are_refused() -> None:
    window = LVLM.random("tiny-window")
    with pytest.raises(Refusal, match="its positions have several axes"):
        window.run(random_request(window.config), HiMix())
