"""The head of FLASH, which sees a picture as latent tokens and drafts several tokens a pass.

R rows of the head, K tokens of a block, D width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from lvlm_atlas.lab.parts.prompt_head import PromptHead
from lvlm_atlas.lab.parts.prompt_heads import OTHERWISE
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.features import Prompt
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.ops.attention import attend, causal_mask
from lvlm_atlas.reference.techniques.decoding.flash import Flash, SemiAutoregressiveHead


class BlockHeadTraining(PromptHead[SemiAutoregressiveHead]):
    """The head."""

    summary = "a draft head of one layer that sees a picture as latent tokens, and drafts five tokens a pass"
    departs = f"{OTHERWISE}, of each token of a block; the code weights them otherwise."
    technique = Flash()

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "flash", self.technique.latents, self.technique.block

    def empty(self, config: Config) -> SemiAutoregressiveHead:
        """See `PartTraining`."""
        text, technique = config.text, self.technique
        return SemiAutoregressiveHead(text.hidden_size, text.num_attention_heads, technique.block, technique.latents)

    def begun(self, head: SemiAutoregressiveHead) -> None:
        """See `PromptHead`."""

    def drafts(self, model: LVLM, head: SemiAutoregressiveHead, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`: of each row the k-th feature of the block that was drafted k rows before."""
        prompt = Prompt.of(model, read)
        rows_RD = head.rows(prompt.embed_ND[1:], prompt.feature_ND[:-1], prompt.vision_N[1:])
        query, key, value = head.project(rows_RD[None], torch.arange(len(rows_RD))[None])
        block_RKD = head.predict(attend(query, key, value, causal_mask(len(rows_RD), rows_RD.device)))[0]
        for place in range(block_RKD.shape[1]):
            yield torch.cat([block_RKD[:place, 0], block_RKD[: len(block_RKD) - place, place]])
