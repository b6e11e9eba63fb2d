"""Softmax attention and rotary positions.

B batch, H query heads, G key-value heads, M queries, S keys, N tokens, A axes of a position, d head dimension, v that
of values, f = d/2 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional


def turn(x_BHNd: Tensor, angle_BNf: Tensor) -> Tensor:
    """Rotary position embedding, halves convention: (x1, x2) → (x1 cos − x2 sin, x2 cos + x1 sin).

    Args:
        x_BHNd: queries or keys.
        angle_BNf: d/2 angles of each token, float32; B may be 1.
    """
    cos_B1Nf, sin_B1Nf = (f(angle_BNf)[:, None].to(x_BHNd.dtype) for f in (torch.cos, torch.sin))
    first, second = x_BHNd.chunk(2, dim=-1)
    return torch.cat([first * cos_B1Nf - second * sin_B1Nf, second * cos_B1Nf + first * sin_B1Nf], dim=-1)


def frequencies(d: int, theta: float, device: torch.device) -> Tensor:
    """theta^(−2i/d) for i = 0 … d/2 − 1, float32."""
    exponent_f = torch.arange(0, d, 2, device=device, dtype=torch.float32) / d
    frequency_f: Tensor = theta**-exponent_f
    return frequency_f


def rotate(
    x_BHNd: Tensor, position_BN: Tensor, theta: float, sections: Sequence[int] = (), *, interleaved: bool = False
) -> Tensor:
    """`turn` by angles position · theta^(−2i/d).

    Args:
        x_BHNd: queries or keys.
        position_BN: position ids; (B, N, A) where a token has one on each of A axes.
        theta: base of the frequencies.
        sections: of the d/2 frequencies, how many follow the first axis, the second, …; they sum to d/2.
            Empty means that all follow the first.
        interleaved: frequency i follows axis i mod A while that axis has some left, then the first; else each axis
            has a block of neighbours, in order.
    """
    d, device = x_BHNd.shape[-1], x_BHNd.device
    return turn(x_BHNd, angles(position_BN, d, theta, sections, device, interleaved=interleaved))


def angles(
    position_BN: Tensor, d: int, theta: float, sections: Sequence[int], device: torch.device, *, interleaved: bool
) -> Tensor:
    """The d/2 angles (B, N, d/2) of each token, float32; arguments as in `rotate`."""
    on_axis_BNf = position_BN[..., None]
    if position_BN.dim() == 3:
        on_axis_BNf = position_BN[..., axes_of(d // 2, sections, device, interleaved=interleaved)]
    return on_axis_BNf.float() * frequencies(d, theta, device)


def axes_of(count: int, sections: Sequence[int], device: torch.device, *, interleaved: bool) -> Tensor:
    """The axis (d/2,) that each of `count` frequencies follows, sections as in `rotate`.

    Worked out on the device: a list of Python's would be copied there for every layer, and the host would wait.
    """
    i_f = torch.arange(count, device=device)
    if not interleaved:
        axis_f = torch.zeros_like(i_f)
        for end in accumulate(sections[:-1]):
            axis_f = axis_f + (i_f >= end)
        return axis_f
    axis_f = i_f % len(sections)
    for axis, end in enumerate(len(sections) * width for width in sections):
        if axis and end < count:
            axis_f = axis_f.where((axis_f != axis) | (i_f < end), 0)
    return axis_f


@dataclass(frozen=True)
class Rotary:
    """How a decoder turns queries and keys by their positions; see `rotate`."""

    theta: float
    sections: tuple[int, ...] = ()
    interleaved: bool = False

    def __call__(self, x_BHNd: Tensor, position_BN: Tensor) -> Tensor:
        """Queries or keys at these positions, (B, N) or (B, N, A)."""
        return turn(x_BHNd, self.angles(position_BN, x_BHNd.shape[-1], x_BHNd.device))

    def angles(self, position_BN: Tensor, d: int, device: torch.device) -> Tensor:
        """The angles (B, N, d/2) of tokens, which queries and keys share; see `angles`."""
        return angles(position_BN, d, self.theta, self.sections, device, interleaved=self.interleaved)


def share_heads(x_BGSd: Tensor, heads: int) -> Tensor:
    """Repeat each key-value head for its group of query heads: (B, G, S, d) → (B, H, S, d)."""
    return x_BGSd.repeat_interleave(heads // x_BGSd.shape[1], dim=1)


def mask_of_heads(mask_BGS: Tensor, heads: int) -> Tensor:
    """A mask of key-value heads for the query heads that share them: (B, H, S); (B, 1, S) where heads are alike."""
    groups = mask_BGS.shape[1]
    return mask_BGS if groups == 1 else mask_BGS.repeat_interleave(heads // groups, dim=1)


def attend(
    query_BHMd: Tensor,
    key_BGSd: Tensor,
    value_BGSv: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
) -> Tensor:
    """Softmax attention through torch's fused kernel; never forms the map. Returns (B, H, M, v).

    Args:
        query_BHMd: queries.
        key_BGSd: keys; G divides H, and shared heads are not copied.
        value_BGSv: values, perhaps of another width than keys.
        mask: (M, S) or what broadcasts to (B, H, M, S): True where a query may look, or what to add to the logits; None
            means everywhere.
        causal: each query looks at the keys up to its own place; M = S, no mask is formed or may be given.
    """
    return functional.scaled_dot_product_attention(
        query_BHMd,
        key_BGSd,
        value_BGSv,
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=query_BHMd.shape[1] != key_BGSd.shape[1],
    )


def with_bias(mask: Tensor | None, bias_BGS: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """A mask for `attend` that adds a bias to the logits of each key, and −∞ where a query may not look.

    Args:
        mask: (M, S) or (B, H, M, S), True where a query may look; None means everywhere.
        bias_BGS: of the keys; G one where heads are alike.
        heads: H.
        dtype: of the queries.
    """
    bias_BH1S = mask_of_heads(bias_BGS, heads)[:, :, None].to(dtype)
    return bias_BH1S if mask is None else torch.where(mask, bias_BH1S, float("-inf"))


def joined_bias(cached_BGS: Tensor | None, new_BN: Tensor | None, cached: int, new: int) -> Tensor | None:
    """Biases (B, G, cached + new) of keys that are read of a cache and of new ones behind them; None: none has any.

    Args:
        cached_BGS: of the former, None where none has any; G one where heads are alike.
        new_BN: of the latter.
        cached: how many are read.
        new: how many follow.
    """
    if cached_BGS is None:
        return None if new_BN is None else functional.pad(new_BN[:, None], (cached, 0))
    if new_BN is None:
        return functional.pad(cached_BGS, (0, new))
    return torch.cat([cached_BGS, new_BN[:, None].expand(-1, cached_BGS.shape[1], -1)], dim=2)


def attend_inside(query_BHNd: Tensor, key_BHNd: Tensor, value_BHNd: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Softmax attention (B, H, N, d) of tokens that see those of their own window alone.

    Args:
        query_BHNd: queries.
        key_BHNd: keys, as many heads.
        value_BHNd: values.
        groups: places (W, L) of the tokens of W windows of one size each; together they hold each token once.
    """
    out_BHNd = torch.empty_like(query_BHNd)
    for place_WL in groups:
        inside = [x[:, :, place_WL].transpose(1, 2) for x in (query_BHNd, key_BHNd, value_BHNd)]  # B, W, H, L, d
        attended = attend(*(x.flatten(0, 1) for x in inside))
        out_BHNd[:, :, place_WL] = attended.reshape(inside[0].shape).transpose(1, 2)
    return out_BHNd


def causal_mask(length: int, device: torch.device, cached: int = 0) -> Tensor:
    """(N, S), True where the key is not after the query; the first keys are `cached` ones that all queries see."""
    return torch.ones(length, cached + length, dtype=torch.bool, device=device).tril(cached)
