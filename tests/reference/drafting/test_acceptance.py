"""Any rule of acceptance judges any drafter's proposals, and answers stay the target's where the rule says so."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import one_hot

from lvlm_atlas.reference.drafting.acceptance import GreedyMatch, RejectionSampling
from lvlm_atlas.reference.drafting.chain import ChainDrafter
from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.early_exit import EarlyExitDrafter
from lvlm_atlas.reference.drafting.rounds import Acceptance, Drafter, Proposal, Speculation, Verified
from lvlm_atlas.reference.drafting.tree import TreeDrafter
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.sampling import draw

MICRO = LVLMConfig(
    vision=VisionConfig(
        image_size=4, patch_size=2, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ),
    text=TextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
    ),
    image_token_id=3,
)
"""Small enough to answer thousands of requests in a test."""
SHAPE = ((2,), (2, 1))


def micro(seed: int) -> LVLM:
    torch.manual_seed(seed)
    return LVLM(MICRO).eval()


def own(at: DecodeLoop, model: LVLM | None) -> Draft:
    run = at.run
    return Draft(*draft_prompt(model, run.target, run.request, run.techniques, at.prefill.inputs), run.trace)


def drawn(at: DecodeLoop) -> torch.Generator:
    return torch.Generator().manual_seed(~at.run.request.seed)


class DrawnTree(Drafter):
    """Two children of the root and two of the first, drawn from the draft one after the other."""

    def __init__(self, draft: Draft, request: Request, generator: torch.Generator) -> None:
        self.draft, self.request, self.generator = draft, request, generator

    def propose(self, tokens: Seq[int]) -> Proposal:
        root = self.request.distribution(self.draft.read(tokens))
        children = [draw(root, self.generator) for _ in range(2)]
        below = self.request.distribution(self.draft.guess(torch.tensor(children[:1]))[0])
        children += [draw(below, self.generator) for _ in range(2)]
        return Proposal(torch.tensor(children), torch.tensor([-1, -1, 0, 0]), torch.stack([root, root, below, below]))

    def settle(self, verified: Verified) -> None:
        self.draft.keep(0)


Make = Callable[[DecodeLoop, LVLM | None], Drafter]
DRAFTERS: dict[str, Make] = {
    "chain": lambda at, model: ChainDrafter(own(at, model), 3, at.run.request.distribution, drawn(at)),
    "unsure chain": lambda at, model: ChainDrafter(own(at, model), 3, at.run.request.distribution, drawn(at), 0.6),
    "tree": lambda at, model: TreeDrafter(own(at, model), SHAPE),
    "drawn tree": lambda at, model: DrawnTree(own(at, model), at.run.request, drawn(at)),
    "early exit": lambda at, _model: EarlyExitDrafter(
        at.run.target, at.prefill.cache, 1, 3, at.run.request.distribution, drawn(at)
    ),
}


@dataclass(frozen=True)
class Speculating(Technique):
    """A drafter and a rule, whichever."""

    make: Make
    acceptance: Acceptance = field(default_factory=RejectionSampling)
    draft: LVLM | None = None

    acts_at: ClassVar = ("decode-loop",)

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        return Speculation(self.make(at, self.draft), self.acceptance)


@pytest.mark.parametrize("acceptance", [RejectionSampling(), GreedyMatch()])
@pytest.mark.parametrize("kind", DRAFTERS)
def test_greedy_answers_are_the_targets_own_with_any_drafter_and_rule(
    kind: str, acceptance: Acceptance, device: str
) -> None:
    target, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(target.config, max_new_tokens=14)
    plain = target.run(request)
    for model in (None, draft):
        result = target.run(request, [Speculating(DRAFTERS[kind], acceptance, model)])
        assert torch.equal(plain.tokens_N, result.tokens_N)
        torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "temperature", "top_p"),
    [
        ("chain", 1.0, 0.8),
        ("unsure chain", 1.0, 1.0),
        ("tree", 0.7, 0.9),
        ("drawn tree", 0.5, 1.0),
        ("early exit", 0.3, 1.0),
    ],
)
def test_sampled_answers_are_distributed_as_the_targets(kind: str, temperature: float, top_p: float) -> None:
    """Chi-square of answers of three tokens over many seeds, with a draft that is not the target."""
    target, technique, seeds = micro(3), Speculating(DRAFTERS[kind], draft=micro(5)), 150
    base = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=3, temperature=temperature)
    request = replace(base, top_p=top_p)
    expected = likelihood(target, request) * seeds
    count = torch.zeros(4, 4, 4)
    for seed in range(seeds):
        answer = target.run(replace(request, seed=seed), [technique]).tokens_N.tolist()
        count[tuple(answer)] += 1
    assert not count[expected == 0].any(), "nothing outside of the nucleus"
    likely = expected > 4
    rest = torch.stack([(count - expected)[likely].square().div(expected[likely]).sum()])
    other = expected[~likely].sum()
    if other > 4:
        rest += (count[~likely].sum() - other).square() / other
    freedom = int(likely.sum())
    assert float(rest) < freedom + 3.5 * (2 * freedom) ** 0.5


def likelihood(target: LVLM, request: Request) -> torch.Tensor:
    """(4, 4, 4): how likely each answer of three tokens is under the target alone."""
    chance = torch.zeros(4, 4, 4)
    with torch.inference_mode():
        for one in range(4):
            for two in range(4):
                prefill = target.prefill(target.prepare(target.begin(request)))
                rows = request.distribution(target.step(torch.tensor([one, two]), prefill.cache))
                chance[one, two] = request.distribution(prefill.logits_C)[one] * rows[0, two] * rows[1]
    return chance


def test_relaxation_accepts_what_would_be_rejected_that_often() -> None:
    p, q = one_hot(torch.tensor([1, 2]), 4).float(), one_hot(torch.tensor([3]), 4).float()
    proposal = Proposal(torch.tensor([3]), torch.tensor([-1]), q)
    generator = torch.Generator().manual_seed(0)
    verdicts = [RejectionSampling(0.3).judge(proposal, p, generator) for _ in range(2000)]
    assert {(verdict.path, verdict.token) for verdict in verdicts} == {((), 1), ((0,), 2)}
    assert sum(verdict.path == (0,) for verdict in verdicts) / 2000 == pytest.approx(0.3, abs=0.035)


@pytest.mark.parametrize("relaxation", [-0.1, 1.5])
def test_a_relaxation_is_a_probability(relaxation: float) -> None:
    with pytest.raises(ValueError, match=r"relaxation must lie in \[0, 1\], got"):
        RejectionSampling(relaxation)


def test_an_unsure_draft_stops_early_and_keeps_the_token_it_was_unsure_of(device: str) -> None:
    target, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(target.config, max_new_tokens=14, temperature=1.0)

    def lengths(stop_below: float) -> list[int]:
        def make(at: DecodeLoop, model: Any) -> Drafter:
            return ChainDrafter(own(at, model), 4, request.distribution, drawn(at), stop_below)

        return target.run(request, [Speculating(make, draft=draft)]).trace.draft_lengths

    assert set(lengths(0.0)) == {4}
    assert set(lengths(1.1)) == {1}
    assert len(set(lengths(0.01))) > 1
