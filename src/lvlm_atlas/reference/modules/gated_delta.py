"""A gated delta net: what takes the place of a layer's attention, its projections and its norm; names as published.

Source: yang2025gateddelta; code: huggingface/transformers, models/qwen3_next/modular_qwen3_next.py.

B batch, N tokens, D width, K key heads, H value heads (a multiple), k channels of a key, v of a value, W channels of a
token's entry: query, key and value of all heads before the convolution, the output's gate, and what rates and gates are
made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.decoder import RmsNorm
from lvlm_atlas.reference.ops.delta import causal_convolution, gated_delta, unit


@dataclass(frozen=True)
class DeltaState:
    """What is left of the tokens before."""

    sum_BHkv: Tensor
    before_BMc: Tensor
    """What enters the convolution of the last tokens, as many as its kernel is wide but for one."""

    @property
    def elements(self) -> int:
        """Numbers of one sequence."""
        return self.sum_BHkv[0].numel() + self.before_BMc[0].numel()


class GatedDeltaNet(nn.Module):
    """See `lvlm_atlas.reference.lvlm.decoder.Projecting`: queries and keys are the same entries, which `mixed` reads.

    Args:
        width: D.
        key_heads: K.
        value_heads: H.
        key_width: k.
        value_width: v.
        kernel: tokens that the convolution sees.
        eps: of the norm.
    """

    def __init__(
        self, width: int, *, key_heads: int, value_heads: int, key_width: int, value_width: int, kernel: int, eps: float
    ) -> None:
        super().__init__()
        self.key_heads, self.value_heads, self.kernel = key_heads, value_heads, kernel
        self.key_width, self.value_width = key_width, value_width
        keys, values = key_heads * key_width, value_heads * value_width
        self.channels = 2 * keys + values
        self.conv1d = nn.Conv1d(self.channels, self.channels, kernel, groups=self.channels, bias=False)
        self.in_proj_qkvz = nn.Linear(width, 2 * keys + 2 * values, bias=False)
        self.in_proj_ba = nn.Linear(width, 2 * value_heads, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(value_heads))
        self.A_log = nn.Parameter(torch.zeros(value_heads))
        self.norm = RmsNorm(value_width, eps)
        self.out_proj = nn.Linear(values, width, bias=False)

    def __deepcopy__(self, memo: object) -> GatedDeltaNet:
        """Copies of a session share the weights."""
        return self

    def query_key(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The entries (B, 1, N, W), twice. Order says what position says elsewhere."""
        shared = self.value_heads // self.key_heads
        # The published layout: head by head query, key, then value and gate of the value heads that share them.
        parts = [self.key_width, self.key_width, shared * self.value_width, shared * self.value_width]
        mixed = self.in_proj_qkvz(x_BND).unflatten(2, (self.key_heads, -1)).split(parts, dim=-1)
        steered = self.in_proj_ba(x_BND).unflatten(2, (self.key_heads, -1)).chunk(2, dim=-1)
        entry = torch.cat([x.flatten(2) for x in (*mixed, *steered)], dim=-1)
        return entry[:, None], entry[:, None]

    def value(self, x_BND: Tensor, key_BGNd: Tensor) -> Tensor:  # noqa: ARG002 - entries hold all
        """Nothing (B, 1, N, 0)."""
        return key_BGNd[..., :0]

    def empty(self, entry_B1NW: Tensor) -> DeltaState:
        """The state of no token."""
        batch = len(entry_B1NW)
        return DeltaState(
            entry_B1NW.new_zeros(batch, self.value_heads, self.key_width, self.value_width),
            entry_B1NW.new_zeros(batch, self.kernel - 1, self.channels),
        )

    def mixed(self, entry_B1NW: Tensor, state: DeltaState, chunk_size: int) -> tuple[Tensor, DeltaState]:
        """What tokens read behind a state, normed and gated (B, H, N, v), and the state behind them."""
        values = self.value_heads * self.value_width
        raw_BNc, gate_BNx, rate_BNH, step_BNH = entry_B1NW[:, 0].split(
            [self.channels, values, self.value_heads, self.value_heads], dim=-1
        )
        convolved = causal_convolution(raw_BNc, state.before_BMc, self.conv1d.weight[:, 0])
        keys = self.key_heads * self.key_width
        parts = convolved.float().split([keys, keys, values], dim=-1)
        query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x, heads in zip(
            parts, (self.key_heads, self.key_heads, self.value_heads), strict=True
        ))  # fmt: skip
        shared = self.value_heads // self.key_heads
        query, key = (unit(x).repeat_interleave(shared, dim=1) for x in (query, key))
        fall_BNH = -self.A_log.float().exp() * functional.softplus(step_BNH.float() + self.dt_bias.float())
        read, sum_BHkv = gated_delta(
            query * self.key_width**-0.5, key, value, fall_BNH.mT, rate_BNH.mT.sigmoid().float(),
            state.sum_BHkv.float(), chunk_size,
        )  # fmt: skip
        gate = gate_BNx.unflatten(2, (self.value_heads, -1)).transpose(1, 2)
        out = (self.norm(read.to(gate.dtype)).float() * functional.silu(gate.float())).to(gate.dtype)
        before_BMc = torch.cat([state.before_BMc, raw_BNc], dim=1)[:, raw_BNc.shape[1] :]
        return out, DeltaState(sum_BHkv.to(entry_B1NW.dtype), before_BMc)

    def output(self, attended_BHNv: Tensor) -> Tensor:
        """What was read, to the width of the states (B, N, D)."""
        out: Tensor = self.out_proj(attended_BHNv.transpose(1, 2).flatten(2))
        return out
