"""Multi-token prediction: the layer that a model was trained with to predict one token further drafts for it.

Papers: deepseek2024v3, sec. 2.2 (the module), as restated in public; module and drafting as in vllm2026,
`qwen3_5_mtp.py` (a model that sees) and `mimo_mtp.py`.
Symbols: `num_speculative_tokens`, γ → `gamma`; Emb(t), h → embedding and hidden state; M (`fc`, `eh_proj`,
`input_proj`) → `fc`; TRM → `layer`.

Stand-in: models with such a module were trained together with it. Here its weights are random, and its layer has the
shapes of the target's own.

Departs:
1. There is one module, which is applied again for each further token, as for Qwen3.5, MiMo and DeepSeek-V3 in vLLM;
   models with several use one after the other.
2. A row has the position of the token that it reads; vLLM gives it that of the hidden state, one less. With one axis of
   positions that is the same, with three it may differ at the borders of images.
3. Nothing is masked at position 0, as for Qwen3.5; for MiMo and DeepSeek the first embedding is set to 0.

M tokens of a pass, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.feature_chain import FeatureChainDrafter
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.decoder import Layer, RmsNorm
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry


class MultiTokenModule(nn.Module):
    """Embedding and hidden state, each under a norm of its own, joined to the width of a decoder layer; layer; norm.

    Args:
        config: shapes of the target's decoder.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.embedding_norm = RmsNorm(width, eps)
        self.hidden_norm = RmsNorm(width, eps)
        self.fc = nn.Linear(2 * width, width, bias=False)
        self.layer = Layer(config)
        self.norm = RmsNorm(width, eps)

    def enter(self, embed_MD: Tensor, hidden_MD: Tensor) -> Tensor:
        """What enters the layer (M, D) at tokens, from their embeddings and the hidden states before them."""
        out_MD: Tensor = self.fc(torch.cat([self.embedding_norm(embed_MD), self.hidden_norm(hidden_MD)], dim=-1))
        return out_MD

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `HeadLayer`."""
        return self.layer.project(x_BND, position_BN)

    def finish(self, x_BND: Tensor, attended_BHNd: Tensor) -> Tensor:
        """See `HeadLayer`: hidden states that the target's head reads, and the next application of the module."""
        out_BND: Tensor = self.norm(self.layer.finish(x_BND, attended_BHNd))
        return out_BND


@dataclass(frozen=True)
class MultiTokenPrediction(Technique):
    """Drafting by a module for multi-token prediction at `decode-loop`.

    Raises:
        ValueError: no token to draft.
    """

    gamma: int = 1
    """Tokens γ drafted in a round."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "training-data", "llm-states", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "gamma")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its module's cache filled with the whole prompt, pictures and all."""
        run, request = at.run, at.run.request
        module = module_of(run, "multi-token-module", lambda: MultiTokenModule(run.config.text))
        prompt = Prompt.of(run.target, at.prefill)
        rows_RD = module.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
        draft = FeatureDraft(run.target, module, module.enter, rows_RD, prompt.position_N[1:], prompt, run.trace)
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        return Speculation(FeatureChainDrafter(draft, self.gamma, request.distribution, generator), RejectionSampling())
