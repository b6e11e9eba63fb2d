"""CAR: a short answer first, and the long reasoning only where its perplexity says that it is probably wrong.

Paper: lu2025car. Its abstract was read, and public reviews that restate its formulas; there is no official code.
Symbols: PPL → `perplexity`; μ_c, σ_c of right (c = 1) and wrong (c = 0) short answers → `Gaussian`; share of the right
ones → `share_right`; posterior P(c = 1 | PPL) → `Certainty.posterior`, which must reach `threshold`.

Stand-in: the paper's model is tuned on short and on reasoned answers, and is told by an instruction which to give. Any
model can be run here; what makes an answer short is then that it is cut after `short_tokens`.

Departs:
1. Without a judge, that is without reference answers, the three quarters of the samples with the least perplexity count
   as right when the Gaussians are fitted; the paper's pilot study has this quantile as its threshold.
2. Deviations are at least a thousandth of their mean, so that a class of one sample, or of none, can be fitted.
3. The long round starts from the prompt anew, as a new instruction asks; its first tokens do not repeat a prefill that
   an engine could share.
4. Where no more than `short_tokens` may be generated, nothing longer is left to ask for: there is no second round.

N samples or tokens, C vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.lvlm.contexts import Answer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.certainty import perplexity
from lvlm_atlas.reference.refusal import Refusal

LEAST_DEVIATION = 1e-3
"""Least standard deviation, in means."""
RIGHT_QUANTILE = 0.75
"""Share of the samples that counts as right where nobody judges them."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of perplexities."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, value_N: Tensor) -> Gaussian:
        """The maximum-likelihood fit of values (N,), one at least."""
        mean = float(value_N.mean())
        return cls(mean, max(float(value_N.std(correction=0)), LEAST_DEVIATION * abs(mean)))

    def log_density(self, value: float) -> float:
        """Log of the density, but for a constant that all Gaussians share."""
        return -math.log(self.deviation) - ((value - self.mean) / self.deviation) ** 2 / 2


@dataclass(frozen=True)
class Certainty:
    """What perplexities of short answers say about their being right."""

    right: Gaussian
    wrong: Gaussian
    share_right: float
    """Prior: share of the short answers that are right."""

    def posterior(self, value: float) -> float:
        """P(right | perplexity), by Bayes' rule."""
        if self.share_right in (0, 1):
            return self.share_right
        odds = math.log(self.share_right / (1 - self.share_right))
        odds += self.right.log_density(value) - self.wrong.log_density(value)
        return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1 + math.exp(odds))


def fit(perplexity_N: Tensor, right_N: Tensor) -> Certainty:
    """Both Gaussians and the prior, from perplexities (N,) of short answers and whether each was right (N,).

    Raises:
        ValueError: there is no sample.
    """
    if len(perplexity_N) == 0:
        raise ValueError("CAR is fitted to the perplexities of samples, got none; give it a few requests")
    share = float(right_N.double().mean())
    # A class without samples has no weight; its Gaussian is never asked.
    right, wrong = (Gaussian.of(each if len(each) else perplexity_N) for each in _halves(perplexity_N, right_N))
    return Certainty(right, wrong, share)


def _halves(value_N: Tensor, first_N: Tensor) -> tuple[Tensor, Tensor]:
    return value_N[first_N], value_N[~first_N]


@dataclass(frozen=True)
class Car(Technique):
    """Two rounds at most: a short answer, then a long one if the short one is probably wrong.

    Raises:
        ValueError: a parameter out of its range.
    """

    threshold: float = 0.5
    """Probability of being right with which a short answer is kept."""
    short_tokens: int = 32
    """Most tokens of a short answer."""
    judge: Callable[[Request, Tensor], bool] | None = field(default=None, repr=False)
    """Whether an answer (N,) to a sample is right; None: the least perplexities count as right."""
    calibration: Certainty | None = field(default=None, repr=False)
    """What was fitted to the model's short answers to samples."""

    acts_at: ClassVar = ("answer",)
    needs: ClassVar = ("training-data", "calibration-samples")

    def __post_init__(self) -> None:
        self.expect_shares("threshold")
        self.expect_at_least(1, "short_tokens")

    @torch.inference_mode()
    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        """The Gaussians of right and of wrong short answers that the model gives to the samples.

        Raises:
            ValueError: there is no sample.
        """
        answers = [short_answer(lvlm, sample, self.short_tokens) for sample in samples]
        value_N = torch.tensor([perplexity(logits_NC, token_N) for token_N, logits_NC in answers], dtype=torch.float64)
        if self.judge is None:
            right_N = value_N <= value_N.quantile(RIGHT_QUANTILE) if len(value_N) else value_N.bool()
        else:
            right_N = torch.tensor([self.judge(*each) for each in zip(samples, (a[0] for a in answers), strict=True)])
        return replace(self, calibration=fit(value_N, right_N))

    def answer(self, at: Answer) -> Result:
        """The short answer, or the long one if the short one is probably wrong and longer ones may be given."""
        request = at.run.request
        short = at.ask(replace(request, max_new_tokens=min(self.short_tokens, request.max_new_tokens)))
        if request.max_new_tokens <= self.short_tokens or self.trusts(short):
            return short
        return at.ask(request)

    def trusts(self, short: Result) -> bool:
        """Whether a short answer is right with the probability wanted.

        Raises:
            Refusal: nothing was fitted to the model yet.
        """
        if self.calibration is None:
            raise Refusal("CAR must know how sure right answers are; calibrate it on a few requests first")
        return self.calibration.posterior(perplexity(short.logits_NC, short.tokens_N)) >= self.threshold


def short_answer(lvlm: Target, request: Request, most: int) -> tuple[Tensor, Tensor]:
    """The model's greedy answer (N,), cut after so many tokens, and the logits (N, C) that it was chosen from."""
    run = lvlm.begin(request)
    prefill = lvlm.prefill(lvlm.prepare(run))
    rows = [prefill.logits_C]
    while len(rows) < min(most, request.max_new_tokens) and int(rows[-1].argmax()) not in run.config.eos_token_ids:
        rows.append(lvlm.step(rows[-1].argmax(-1, keepdim=True).cpu(), prefill.cache)[0])
    logits_NC = torch.stack(rows)
    return logits_NC.argmax(-1), logits_NC
