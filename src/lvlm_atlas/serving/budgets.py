"""Budgets that keep a step below a limit, as HydraInfer's profiler finds them (hydrainfer/engine/profiler.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.serving.policy import Policy, Pool
from lvlm_atlas.serving.prices import Chunk, Prices
from lvlm_atlas.serving.vision import Piece

TPOT_S, APART_S = 0.4, 1.0
"""Limit of a step where none is asked for (batch_scheduler_profiler.yaml), and on instances that do not decode
(config/node/ep.yaml and p.yaml).
"""
MARGIN_S = 0.01
"""What a step stays below it."""
TOKENS, IMAGES = 2048, 8
"""The most that is tried."""
SIDE = 336
"""Sides of the image that is tried."""


def profiled(policy: Policy, pool: Pool, prices: Prices, tpot_s: float | None) -> Policy:
    """A policy with the largest budgets of tokens and images whose step on an instance of a pool keeps a limit.

    Args:
        policy: the rules.
        pool: the pool.
        prices: times of batches on its instances.
        tpot_s: the limit of the time per token; None: none was asked for.
    """
    limit_s = ((tpot_s or TPOT_S) if "decoding" in pool.stages else APART_S) - MARGIN_S
    photo = prices.shape(Workload(images=(Image(SIDE, SIDE),), text_tokens=1, output_tokens=1))
    text = prices.shape(Workload(text_tokens=TOKENS, output_tokens=1))
    tokens = largest(TOKENS, lambda count: prices.step([Chunk(text, 0, count)]).time_s < limit_s)
    images = largest(IMAGES, lambda count: prices.encode([Piece(photo, 1)] * count).time_s < limit_s)
    return replace(policy, token_budget=tokens, image_batch=images, encoder_budget=max(1, images * photo.vision))


def largest(most: int, keeps: Callable[[int], bool]) -> int:
    """The largest number up to the most that keeps a limit, found by halving; 1 where none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if keeps(middle):
            low = middle
        else:
            high = middle - 1
    return low
