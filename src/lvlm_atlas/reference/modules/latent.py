"""Projections of multi-head latent attention, absorbed: one latent serves all heads as key and as value.

Source: deepseek2024v2, sec. 2.1; parameter names as published (transformers, models/deepseek_v3).

B batch, H heads, N tokens, D width, r rank of the latent, n channels of a key without position, p with position,
v channels of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.decoder import RmsNorm
from lvlm_atlas.reference.ops.attention import Rotary


def pairs_apart(x: Tensor) -> Tensor:
    """Channels 0, 2, 4, …, then 1, 3, 5, …: pairs of neighbours turn together here, those of two halves in `turn`."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)


class LatentProjections(nn.Module):
    """See `lvlm_atlas.reference.lvlm.decoder.Projecting`: attention of H heads over one shared key of r + p channels.

    Args:
        width: D.
        heads: H.
        nope: n.
        rope: p, even.
        value: v.
        rank: r.
        query_rank: of the latent of queries; 0 projects them directly.
        theta: base of the rotary embedding.
        eps: of the norms.
    """

    def __init__(
        self, width: int, heads: int, *, nope: int, rope: int, value: int, rank: int, query_rank: int, theta: float,
        eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.nope, self.rope, self.value_width, self.rank = heads, nope, rope, value, rank
        self.rotary = Rotary(theta)
        if query_rank:
            self.q_a_proj = nn.Linear(width, query_rank, bias=False)
            self.q_a_layernorm = RmsNorm(query_rank, eps)
            self.q_b_proj = nn.Linear(query_rank, heads * (nope + rope), bias=False)
        else:
            self.q_proj = nn.Linear(width, heads * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, rank + rope, bias=False)
        self.kv_a_layernorm = RmsNorm(rank, eps)
        self.kv_b_proj = nn.Linear(rank, heads * (nope + value), bias=False)
        self.o_proj = nn.Linear(heads * value, width, bias=False)
        self.query_rank = query_rank

    def __deepcopy__(self, memo: object) -> LatentProjections:
        """Copies of a session share the weights."""
        return self

    @property
    def up_Hxr(self) -> Tensor:  # noqa: N802 - names carry shapes
        """From the latent to keys without position and values of each head (H, n + v, r)."""
        weight: Tensor = self.kv_b_proj.weight
        return weight.reshape(self.heads, self.nope + self.value_width, self.rank)

    def query_key(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries (B, H, N, r + p) and the shared key (B, 1, N, r + p).

        The up-projection of keys is moved into the queries. They are scaled so that attention, which divides by the
        root of r + p, divides by that of n + p.

        Raises:
            ValueError: there are no positions, which a part of the key is turned by.
        """
        if position_BN is None:
            raise ValueError("latent keys are cached rotated; nothing may need `unrotated-keys` beside them")
        asked = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BND))) if self.query_rank else self.q_proj(x_BND)
        query_BHNx = asked.unflatten(2, (self.heads, -1)).transpose(1, 2)
        plain_BHNn, turned_BHNp = query_BHNx.split([self.nope, self.rope], dim=-1)
        absorbed_BHNr = plain_BHNn @ self.up_Hxr[:, : self.nope]
        turned_BHNp = self.rotary(pairs_apart(turned_BHNp), position_BN)
        latent_BNr, key_BNp = self.kv_a_proj_with_mqa(x_BND).split([self.rank, self.rope], dim=-1)
        latent_BNr = self.kv_a_layernorm(latent_BNr)
        key_B1Np = self.rotary(pairs_apart(key_BNp)[:, None], position_BN)
        scale = ((self.rank + self.rope) / (self.nope + self.rope)) ** 0.5
        query_BHNd = torch.cat([absorbed_BHNr, turned_BHNp], dim=-1) * scale
        return query_BHNd, torch.cat([latent_BNr[:, None], key_B1Np], dim=-1)

    def value(self, x_BND: Tensor, key_BGNd: Tensor) -> Tensor:  # noqa: ARG002 - keys have them
        """The latent (B, 1, N, r), the first channels of the key."""
        return key_BGNd[..., : self.rank]

    def output(self, attended_BHNr: Tensor) -> Tensor:
        """The mean latents of each head, up to values and to the width of the states (B, N, D)."""
        value_BHNv = attended_BHNr @ self.up_Hxr[:, self.nope :].mT
        out: Tensor = self.o_proj(value_BHNv.transpose(1, 2).flatten(2))
        return out
