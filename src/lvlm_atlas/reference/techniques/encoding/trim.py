"""TRIM: the patches that CLIP's own text tower sets apart from the others, and one token that averages the rest.

Paper: song2025trim; code: FreedomIntelligence/TRIM, llava/model/multimodal_encoder/clip_encoder.py
(`token_reduction`).

Symbols: image tokens v → hidden_FND, in the shared space → patch_FNP, pooled text u → text_P, similarity after softmax
→ score_FN, the code's k → `adaptive` (−1) or `ratio`.

Departs:
1. With everything kept there is no rest, and nothing is changed; without any outlier the mean of all patches alone is
   left. The code fails in both cases.
2. Of equal scores the earlier patch is kept; the code's `topk` leaves that open. Quartiles are float64; the code's are
   NumPy's of float32.
3. The text is the whole prompt without its images; the code passes the question alone, without the template around
   it. It is cut at the end of CLIP's 77 positions, as in the code.
4. The last norm of the image tower, both projections and the text tower are those of a matcher of the model's width,
   with random weights unless trained ones are given; the code loads CLIP's. The image tower's layers are the model's.
5. The code's models are fine-tuned with it or not; here the model stays as it is.

As in the code, a share is found over all frames of a clip at once, so that each keeps as many tokens.

F frames, N patches without the class token, K kept, D width, P width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import SMALL, ImageTextMatcher, MatcherConfig, matcher_of
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.ops.places import mask_of, take
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def relevance(patch_FNP: Tensor, text_P: Tensor) -> Tensor:
    """Scores (F, N), a softmax over the patches of each frame of *minus* their dot product with the text.

    Single patches of CLIP respond the other way round: those of the background resemble the text most.
    """
    return (-(patch_FNP @ text_P)).softmax(dim=-1)


def reduce(hidden_FND: Tensor, score_FN: Tensor, keep: int) -> Tensor:
    """The `keep` patches of highest score in their order, then the mean of the others: (F, keep + 1, D).

    Args:
        hidden_FND: features of the patches.
        score_FN: what decides.
        keep: patches that stay, from 0 to N − 1, so that there are others.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    patches = hidden_FND.shape[1]
    if not 0 <= keep < patches:
        raise ValueError(f"keep must be in 0..{patches - 1}, so that one patch at least is averaged, got {keep}")
    kept_FK = top_places(score_FN, keep)
    rest_FN1 = ~mask_of(kept_FK, patches)[..., None]
    rest_FD = (hidden_FND * rest_FN1).sum(dim=1) / (patches - keep)
    return torch.cat([take(hidden_FND, kept_FK), rest_FD[:, None]], dim=1)


def matcher_config(vision: VisionConfig) -> MatcherConfig:
    """Shapes of the matcher for an encoder, the key under which the model keeps it.

    Without layers: those of the image tower are the encoder's own.
    """
    return replace(SMALL, vision=replace(vision, num_hidden_layers=0), text=SMALL.vision)


@dataclass(frozen=True)
class Trim(Technique):
    """At `encoder-output`: leaves K + 1 tokens of each frame or tile, the mean of the others last.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    adaptive: bool = True
    """Whether the outliers say how many patches stay; else `ratio` does."""
    iqr_factor: float = 1.5
    ratio: float = 0.21

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("image-text-matcher", "visual-features", "free-patches", "frames-apart")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(0, "iqr_factor")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

    def begin(self, run: Run) -> Reducing:
        """What acts in a run.

        Raises:
            Refusal: the encoder is none of CLIP's, which have a text tower.
        """
        vision = run.config.vision
        if not isinstance(vision, VisionConfig):
            raise Refusal(f"TRIM needs an encoder that was trained beside a text tower, CLIP's, got {vision}")
        return Reducing(self, run, matcher_of(run, matcher_config(vision)))


@dataclass(frozen=True)
class Reducing:
    """TRIM with the run, which has the question, and the matcher of its model."""

    setting: Trim
    run: Run
    matcher: ImageTextMatcher

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The reduced patches.

        Raises:
            Refusal: there is no text yet, as where frames of a session are seen before the question.
        """
        setting, patches, text_T = self.setting, at.patches, self.run.request.text_N
        if not setting.adaptive and setting.ratio == 1:
            return patches
        if not len(text_T):
            raise Refusal("TRIM chooses by the question, and these frames come without text; give both together")
        hidden_FND = patches.hidden_FND[:, patches.prefix :]
        score_FN = relevance(self.matcher.project(hidden_FND.float()), self.matcher.embed_text(text_T))
        ratio = outlier_ratio(score_FN, setting.iqr_factor) if setting.adaptive else setting.ratio
        keep = int(hidden_FND.shape[1] * ratio)
        return Patches(reduce(hidden_FND, score_FN, keep), prefix=0, place_FN2=_places(patches, score_FN, keep))


def _places(patches: Patches, score_FN: Tensor, keep: int) -> Tensor | None:
    """Row and column of each token that is left, −1 of the mean; None where they are not known."""
    if patches.place_FN2 is None:
        return None
    kept_FK2 = take(patches.place_FN2[:, patches.prefix :], top_places(score_FN, keep))
    return functional.pad(kept_FK2, (0, 0, 0, 1), value=-1)
