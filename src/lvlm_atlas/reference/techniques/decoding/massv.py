"""MASSV: a small language model becomes a drafter that sees, by a projector for the target's vision tokens.

Paper: ganesan2025massv. Its abstract was read; there is no official code.
Symbols: drafted tokens γ → `gamma`; the small language model's depth → `layers`.

Stand-in: the small model is one of the target's family, whose projector is trained first and which is then tuned on the
target's own answers to pictures. Here it has the target's shapes and fewer layers, and its weights and the projector's
are random.

Departs:
1. The projector stands behind the target's adapter, and takes over whatever techniques before the LLM left of the
   vision tokens; in the paper it takes the features of the target's encoder, as the target's own adapter does.
2. DeepStack features, which the target adds in its first layers, do not reach the drafter.
3. In a session the drafter reads the round's prompt alone.

M new tokens · N tokens · W words · D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.chain import ChainDrafter
from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.lvlm.prefill import prefill
from lvlm_atlas.reference.lvlm.step import advance
from lvlm_atlas.reference.lvlm.technique import Acts, Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal


class SeeingDrafter(nn.Module):
    """A small language model, and a projector of two layers from the target's vision tokens to its input.

    Args:
        config: shapes of the small model.
        width: of the target's vision tokens.
    """

    def __init__(self, config: TextConfig, width: int) -> None:
        super().__init__()
        self.language_model = LanguageModel(config)
        self.projector = nn.Sequential(
            nn.Linear(width, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )

    def read(self, inputs: Sequence, word_W: Tensor) -> Sequence:
        """The target's prompt as the small model reads it: its own embeddings of words, projected vision tokens.

        Args:
            inputs: the prompt at the target's LLM input.
            word_W: its words, in order.
        """
        vision_BN, embedding = inputs.vision_BN, self.language_model.model.embed_tokens
        hidden_BND = self.projector(inputs.hidden_BND)
        word_1WD = embedding(word_W.to(hidden_BND.device))[None]
        places_BND = (~vision_BN)[..., None].expand_as(hidden_BND)
        return replace(inputs, hidden_BND=hidden_BND.masked_scatter(places_BND, word_1WD), deepstack_BNLD=None)


@dataclass(frozen=True)
class SmallModel:
    """A language model as a draft uses it."""

    language_model: LanguageModel
    device: torch.device

    def prefill(self, inputs: Sequence) -> Prefill:
        """See `Target`."""
        return prefill(self.language_model, inputs, Acts(), Trace())

    def step(self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """See `Target`."""
        return advance(self.language_model, token_M[None], cache, parent_M)[0]


def words_of(run: Run, inputs: Sequence) -> Tensor:
    """The words (W,) of the prompt, in order.

    Raises:
        Refusal: a technique has dropped words or added others.
    """
    prompt = run.prompt
    word_W = torch.empty(0, dtype=torch.long) if prompt is None else prompt.ids_BN[0][~prompt.vision_BN[0]]
    here = inputs.length - inputs.vision_places().shape[1]
    if len(word_W) != here:
        raise Refusal(
            f"the drafter must read the prompt's {len(word_W)} words, and {here} are left; leave out what drops words"
        )
    return word_W


@dataclass(frozen=True)
class Massv(Technique):
    """MASSV at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    gamma: int = 4
    """Tokens γ drafted in a round."""
    layers: int = 2
    """Layers of the small language model."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "same-vocabulary",
        "training-data",
        "modality-mask",
        "vision-in-sequence",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "gamma", "layers")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The small model as the drafter of this request, prefilled with words and projected vision tokens.

        Raises:
            Refusal: as in `words_of`.
        """
        run, request, shape = at.run, at.run.request, at.run.config.text
        drafter = module_of(
            run,
            ("massv", self.layers),
            lambda: SeeingDrafter(replace(shape, num_hidden_layers=self.layers), shape.hidden_size),
        )
        prompt = drafter.read(at.prefill.inputs, words_of(run, at.prefill.inputs))
        model = cast("Target", SmallModel(drafter.language_model, run.target.device))
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        chain = ChainDrafter(Draft(model, prompt, run.trace), self.gamma, request.distribution, generator)
        return Speculation(chain, RejectionSampling())
