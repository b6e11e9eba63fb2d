"""FastVLM (self-speculative): the target's first layers draft, an imitation network stands in for the others.

Paper: bajpai2025fastvlm. Its abstract was read, and a public review that names the parts; the official code could not
be read.
Symbols: draft layers n → `exit_layer`; drafted tokens γ → `gamma`; imitation network I → `ImitationNetwork`.

Stand-in: the imitation network is trained to turn the hidden state after n layers into what the last ones make of it.
Here its weights are random, and its shape, which the abstract does not give, is that of a gated residual of two layers.

Departs:
1. Acceptance is the lossless rule of speculative sampling. The paper reports a minimal loss, which points to another
   rule, or to a target that training has moved.
2. A draft ends after γ tokens; a rule by which it would end earlier is not known from the abstract.

M tokens of a pass, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.early_exit import EarlyExitDrafter
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal


class ImitationNetwork(nn.Module):
    """From hidden states after the draft's layers to what would leave the last layer: a residual of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) → (M, D)."""
        out_MD: Tensor = hidden_MD + self.down(functional.silu(self.up(hidden_MD)))
        return out_MD


def imitation_loss(imitated_MD: Tensor, deep_LMD: Tensor) -> Tensor:
    """1 − cos between what imitates (M, D) and the mean of what the last L layers give, on average: its training.

    Args:
        imitated_MD: what the imitation network makes of the draft's hidden states.
        deep_LMD: hidden states of the layers that are imitated.
    """
    return 1 - functional.cosine_similarity(imitated_MD, deep_LMD.mean(0), dim=-1).mean()


@dataclass(frozen=True)
class FastVlmSelfSpeculative(Technique):
    """Self-speculation by early exit at `decode-loop`.

    Raises:
        ValueError: a parameter out of its range.
    """

    exit_layer: int = 8
    """Layers n that draft."""
    gamma: int = 4
    """Tokens γ drafted in a round."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "training-data", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "exit_layer", "gamma")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The first layers as the drafter of this request.

        Raises:
            Refusal: the model has no layer behind them.
        """
        run, request = at.run, at.run.request
        layers = run.config.text.num_hidden_layers
        if self.exit_layer >= layers:
            raise Refusal(
                f"a draft of {self.exit_layer} layers leaves none of the model's {layers} to verify it; exit earlier"
            )
        network = module_of(
            run, ("fastvlm-imitation", self.exit_layer), lambda: ImitationNetwork(run.config.text.hidden_size)
        )
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        drafter = EarlyExitDrafter(
            run.target, at.prefill.cache, self.exit_layer, self.gamma, request.distribution, generator, network
        )
        return Speculation(drafter, RejectionSampling())
