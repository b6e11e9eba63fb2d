"""MSD: what enters the head of words and of vision tokens, and answers that stay the target's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.decoding.msd import Msd, decouple


def joined(embed: Tensor, feature: Tensor) -> Tensor:
    return 10 * embed + feature


EMBED = torch.arange(1.0, 7.0)[:, None].expand(6, 2)
FEATURE = torch.arange(100.0, 600.0 + 1, 100.0)[:, None].expand(6, 2)
VISION = torch.tensor([False, True, True, True, False, False])
"""A word, an image of three tokens, two words."""


def test_vision_tokens_enter_as_they_are(device: str) -> None:
    rows = decouple(joined, EMBED.to(device), FEATURE.to(device), VISION.to(device))
    assert rows[:, 0].tolist() == [110, 2, 3, 4, 550, 660]


def test_it_is_the_token_read_that_decides_and_not_the_place_of_the_feature() -> None:
    """Place i holds the feature of token i and reads token i + 1."""
    rows = decouple(joined, EMBED[1:], FEATURE[:-1], VISION[1:])
    assert rows[:, 0].tolist() == [2, 3, 4, 50 + 400, 60 + 500]


@torch.inference_mode()
def test_the_word_behind_an_image_stands_beside_its_last_feature(device: str) -> None:
    """The features of all other vision tokens leave the head as it is."""
    lvlm = LVLM.random(device=device)
    head = drawn(lambda: FeatureHead(lvlm.config.text), device=device)
    prefill = lvlm.prefill(lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1))))
    prompt = Prompt.of(lvlm, prefill)
    last = int(prompt.vision_N.nonzero().max())

    def rows(feature_ND: Tensor) -> Tensor:
        return decouple(head.enter, prompt.embed_ND[1:], feature_ND[:-1], prompt.vision_N[1:])

    inner, outer = prompt.feature_ND.clone(), prompt.feature_ND.clone()
    inner[prompt.vision_N] = 7.0
    inner[last] = prompt.feature_ND[last]
    outer[last] = 7.0
    assert torch.equal(rows(inner), rows(prompt.feature_ND))
    changed = (rows(outer) != rows(prompt.feature_ND)).any(-1).nonzero()[:, 0].tolist()
    assert changed == [last]
    assert not prompt.vision_N[last + 1]


@torch.inference_mode()
def test_the_head_of_a_run_reads_the_prompt_so(device: str) -> None:
    """With a projection to zeros and without attention it passes vision tokens on, and nothing of words."""
    lvlm = LVLM.random(device=device)
    head = drawn(lambda: FeatureHead(lvlm.config.text), device=device)
    head.fc.weight.zero_()
    give(lvlm, "msd", head)
    technique = Msd(nodes=2, depth=1, top_k=2)
    run = lvlm.begin(random_request(lvlm.config, frames=2), [technique])
    at = DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))
    drafter = technique.begin_decoding(at).drafter
    assert isinstance(drafter, GrowingTreeDrafter)
    assert isinstance(drafter.draft, FeatureDraft)
    key, value = drafter.draft.store.read()
    vision = at.prefill.inputs.vision_BN[0, 1:]
    assert not value[0].abs().sum((0, 2))[~vision].any()
    _, _, expected = head.layer.project(at.prefill.inputs.hidden_BND[:, 1:], None)
    torch.testing.assert_close(value[:, :, vision], expected[:, :, vision], rtol=1e-4, atol=1e-4)
    assert key.shape[2] == at.prefill.inputs.length - 1


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_equal_the_targets_own(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [Msd(nodes=12, depth=3, top_k=4)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    rounds = result.trace.target_passes
    assert result.trace.draft_nodes == [12] * rounds
    assert result.trace.draft_passes == 3 * rounds
    assert result.trace.draft_tokens == result.trace.vision_tokens + result.trace.text_tokens


@pytest.mark.parametrize("name", ["nodes", "depth", "top_k"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Msd(**{name: 0})
