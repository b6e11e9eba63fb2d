"""The gated delta rule: a state that forgets, and overwrites what a key stood for.

Source: yang2025gateddelta; code: huggingface/transformers, models/qwen3_next/modular_qwen3_next.py. In chunks it is
worked out here as the triangular system that the updates of a chunk solve.

B batch, H heads, N tokens, T tokens before them, S both, C tokens of a chunk, W width of a kernel, k channels of keys
and queries, v of values, c of a convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1, those near 0 shorter: x / √(x² + 1e-6)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def gated_delta(
    query_BHNk: Tensor,
    key_BHNk: Tensor,
    value_BHNv: Tensor,
    gate_BHN: Tensor,
    rate_BHN: Tensor,
    state_BHkv: Tensor,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """What each token reads (B, H, N, v), and the state behind the last.

    Token by token the state becomes e^g · S, then S + r · k (v − kᵀS)ᵀ, and qᵀS is read. Chunk by chunk: with γ the
    running sums of g, the updates u of a chunk solve (1 + A) U = r (V − e^γ K S), A below the diagonal being
    r_i e^(γ_i − γ_j) k_i · k_j.

    Args:
        query_BHNk: queries.
        key_BHNk: keys, of length 1.
        value_BHNv: values.
        gate_BHN: g, at most 0.
        rate_BHN: r, in [0, 1].
        state_BHkv: S before the first token.
        chunk_size: tokens that are taken at once; it changes no result.
    """
    read = []
    for start in range(0, query_BHNk.shape[2], chunk_size):
        part = slice(start, start + chunk_size)
        query, key, value = (x[:, :, part] for x in (query_BHNk, key_BHNk, value_BHNv))
        fallen_BHC, rate_BHC1 = gate_BHN[:, :, part].cumsum(-1), rate_BHN[:, :, part, None]
        # −∞ above the diagonal before the exponential, which could overflow there.
        above_CC = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).triu(1)
        between_BHCC = (fallen_BHC[..., :, None] - fallen_BHC[..., None, :]).masked_fill(above_CC, -torch.inf).exp()
        fallen_BHC1 = fallen_BHC.exp()[..., None]
        known = value - fallen_BHC1 * (key @ state_BHkv)
        system_BHCC = rate_BHC1 * between_BHCC * (key @ key.mT)
        update = torch.linalg.solve_triangular(system_BHCC, rate_BHC1 * known, upper=False, unitriangular=True)
        read.append(fallen_BHC1 * (query @ state_BHkv) + (between_BHCC * (query @ key.mT)) @ update)
        left_BHC1 = between_BHCC[..., -1, :, None]
        state_BHkv = fallen_BHC1[..., -1:, :] * state_BHkv + (left_BHC1 * key).mT @ update
    return torch.cat(read, dim=2), state_BHkv


def causal_convolution(x_BNc: Tensor, before_BTc: Tensor, kernel_cW: Tensor) -> Tensor:
    """SiLU of each channel's convolution over a token and those right before it: (B, N, c).

    Args:
        x_BNc: the tokens.
        before_BTc: the tokens before them, as many as the kernel is wide but for one.
        kernel_cW: the kernel, the oldest token first.
    """
    stretch_BcS = torch.cat([before_BTc, x_BNc], dim=1).mT
    return functional.silu(functional.conv1d(stretch_BcS, kernel_cW[:, None], groups=len(kernel_cW))).mT
