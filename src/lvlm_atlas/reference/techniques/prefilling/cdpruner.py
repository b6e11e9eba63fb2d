"""CDPruner: the patches that a determinantal point process, conditioned on the question, would most likely draw.

Paper: zhang2025cdpruner; code: Theia-4869/CDPruner, llava/model/llava_arch.py (`encode_images`) and
llava/model/multimodal_encoder/clip_encoder.py.

Symbols: T → `tokens`, relevance r → relevance_FN, the conditional kernel L = r S r → `kernel`.

Departs:
1. Where all patches are equally relevant they count alike; the code divides by zero. Gains that are rounding errors
   count as none (`greedy_map`), so that duplicates and zero vectors follow by place; the code takes roots of them.
2. Where T reaches the number of patches nothing is touched; the code fails above it, and keeps all at it.
3. Similarity is that of the adapter's tokens, so that all patches pass the adapter on the side and the kept ones once
   more; the code projects all once and drops tokens. They are the same, for the adapter takes each patch on its own.
4. The text is the whole prompt without its images; the code passes the question alone. Each piece of it ends with an
   end token; the code cuts the tokenised question, end token and all, into pieces of 77 and fills the last one up.
5. The last norm of the image tower, both projections and the text tower are those of a matcher of the model's width,
   with random weights unless trained ones are given; the code loads CLIP's. The image tower's layers are the model's.

As in the code, the least and the greatest relevance are those of all frames or tiles that are encoded together.

F frames, N patches without the class token, M pieces of text, K kept, D width of the LLM, P width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.diversity import greedy_map
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.trim import matcher_config


def relevance(patch_FNP: Tensor, text_MP: Tensor) -> Tensor:
    """How relevant each patch is to the text, (F, N), from just above 0 to just above 1.

    The mean over the pieces of *minus* their cosines, stretched between the least and the greatest of all frames:
    single patches of CLIP resemble a text the less, the more they show of it.

    Args:
        patch_FNP: patches in the shared space.
        text_MP: pieces of the text in the shared space.
    """
    raw_FN = -(unit(patch_FNP) @ unit(text_MP).mT).mean(dim=-1)
    span = raw_FN.max() - raw_FN.min()
    return ((raw_FN - raw_FN.min() + 1e-6) / span).where(span > 0, torch.ones_like(raw_FN))


def kernel(token_FND: Tensor, relevance_FN: Tensor) -> Tensor:
    """Cosine of each pair of tokens times the relevance of both: (F, N, N), float32 at least."""
    unit_FND = unit(token_FND).to(torch.promote_types(token_FND.dtype, torch.float32))
    kernel_FNN: Tensor = relevance_FN[:, :, None] * (unit_FND @ unit_FND.mT) * relevance_FN[:, None, :]
    return kernel_FNN


def cdpruner(token_FND: Tensor, relevance_FN: Tensor, tokens: int) -> Tensor:
    """Places (F, K) of the kept patches of each frame, ascending; K = min(`tokens`, N)."""
    keep = min(tokens, token_FND.shape[1])
    return greedy_map(kernel(token_FND, relevance_FN), keep).sort(dim=1).values


@dataclass(frozen=True)
class CDPruner(Technique):
    """At `encoder-output`: leaves `tokens` patches of each frame or tile, in the order of the image.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 128

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("image-text-matcher", "visual-features", "free-patches", "frames-apart")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run.

        Raises:
            Refusal: the encoder is none of CLIP's, which have a text tower.
        """
        vision = run.config.vision
        if not isinstance(vision, VisionConfig):
            raise Refusal(f"CDPruner needs an encoder that was trained beside a text tower, CLIP's, got {vision}")
        return Pruning(self, run, matcher_of(run, matcher_config(vision)))


@dataclass(frozen=True)
class Pruning:
    """CDPruner with the run, which has the question and the adapter, and the matcher of its model."""

    setting: CDPruner
    run: Run
    matcher: ImageTextMatcher

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token.

        Raises:
            Refusal: there is no text yet, as where frames of a session are seen before the question.
        """
        patches, text_T = at.patches, self.run.request.text_N
        hidden_FND = patches.hidden_FND[:, patches.prefix :]
        if self.setting.tokens >= hidden_FND.shape[1]:
            return patches
        if not len(text_T):
            raise Refusal("CDPruner chooses by the question, and these frames come without text; give both together")
        pieces = text_T.split(self.matcher.config.max_position_embeddings - 1)
        text_MP = torch.stack([self.matcher.embed_text(piece_T) for piece_T in pieces])
        relevance_FN = relevance(self.matcher.project(hidden_FND.float()), text_MP)
        kept_FK = cdpruner(self.run.target.adapt(hidden_FND), relevance_FN, self.setting.tokens)
        return replace(patches.keep(patches.prefix + kept_FK), prefix=0, attention=None)
