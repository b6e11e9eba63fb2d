"""From logits to a token: temperature, nucleus, draw; and from logits to several places, without replacement.

Top-p as in transformers2026, `TopPLogitsWarper`; of equal probabilities at the edge the later tokens stay.

C vocabulary, N places, K drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distribution(logits: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Next-token distribution (…, C) in float32: softmax(logits / T), or one-hot at the argmax if T = 0.

    Args:
        logits: (…, C).
        temperature: T.
        top_p: of the likeliest tokens the fewest whose probabilities reach this sum keep theirs, renormalised; 1: all.
    """
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probability = (logits.float() / temperature).softmax(-1)
    return nucleus(probability, top_p) if top_p < 1 else probability


def nucleus(probability: Tensor, top_p: float) -> Tensor:
    """Probabilities (…, C) with all but the nucleus set to 0, renormalised; the likeliest token always stays."""
    ascending = probability.sort(dim=-1, stable=True)
    outside = ascending.values.cumsum(-1) <= 1 - top_p
    outside[..., -1] = False
    kept = probability.masked_fill(outside.scatter(-1, ascending.indices, outside), 0)
    return kept / kept.sum(-1, keepdim=True)


def draw(probability_C: Tensor, generator: torch.Generator) -> int:
    """A token from a distribution. The draw is on the CPU, so that devices agree."""
    return int(torch.multinomial(probability_C.double().cpu(), 1, generator=generator))


def gumbel(places: int, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise −ln(−ln U), (N,), float64, drawn on the CPU.

    The place where logits and noise add up to the most is a draw from the softmax of the logits; the K best places are
    K draws without replacement, the best first.
    """
    uniform_N = torch.rand(places, generator=generator, dtype=torch.float64)
    return -(-uniform_N.clamp(min=torch.finfo(torch.float64).tiny).log()).log()


def draw_places(logit_N: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Places (K,) of K = `draws` different ones, in the order drawn: each from the softmax of the logits that are left.

    Args:
        logit_N: finite, on the CPU.
        draws: K, from 0 to N.
        generator: of the CPU.

    Raises:
        ValueError: `draws` lies outside that range.
    """
    if not 0 <= draws <= len(logit_N):
        raise ValueError(f"draws must be in 0..{len(logit_N)} (the places), got {draws}")
    return (logit_N.double() + gumbel(len(logit_N), generator)).argsort(descending=True, stable=True)[:draws]
