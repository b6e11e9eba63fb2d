"""ViSkip: where it looks, which round it skips, and answers that stay the target's."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
import torch

from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verdict, Verified
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.techniques.decoding.viskip import GatedDrafter, ViSkip, _Gate, vision_share

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


class Counting(Drafter):
    """Proposes token 1 and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def propose(self, tokens: Seq[int]) -> Proposal:
        self.calls.append(f"propose {len(tokens)}")
        return Proposal(torch.tensor([1]), torch.tensor([-1]), torch.tensor([[0.0, 1.0]]))

    def settle(self, verified: Verified) -> None:
        self.calls.append(f"settle {len(verified.proposal.token_M)}")


def test_the_share_is_a_mean_over_heads(device: str) -> None:
    rows = torch.tensor([[[[0.2, 0.3, 0.5]], [[0.6, 0.0, 0.4]]]], device=device)
    vision = torch.tensor([[[True, False, True]]], device=device)
    assert float(vision_share(rows, vision)) == pytest.approx((0.7 + 1.0) / 2)
    apart = torch.tensor([[[True, False, False], [False, True, True]]], device=device)
    assert float(vision_share(rows, apart)) == pytest.approx((0.2 + 0.4) / 2)
    assert float(vision_share(rows, torch.zeros_like(vision))) == 0


def test_it_is_the_last_row_that_counts() -> None:
    rows = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    assert float(vision_share(rows, torch.tensor([[[True, False]]]))) == 0.25


def test_after_a_round_without_drafts_comes_one_with_drafts() -> None:
    inner = Counting()
    gated = GatedDrafter(inner, 2)
    drafts, tokens = [], [5]
    for look in (True, True, False, True):
        proposal = gated.propose(tokens)
        drafts.append(len(proposal.token_M))
        if not gated.skips:
            gated.looks = look
        tokens.append(1)
        gated.settle(Verified(proposal, Verdict((), 1), torch.zeros(1, 2), ()))
    assert drafts == [1, 0, 1, 1]
    assert inner.calls == ["propose 1", "settle 1", "propose 3", "settle 1", "propose 4", "settle 1"]


def step(layer: int, new: int, asked: list[slice], *, prompt: bool = False) -> CacheStep:
    """The second of three entries is visual; the last row looks at it with 0.5."""
    rows = torch.tensor([[[[0.9, 0.1, 0.0], [0.2, 0.5, 0.3]]]])

    def rows_of(index: slice) -> torch.Tensor:
        asked.append(index)
        return rows[:, :, 2 - new :][:, :, index]

    place = torch.arange(3)[None, None]
    held = Held(torch.tensor([[[False, True, False]]]), place, place)
    return CacheStep(layer, 4, held, new, rows_of, lambda: (rows, rows), prompt)


def gate(threshold: float = 0.5) -> _Gate:
    made = _Gate(ViSkip(threshold=threshold))
    made.drafter = GatedDrafter(Counting(), 2)
    return made


@pytest.mark.parametrize("new", [1, 2])
def test_it_is_the_token_accepted_last_that_is_asked(new: int) -> None:
    for threshold, looks in ((0.5, True), (0.51, False)):
        asked: list[slice] = []
        made = gate(threshold)
        assert made.evict(step(3, new, asked)) is None
        assert made.drafter is not None
        assert made.drafter.looks is looks
        assert len(range(new)[asked[0]]) == 1


def test_only_the_last_layer_is_asked() -> None:
    asked: list[slice] = []
    made = gate()
    for layer in range(3):
        made.evict(step(layer, 2, asked))
    made.evict(step(3, 2, asked, prompt=True))
    assert asked == []
    assert made.drafter is not None
    made.drafter.skips = True
    made.evict(step(3, 2, asked))
    assert asked == []


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_are_the_targets_own_and_at_0_every_second_round_drafts(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=14)
    plain, result = lvlm.run(request), lvlm.run(request, [ViSkip(threshold=0.0, gamma=3)])
    trace = result.trace
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert trace.draft_lengths == [3, 0, 3, 0, 3][: trace.target_passes]
    assert trace.accepted_lengths == [3, 0, 3, 0, 3][: trace.target_passes]
    assert trace.kv_byte_end == plain.trace.kv_byte_end


def test_at_1_no_round_is_skipped(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=9), [ViSkip(threshold=1.0, gamma=3)]).trace
    assert trace.draft_lengths == [3, 3]


def test_a_request_without_a_picture_skips_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=9)
    words = request.keep_frames(torch.empty(0, dtype=torch.long))
    trace = lvlm.run(words, [ViSkip(threshold=0.01, gamma=3)]).trace
    assert trace.draft_lengths == [3, 3]


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds, with rounds that are skipped in between."""
    torch.manual_seed(3)
    target, seeds = LVLM(MICRO).eval(), 250
    torch.manual_seed(5)
    technique = ViSkip(threshold=0.3, gamma=1, draft=LVLM(MICRO).eval())
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=4, temperature=0.3)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"threshold": 1.1}, r"threshold must lie in \[0, 1\]"), ({"gamma": 0}, "gamma must be at least 1")],
)
def test_illegal_parameters_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViSkip(**arguments)  # type: ignore[arg-type]
