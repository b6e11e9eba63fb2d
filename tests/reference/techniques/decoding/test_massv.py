"""MASSV: what the small model reads, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.techniques.decoding.massv import Massv, SeeingDrafter, SmallModel, words_of

MICRO = LVLMConfig(
    vision=VisionConfig(
        image_size=4, patch_size=2, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ),
    text=TextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    ),
    image_token_id=3,
)
"""Small enough to answer hundreds of requests in a test."""


@dataclass(frozen=True)
class DropVision(Technique):
    """Keeps the first vision tokens."""

    keep: int = 10
    acts_at: ClassVar = ("llm-input",)

    def llm_input(self, at: LlmInput) -> Sequence:
        return at.sequence.keep_vision(torch.arange(self.keep, device=at.sequence.hidden_BND.device)[None])


@dataclass(frozen=True)
class DropWord(Technique):
    """Drops the prompt's last token."""

    acts_at: ClassVar = ("llm-input",)

    def llm_input(self, at: LlmInput) -> Sequence:
        return at.sequence.keep(torch.arange(at.sequence.length - 1, device=at.sequence.hidden_BND.device)[None])


def drafter_of(lvlm: LVLM, layers: int = 1) -> SeeingDrafter:
    text = lvlm.config.text
    return drawn(
        lambda: SeeingDrafter(replace(text, num_hidden_layers=layers), text.hidden_size), seed=5, device=lvlm.device
    )


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@torch.inference_mode()
def test_words_are_the_drafters_own_embeddings(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=2))
    inputs = lvlm.prepare(run)
    drafter = drafter_of(lvlm)
    word = words_of(run, inputs)
    read = drafter.read(inputs, word)
    own = drafter.language_model.model.embed_tokens(word.to(device))
    assert torch.equal(read.hidden_BND[0, ~inputs.vision_BN[0]], own)
    target = lvlm.embed(word)
    assert torch.equal(inputs.hidden_BND[0, ~inputs.vision_BN[0]], target)
    assert not torch.allclose(own, target)


@torch.inference_mode()
def test_the_picture_reaches_the_drafter_through_the_projector(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=1))
    inputs, drafter = lvlm.prepare(run), drafter_of(lvlm)
    read = drafter.read(inputs, words_of(run, inputs))
    vision = inputs.vision_BN[0]
    expected = drafter.projector(inputs.hidden_BND[0, vision])
    torch.testing.assert_close(read.hidden_BND[0, vision], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@torch.inference_mode()
def test_the_drafter_reads_at_the_targets_positions(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=1))
    inputs, drafter = lvlm.prepare(run), drafter_of(lvlm)
    read = drafter.read(inputs, words_of(run, inputs))
    assert torch.equal(read.position_BN, inputs.position_BN)
    assert read.deepstack_BNLD is None
    filled = SmallModel(drafter.language_model, lvlm.device).prefill(read)
    assert torch.equal(filled.cache.next_position[0], lvlm.prefill(inputs).cache.next_position[0])


@torch.inference_mode()
def test_the_drafter_reads_what_is_left_of_the_vision_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=6)
    result = lvlm.run(request, [DropVision(), Massv(gamma=2, layers=1)])
    assert result.trace.draft_tokens == result.trace.text_tokens + 10
    assert torch.equal(result.tokens_N, lvlm.run(request, [DropVision()]).tokens_N)


def test_a_prompt_that_lost_words_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, text_tokens=6)
    with pytest.raises(Refusal, match="must read the prompt's 6 words, and 5 are left"):
        lvlm.run(request, [DropWord(), Massv(layers=1)])


@torch.inference_mode()
def test_a_small_model_reads_token_by_token_what_it_reads_at_once(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=1))
    inputs, drafter = lvlm.prepare(run), drafter_of(lvlm, layers=2)
    model = SmallModel(drafter.language_model, lvlm.device)
    read = drafter.read(inputs, words_of(run, inputs))
    one, two = model.prefill(read).cache, model.prefill(read).cache
    whole = model.step(torch.tensor([5, 6, 7]), one)
    parts = torch.cat([model.step(torch.tensor([token]), two) for token in (5, 6, 7)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert len(one.stores) == 2


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_are_the_targets_own_and_the_trace_counts_drafts(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=8)
    plain, result = lvlm.run(request), lvlm.run(request, [Massv(gamma=3, layers=1)])
    trace, rounds = result.trace, result.trace.target_passes
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert trace.draft_lengths == [3] * rounds
    assert trace.draft_passes == 3 * rounds
    assert trace.draft_tokens == trace.vision_tokens + trace.text_tokens
    assert len(trace.accepted_lengths) == rounds
    assert trace.layer_runs == plain.trace.layer_runs // plain.trace.target_passes * rounds


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds: it fails if the draft draws with the verifier's numbers, or p stands in for p − q."""
    torch.manual_seed(3)
    target, technique, seeds = LVLM(MICRO).eval(), Massv(gamma=2, layers=1), 250
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=3, temperature=0.3)
    count, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for seed in range(seeds):
        tokens = target.run(replace(request, seed=seed), [technique]).tokens_N.tolist()
        count[tokens[0], tokens[1]] += 1
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            row = target.step(torch.tensor([first]), prefill.cache)[0]
            expected[first] = distribution(row, 0.3) * distribution(prefill.logits_C, 0.3)[first] * seeds
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    assert 3 < int(likely.sum()) <= 12
    assert statistic < 31, "the 0.2 % point of 12 degrees of freedom"


@pytest.mark.parametrize("name", ["gamma", "layers"])
def test_illegal_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Massv(**{name: 0})
