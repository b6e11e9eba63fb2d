"""FLASH: a draft head that sees a picture as 64 latent tokens and drafts k tokens a pass.

Paper: wang2025flash; latent tokens, rows and head as in the official training code (`flash/model/llama_sar.py`:
`Model`, `LlamaSemiARHead`), k as in `flash/train/nar_config.json`.
Symbols: A, the learned queries → `query_CD`; C, latent tokens → `latents`; k → `block`.

Stand-in: the head's weights are random; the official ones are trained on the target's features.

Departs:
1. The released generation loop drafts a static tree with a plain layer over all vision tokens, and uses neither latent
   tokens nor blocks; here the head of the training file drafts a chain, block by block.
2. All vision tokens of a request are pooled together and stand where the first one does; the code has one image of 576.
   It also cuts the rows behind the image short, by as many as it pools away; here they stay.
3. Sampling is lossless: each token of a block is drawn from its own distribution, which knows no other token of it.
4. With fewer than four attention heads, keys and values have as many groups as there are heads.
5. Keys and values of the head are cached; in the file all rows are run anew.

M, N rows · C latent tokens · V vision tokens · H heads · G groups · J = G · H · K tokens of a block · W words ·
d head dimension · D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.blocks import BlockDraft, BlockDrafter
from lvlm_atlas.reference.drafting.features import Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import Rotary
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry

GROUPS = 4
"""Groups of keys and values."""
ROTARY = Rotary(10000.0)


def latent_tokens(query_CD: Tensor, feature_VD: Tensor) -> Tensor:
    """Latent tokens (C, D): means of the vision tokens' features (V, D), weighted by softmax of a query's products."""
    return (query_CD @ feature_VD.mT).softmax(-1) @ feature_VD


class SemiAutoregressiveHead(nn.Module):
    """Latent queries, the projection of words, one attention layer and an MLP that makes k features of one row.

    Each head attends to every group of keys and values, with a softmax a group; what it gets of them is summed.

    Args:
        width: D.
        heads: H; D / H must be even.
        block: k.
        latents: C.
    """

    def __init__(self, width: int, heads: int, block: int, latents: int) -> None:
        super().__init__()
        self.heads, self.groups, self.block, self.head_dim = heads, min(GROUPS, heads), block, width // heads
        self.query_CD = nn.Parameter(torch.zeros(latents, width))
        self.fc = nn.Linear(2 * width, width)
        self.q_proj = nn.Linear(width, heads * self.head_dim)
        self.k_proj = nn.Linear(width, self.groups * self.head_dim)
        self.v_proj = nn.Linear(width, self.groups * self.head_dim)
        self.o_proj = nn.Linear(heads * self.head_dim, width)
        self.ar_proj = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, block * width))

    def enter(self, embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
        """See `BlockHead`."""
        joined_MD: Tensor = self.fc(torch.cat([embed_MD, feature_MD], dim=-1))
        return joined_MD

    def rows(self, embed_ND: Tensor, feature_ND: Tensor, vision_N: Tensor) -> Tensor:
        """What enters the layer of a prompt: features alone before the picture, latent tokens, joined words behind it.

        Args:
            embed_ND: of the tokens.
            feature_ND: of the places before them.
            vision_N: True where the token is visual; on the host.
        """
        vision_V, words_W = (places_of(each) for each in (vision_N, ~vision_N))
        if len(vision_V) == 0:
            return self.enter(embed_ND, feature_ND)
        first = int(vision_V[0])
        behind_M = words_W[words_W > first].to(embed_ND.device)
        latent_CD = latent_tokens(self.query_CD, feature_ND[vision_V.to(embed_ND.device)])
        words_MD = self.enter(embed_ND[behind_M], feature_ND[behind_M])
        return torch.cat([feature_ND[:first], latent_CD, words_MD])

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `BlockHead`: queries (B, G · H, N, d), group by group all heads, keys and values (B, G, N, d)."""
        query, key, value = (
            proj(x_BND).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if position_BN is not None:
            query, key = ROTARY(query, position_BN), ROTARY(key, position_BN)
        return query.repeat(1, self.groups, 1, 1), key, value

    def predict(self, attended_BJNd: Tensor) -> Tensor:
        """See `BlockHead`: no residual and no norm, as in the official code."""
        summed_BHNd = attended_BJNd.unflatten(1, (self.groups, self.heads)).sum(1)
        out_BND = self.o_proj(summed_BHNd.transpose(1, 2).flatten(2))
        features: Tensor = self.ar_proj(out_BND).unflatten(-1, (self.block, -1))
        return features


@dataclass(frozen=True)
class Flash(Technique):
    """FLASH at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    latents: int = 64
    """Latent tokens C in the place of the vision tokens."""
    block: int = 5
    """Tokens k of a draft pass."""
    passes: int = 1
    """Draft passes in a round."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "training-data",
        "llm-states",
        "modality-mask",
        "vision-in-sequence",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "latents", "block", "passes")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with latent tokens and words."""
        run, request = at.run, at.run.request
        shape = run.config.text
        head = module_of(
            run,
            ("flash", self.latents, self.block),
            lambda: SemiAutoregressiveHead(shape.hidden_size, shape.num_attention_heads, self.block, self.latents),
        )
        prompt = Prompt.of(run.target, at.prefill)
        vision_N = prompt.vision_N.cpu()
        rows_RD = head.rows(prompt.embed_ND[1:], prompt.feature_ND[:-1], vision_N[1:])
        run.trace.draft_tokens = int((~vision_N).sum()) + (self.latents if bool(vision_N.any()) else 0)
        draft = BlockDraft(run.target, head, rows_RD, prompt.feature_ND[-1:], run.trace)
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        return Speculation(BlockDrafter(draft, self.passes, request.distribution, generator), RejectionSampling())
