"""The checks of a smoke test: small functions of runs, each naming what it saw when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.trace import Trace

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.08, torch.float16: 0.01}
"""Largest difference of two logits that count as equal.

In half precision it is twice what rounding alone moves the logits of a preset, up to 0.036 in bfloat16 and 0.005 in
float16, for each of two runs may round in its own way. They are spread by about 1.
"""


@dataclass(frozen=True)
class Runs:
    """The runs that a trial's checks look at."""

    request: Request
    vocabulary: int
    tolerance: float
    baseline: Result
    """Without techniques."""
    result: Result
    """With the technique under trial."""
    again: Result
    """The same once more."""
    neutral: Result | None
    """With the technique at its neutral setting; None if it has none."""


def shapes(runs: Runs) -> str | None:
    """As many logits rows as tokens, each of the vocabulary's size; no more tokens than asked for."""
    tokens, logits = runs.result.tokens_N, runs.result.logits_NC
    if logits.shape != (len(tokens), runs.vocabulary):
        return f"{len(tokens)} tokens with logits of shape {tuple(logits.shape)}"
    if not 1 <= len(tokens) <= runs.request.max_new_tokens:
        return f"{len(tokens)} tokens where 1 to {runs.request.max_new_tokens} were asked for"
    return None


def finite(runs: Runs) -> str | None:
    """No logit is infinite or NaN."""
    bad = int((~runs.result.logits_NC.isfinite()).sum())
    return f"{bad} logits are not finite" if bad else None


def deterministic(runs: Runs) -> str | None:
    """Two runs under one seed are equal, token by token and bit by bit."""
    if not torch.equal(runs.result.tokens_N, runs.again.tokens_N):
        return f"tokens {runs.result.tokens_N.tolist()}, then {runs.again.tokens_N.tolist()}"
    if not torch.equal(runs.result.logits_NC, runs.again.logits_NC):
        return f"logits differ by up to {_distance(runs.result.logits_NC, runs.again.logits_NC):.3g}"
    return None


def neutral_is_identity(runs: Runs) -> str | None:
    """At its neutral setting, if it has one, the technique changes no answer."""
    return None if runs.neutral is None else answers_differ(runs.neutral, runs.baseline, runs.tolerance)


def kept_in_order(runs: Runs) -> str | None:
    """In every layer the kept tokens ascend, and so do each head's cache entries."""
    trace = runs.result.trace
    for what, layers in (("tokens", trace.kept), ("cache entries", trace.kv_index)):
        for layer, index in enumerate(layers):
            if bool(((index.diff(dim=-1) <= 0) & (index[..., :-1] >= 0)).any()):  # heads with fewer are padded by −1
                return f"{what} of layer {layer} do not ascend"
    if trace.frame_index is not None and bool((trace.frame_index.diff() <= 0).any()):
        return f"frames {trace.frame_index.tolist()} do not ascend"
    return None


def text_is_alive(runs: Runs) -> str | None:
    """Every text token reaches every layer."""
    trace = runs.result.trace
    for layer, (tokens, vision) in enumerate(zip(trace.llm_tokens, trace.llm_vision_tokens, strict=True)):
        if tokens - vision != trace.text_tokens:
            return f"layer {layer} sees {tokens - vision} of {trace.text_tokens} text tokens"
    return None


def never_grows(runs: Runs) -> str | None:
    """No layer sees more tokens than the layer before."""
    tokens = runs.result.trace.llm_tokens
    grown = [layer for layer, (before, after) in enumerate(pairwise(tokens), start=1) if after > before]
    return f"layers {grown} see more tokens than the layer before: {tokens}" if grown else None


def bites(runs: Runs) -> str | None:
    """The trial's setting changes something: a count of the trace or a logit."""
    mine, theirs = runs.result, runs.baseline
    same = counts(mine.trace) == counts(theirs.trace) and torch.equal(mine.logits_NC, theirs.logits_NC)
    return "the run does not differ from one without the technique" if same else None


CHECKS: Mapping[str, Callable[[Runs], str | None]] = {
    check.__name__.replace("_", "-"): check
    for check in (
        shapes,
        finite,
        deterministic,
        neutral_is_identity,
        kept_in_order,
        text_is_alive,
        never_grows,
        bites,
    )
}
"""Checks by name; each returns None, or what it saw."""


def answers_differ(mine: Result, theirs: Result, tolerance: float) -> str | None:
    """Where two answers differ, or None.

    Where two tokens lie closer than the tolerance, either may be chosen, and the answers are compared up to there.
    """
    for place, (ours, other) in enumerate(zip(mine.logits_NC, theirs.logits_NC, strict=False)):
        distance = _distance(ours, other)
        if distance > tolerance:
            return f"logits of token {place} differ by {distance:.3g}, more than {tolerance:g}"
        if mine.tokens_N[place] != theirs.tokens_N[place]:
            first, second = other.topk(2).values.tolist()
            tie = first - second <= 2 * tolerance
            return None if tie else f"token {place} differs, and the choice was not close"
    if len(mine.tokens_N) != len(theirs.tokens_N):
        return f"{len(mine.tokens_N)} tokens instead of {len(theirs.tokens_N)}"
    return None


def counts(trace: Trace) -> dict[str, object]:
    """The plain numbers of a trace."""
    return {f.name: getattr(trace, f.name) for f in fields(trace) if f.name not in ("kept", "kv_index", "frame_index")}


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
