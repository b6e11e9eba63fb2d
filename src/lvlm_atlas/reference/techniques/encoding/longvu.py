"""LongVU: a cascade that fits a long video to a context: near-copies among frames go, frames that do not bear on the
question are stored coarsely, and tokens that repeat those at their place in an earlier frame are dropped.

Paper: shen2025longvu; code: Vision-CAIR/LongVU, longvu/cambrian_arch.py (`select_frame`,
`prepare_inputs_labels_for_multimodal`).

Symbols: tokenizer_model_max_length → context, threshold of `select_frame` → frame_threshold, drop_threshold → θ
(drop_threshold), lowres_token → low_side, window_size → window, 8 → chunk, 400 → max_frames, inference_max_length → 16.

Stand-in: DINOv2, by whose features frames are compared, is a small vision transformer with random weights.

Departs:
1. The Spatial Vision Aggregator, which joins SigLIP's and DINOv2's features to 12 × 12 tokens a frame, is not here: the
   model's own encoder and adapter give the tokens, as many as they give.
2. Coarse tokens are interpolated from vision tokens; in the code from what goes into the last layer of the projector.
3. Rows of a frame's grid get no learned newline, so that the budget in frames is that in tokens.
4. At most `max_frames` are left where the video is shorter than a window, too; the code limits longer ones alone.
5. Of frames that bear on the question equally the earlier one stays fine; the code leaves it to the backend.
6. Text behind the video is the question; where nothing follows it, all text is.

F frames, W frames of a window or chunk, T blocks of vision tokens (one a frame), N tokens of a block, M of a coarse
one, L text tokens, K kept, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.lvlm.tiles import resized
from lvlm_atlas.reference.lvlm.vision import VisionTransformer
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal

RESERVE = 16
"""Tokens of the context that are left for the answer."""
ENCODER = VisionConfig(
    image_size=28, patch_size=7, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
"""Shapes of the stand-in for DINOv2."""


def distinct_frames(feature_FND: Tensor, threshold: float, window: int) -> Tensor:
    """Which frames (F,) stay: of each window those whose mean cosine with all its frames is below a threshold.

    A frame's cosine with itself, 1, is part of the mean. The middle frame of a window, the later of two, always stays.

    Args:
        feature_FND: features of the patches of each frame, compared all together.
        threshold: of the mean.
        window: frames of a window; the last may have fewer.
    """
    stays = []
    for part_WC in feature_FND.flatten(1).split(window):
        unit_WC = part_WC / part_WC.norm(dim=1, keepdim=True)
        mean_W = (unit_WC @ unit_WC.T).mean(1)
        mean_W[len(part_WC) // 2] = 0
        stays.append(mean_W < threshold)
    return torch.cat(stays)


def thinned(index_K: Tensor, most: int) -> Tensor:
    """At most so many of these places, evenly spaced: those at ⌊i · K / most⌋."""
    kept = len(index_K)
    return index_K if kept <= most else index_K[[int(kept / most * i) for i in range(most)]]


def coarse(token_TND: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """The tokens (T, side², D) of a coarser grid, interpolated bilinearly between the centres of cells."""
    grid_TDRC = token_TND.float().mT.unflatten(2, grid)
    small = functional.interpolate(grid_TDRC, (side, side), mode="bilinear", align_corners=False)
    return small.flatten(2).mT.to(token_TND.dtype)


def relevance(token_TND: Tensor, text_LD: Tensor) -> Tensor:
    """The mean dot product (T,) of the tokens of each frame with the tokens of a text."""
    return (token_TND @ text_LD.T).mean((1, 2))


def fresh_tokens(token_TND: Tensor, threshold: float, chunk: int) -> Tensor:
    """Which tokens (T, N) stay: those less similar than a threshold to the one at their place in the first frame.

    Args:
        token_TND: vision tokens; of each chunk the first frame stays whole.
        threshold: of the cosine.
        chunk: frames of a chunk.
    """
    stays = []
    for part_WND in token_TND.split(chunk):
        cosine_WN = functional.cosine_similarity(part_WND[:1], part_WND, dim=-1)
        first_W1 = torch.arange(len(part_WND), device=token_TND.device)[:, None] == 0
        stays.append((cosine_WN < threshold) | first_W1)
    return torch.cat(stays)


def cut_tails(stays_TN: Tensor, chunk: int, most: int) -> Tensor:
    """Which tokens (T, N) stay where at most so many may: each chunk loses as many at its end, then the last one more.

    Args:
        stays_TN: which stay so far, on the host.
        chunk: frames of a chunk.
        most: tokens.
    """
    excess = int(stays_TN.sum()) - most
    if excess <= 0:
        return stays_TN
    parts = stays_TN.split(chunk)
    share = -(-excess // len(parts))
    left_TN = torch.cat([part & (_rank(part) <= int(part.sum()) - share) for part in parts])
    return left_TN & (_rank(left_TN) <= most)


def _rank(stays_TN: Tensor) -> Tensor:
    """How many (T, N) stay up to each place."""
    return stays_TN.flatten().long().cumsum(0).reshape(stays_TN.shape)


class FrameEncoder(nn.Module):
    """The stand-in for DINOv2: a vision transformer run to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(ENCODER)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """Frames of any size, float32 → patches (F, N, D), without the class token."""
        model, side = self.vision_model, ENCODER.image_size
        patches = Patches(model.pre_layrnorm(model.embeddings(resized(frames_F3HW, (side, side)))), prefix=1)
        for layer in model.encoder.layers:
            patches = layer(patches, lambda patches: patches, lambda _entries: None)
        out: Tensor = model.post_layernorm(patches.hidden_FND[:, 1:])
        return out


@dataclass(frozen=True)
class LongVU(Technique):
    """At `frames` and `adapter-output`: what a context holds of a video.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    context: int = 8192
    frame_threshold: float = 0.83
    drop_threshold: float = 0.8
    low_side: int = 8
    window: int = 16
    chunk: int = 8
    max_frames: int = 400

    acts_at: ClassVar = ("frames", "adapter-output")
    needs: ClassVar = (
        "one-position-axis",
        "visual-features",
        "whole-grid",
        "equal-frames",
        "frames-apart",
        "training-data",
    )
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "context", "low_side", "window", "chunk", "max_frames")
        if not 0 < self.frame_threshold <= 2:
            raise ValueError(f"frame_threshold must lie in (0, 2], got {self.frame_threshold}")
        if not -1 <= self.drop_threshold <= 2:
            raise ValueError(f"drop_threshold must lie in [-1, 2], got {self.drop_threshold}")

    def begin(self, run: Run) -> Any:
        """What acts in the run."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: LongVU
    run: Run

    @property
    def most(self) -> int:
        """Vision tokens that the context holds beside the text.

        Raises:
            Refusal: it holds none.
        """
        most = self.setting.context - len(self.run.request.text_N) - RESERVE
        if most < 1:
            raise Refusal(f"context must hold the text and {RESERVE} tokens more, got {self.setting.context}; raise it")
        return most

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending: all, unless they fill the context even if stored coarsely."""
        setting, frames = self.setting, len(at.request.frames_F3HW)
        if frames < max(1, self.most // setting.low_side**2):
            return torch.arange(frames)
        encoder = module_of(self.run, (FrameEncoder, ENCODER), FrameEncoder, dtype=torch.float32)
        feature_FND = torch.cat([encoder(part.to(self.run.target.device)) for part in at.request.runs])
        stays_F = distinct_frames(feature_FND, setting.frame_threshold, setting.window).cpu()
        return thinned(stays_F.nonzero()[:, 0], setting.max_frames)

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The vision tokens, no more than the context holds.

        Raises:
            Refusal: they are too many, and the frames have no grid of their own.
        """
        tokens, setting, most = at.tokens, self.setting, self.most
        if sum(tokens.lengths) <= most:
            return tokens
        fine, few, times = tokens.lengths[0], setting.low_side**2, len(tokens.blocks)
        grid = tokens.grid or (math.isqrt(fine), math.isqrt(fine))
        if {*tokens.lengths} != {math.prod(grid)}:
            raise Refusal("frames must stand on a grid each to be stored coarsely; leave it out, or give a video")
        token_TND = torch.stack([block.token_ND for block in tokens.blocks])
        if few < fine and times <= max(1, most // few):
            coarse_TMD = coarse(token_TND, grid, setting.low_side)
            if few * times <= most:
                return self._mixed(tokens, coarse_TMD, (most - few * times) // (fine - few))
            token_TND = coarse_TMD
        return self._dropped(tokens, token_TND, most)

    def _mixed(self, tokens: VisionTokens, coarse_TMD: Tensor, fine_frames: int) -> VisionTokens:
        """So many frames as they are, those that bear on the question most, and the others coarse."""
        request = self.run.request
        last = int(request.is_frame_N.nonzero()[-1])
        question_L = request.prompt_N[last + 1 :]
        text_LD = self.run.target.embed(question_L if len(question_L) else request.text_N)
        score_T = relevance(coarse_TMD, text_LD)
        stays = {*score_T.argsort(descending=True, stable=True)[:fine_frames].tolist()}
        pairs = enumerate(zip(tokens.blocks, coarse_TMD, strict=True))
        blocks = tuple(block if time in stays else Block(low_MD) for time, (block, low_MD) in pairs)
        return replace(tokens, blocks=blocks, grid=None)

    def _dropped(self, tokens: VisionTokens, token_TND: Tensor, most: int) -> VisionTokens:
        """Tokens that differ from those at their place in the first frame of a chunk, as many as the context holds."""
        stays_TN = fresh_tokens(token_TND, self.setting.drop_threshold, self.setting.chunk).cpu()
        stays_TN = cut_tails(stays_TN, self.setting.chunk, most)
        kept_KD = token_TND.flatten(0, 1)[stays_TN.flatten().nonzero()[:, 0].to(token_TND.device)]
        blocks = tuple(Block(part_ND) for part_ND in kept_KD.split(stays_TN.sum(1).tolist()))
        return replace(tokens, blocks=blocks, grid=None)
