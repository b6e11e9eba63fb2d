"""EAGLE-3: which states are fused, what the head's layer reads and gives on, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import FeatureDraft
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, Verified
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop, LlmLayer, PrefillChunks
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.modules.fused_head import FusedHead
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.decoding.eagle_3 import Eagle3, fused_layers

CONFIG = PRESETS["tiny"].text


def begin(lvlm: LVLM, technique: Eagle3, *others: Technique) -> tuple[FeatureDraft, DecodeLoop]:
    run = lvlm.begin(random_request(lvlm.config, frames=1), [*others, technique])
    at = DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))
    drafter = technique.begin_decoding(at).drafter
    assert isinstance(drafter, GrowingTreeDrafter)
    assert isinstance(drafter.draft, FeatureDraft)
    return drafter.draft, at


@pytest.mark.parametrize(("layers", "three"), [(32, (2, 16, 29)), (28, (2, 14, 25)), (4, (2, 2, 1)), (1, (0, 0, 0))])
def test_the_layers_are_the_third_the_middle_and_the_third_from_the_end(layers: int, three: tuple[int, ...]) -> None:
    assert fused_layers(layers) == three


@torch.inference_mode()
def test_the_states_that_enter_three_layers_are_fused(device: str) -> None:
    """Against a pass of the target: the last feature of the prompt, and those of a round."""
    lvlm = LVLM.random(device=device)
    head = drawn(lambda: FusedHead(lvlm.config.text), device=device)
    give(lvlm, "eagle-3", head)
    draft, at = begin(lvlm, Eagle3())
    inputs, cache = at.prefill.inputs, at.prefill.cache
    states = [hidden[0] for hidden, _ in at.prefill.states]
    assert len(states) == 4
    torch.testing.assert_close(states[0], inputs.hidden_BND[0])
    torch.testing.assert_close(draft._known_KD[0], head.fc(torch.cat([states[2][-1], states[2][-1], states[1][-1]])))
    passed = lvlm.hidden_states(torch.tensor([5, 7]), cache)
    draft.read([5])
    draft.keep(0)
    draft.learn(Verified(Proposal.none(128), Verdict((0,), 9), torch.empty(0), passed))
    torch.testing.assert_close(draft._known_KD, head.fc(torch.cat([passed[2], passed[2], passed[1]], dim=-1)))


@torch.inference_mode()
def test_what_goes_on_is_the_feature_alone(device: str) -> None:
    head = drawn(lambda: FusedHead(CONFIG), device=device)
    embed, feature = torch.randn(2, 1, 3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0)).to(device)
    for weight in (head.layer.self_attn.o_proj.weight, head.layer.mlp.down_proj.weight):
        weight.zero_()
    x = head.enter(embed[0], feature[0])[None]
    query, key, value = head.project(x, torch.arange(3, device=device)[None])
    attended = torch.zeros(1, CONFIG.num_attention_heads, 3, CONFIG.head_dim, device=device)
    torch.testing.assert_close(head.finish(x, attended), feature)
    normed = torch.cat([head.layer.input_layernorm(embed), head.hidden_norm(feature)], dim=-1)
    expected = head.layer.self_attn.v_proj(normed)
    torch.testing.assert_close(value.transpose(1, 2).flatten(2), expected)
    assert query.shape[1] // key.shape[1] == CONFIG.num_attention_heads // CONFIG.num_key_value_heads


@torch.inference_mode()
def test_features_go_on_without_the_norm(device: str) -> None:
    """A head that passes its feature on: far from the norm's size, it arrives as it was."""
    lvlm = LVLM.random(device=device)
    head = drawn(lambda: FusedHead(lvlm.config.text), device=device)
    for weight in (head.layer.self_attn.o_proj.weight, head.layer.mlp.down_proj.weight):
        weight.zero_()
    head.fc.weight.mul_(50)
    give(lvlm, "eagle-3", head)
    draft, _ = begin(lvlm, Eagle3())
    known = draft._known_KD.clone()
    logits = draft.read([5])
    torch.testing.assert_close(draft._last_1D, known, rtol=1e-4, atol=1e-3)
    draft.guess(torch.tensor([7]), torch.tensor([-1]))
    torch.testing.assert_close(draft._feature_UD, known, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logits, head.lm_head(head.norm(known))[0], rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class DropHalf(Technique):
    """Drops every other vision token before the third layer of the target's LLM."""

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        sequence, vision = at.sequence, at.sequence.vision_places().shape[1]
        return sequence.keep_vision(torch.arange(0, vision, 2)[None]) if at.layer == 2 else sequence


@dataclass(frozen=True)
class Sevens(Technique):
    """Reads prompts by sevens."""

    acts_at: ClassVar = ("prefill-chunks",)

    def split_prompt(self, at: PrefillChunks) -> Tensor:
        whole, rest = divmod(at.sequence.length, 7)
        return torch.tensor([7] * whole + [rest] * bool(rest))


@torch.inference_mode()
def test_a_prompt_read_in_chunks_gives_the_same_draft_and_dropped_tokens_none(device: str) -> None:
    lvlm = LVLM.random(device=device)
    (whole, _), (chunked, _), (cut, at) = (
        begin(lvlm, Eagle3(), *others) for others in ((), (Sevens(),), (DropHalf(),))
    )
    torch.testing.assert_close(chunked.read([5]), whole.read([5]), rtol=1e-3, atol=1e-3)
    assert cut.store.length == whole.store.length - 1
    assert [hidden.shape[1] for hidden, _ in at.prefill.states] == [80, 80, 48, 48]
    assert torch.isfinite(cut.read([5])).all()


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_equal_the_targets_own(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [Eagle3(nodes=12, depth=3, top_k=4)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    rounds = result.trace.target_passes
    assert result.trace.draft_nodes == [12] * rounds
    assert result.trace.draft_passes == 3 * rounds
    assert result.trace.draft_tokens == result.trace.vision_tokens + result.trace.text_tokens


@pytest.mark.parametrize("name", ["nodes", "depth", "top_k"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Eagle3(**{name: 0})
