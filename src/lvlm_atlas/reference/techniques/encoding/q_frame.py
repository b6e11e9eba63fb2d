"""Q-Frame: frames drawn by how well they match the question; the best stay large, the next ones become smaller.

Paper: zhang2025qframe; code: xiaomi-research/q-frame, lmms_eval/models/qwen2_vl_w_qframe.py.

Symbols: max_num_frames → candidates, tau → temperature, high_frames, mid_frames and low_frames as there; the divisors
of the sides (2, 4 and 8 there) → high_scale, mid_scale, low_scale.

Departs:
1. Sides shrink to whole tokens of the model at once, rounded down, or to whole pixels where its tower has one size.
   Upstream rounds down to whole pixels, and the model's own processor then to the nearest whole tokens, four at least:
   that interpolates twice, and a side may be a token longer.
2. Frames are resized as tensors by the antialiased bicubic filter; upstream resizes pictures of 8 bits by Lanczos'.
3. A frame's size goes by its rank among the frames that are encoded, which a later technique may have thinned.
4. The candidates are evenly spaced among the frames of the request; upstream reads a frame a second at most.
5. The noise has the seed of the request and no terms of 10⁻¹⁰ in its logarithms, which are float64. Upstream's
   probabilities are float32: those that underflow to 0 are last, whatever their noise.
6. The matcher is CLIP-shaped with random weights, unless one is given; the paper's is Long-CLIP, which reads a text of
   248 tokens. The text is the whole prompt; upstream cuts out the question.

F frames, T candidates, K kept.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Frames, Pixels
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.places import even_places
from lvlm_atlas.reference.ops.sampling import gumbel

MOST = 8
"""The most by which a side may shrink: the least that the source shows its model."""


def rank(logit_F: Tensor, temperature: float, noise_F: Tensor) -> Tensor:
    """Places (F,) from the best to the worst, by ln softmax(logits / temperature) + noise; of equals the first.

    With standard Gumbel noise the best K are K draws from that softmax without replacement.
    """
    score_F = (logit_F.double() / temperature).log_softmax(dim=0) + noise_F
    return score_F.argsort(descending=True, stable=True)


def shrunk_size(height: int, width: int, factor: int, scale: int) -> tuple[int, int]:
    """Height and width of a frame whose sides are divided by `scale`, rounded down to multiples of f, one at least.

    Raises:
        ValueError: one side is over 200 times the other.
    """
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    if scale == 1:
        return rows * factor, columns * factor
    pixels = rows * columns * factor**2 / scale**2
    return smart_resize(height, width, factor, (pixels, pixels))


@dataclass(frozen=True)
class QFrame(Technique):
    """At `frames` and `pixels`: keeps frames that match the text, and resizes them by rank.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    candidates: int = 128
    temperature: float = 0.8
    high_frames: int = 4
    mid_frames: int = 8
    low_frames: int = 32
    high_scale: int = 2
    mid_scale: int = 4
    low_scale: int = 8
    matcher: ImageTextMatcher | None = None
    """Scores the frames; None takes the one that the model of the run keeps, see `matcher_of`."""

    acts_at: ClassVar = ("frames", "pixels")
    needs: ClassVar = ("image-text-matcher",)

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("high_frames", 1), ("mid_frames", 0), ("low_frames", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        for name in ("high_scale", "mid_scale", "low_scale"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} must be in 1..{MOST}, got {getattr(self, name)}")

    def begin(self, run: Run) -> Chooser:
        """What acts in this run."""
        return Chooser(replace(self, matcher=self.matcher or matcher_of(run)), run)


@dataclass
class Chooser:
    """What acts in a run: a setting, and the rank that it gave each frame of the round, by its place in the request."""

    setting: QFrame
    run: Run
    ranks: dict[int, int] = field(default_factory=dict)

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""
        chosen, frames = self.setting, len(at.request.frames_F3HW)
        pool_T = even_places(frames, chosen.candidates)
        pool = len(pool_T)
        order_T = torch.arange(pool)
        if pool > chosen.high_frames:  # else all are of the first size, and nothing need be scored
            noise_T = gumbel(pool, torch.Generator().manual_seed(at.request.seed))
            order_T = rank(self._logits(at, pool_T), chosen.temperature, noise_T)
        best_K = pool_T[order_T[: chosen.high_frames + chosen.mid_frames + chosen.low_frames]]
        asked_F = torch.arange(frames) if at.index_F is None else at.index_F
        self.ranks = {int(place): number for number, place in enumerate(asked_F[best_K])}
        return best_K.sort().values

    def resize(self, at: Pixels) -> tuple[Tensor, ...]:
        """The frames (3, H, W), each at the size of its rank among those that are encoded."""
        (height, width), factor = at.frames_F3HW.shape[-2:], self.run.config.vision.factor
        here_F = range(len(at.frames_F3HW)) if at.index_F is None else at.index_F.tolist()
        scales = self._scales()
        return tuple(
            _resized(frame_3HW, shrunk_size(height, width, factor, scales[place]))
            for frame_3HW, place in zip(at.frames_F3HW, here_F, strict=True)
        )

    def _scales(self) -> dict[int, int]:
        """By how much each encoded frame shrinks, by its place in the request."""
        chosen, encoded_K = self.setting, self.run.trace.frame_index
        places = [*self.ranks] if encoded_K is None else encoded_K.tolist()
        ends = [*accumulate((chosen.high_frames, chosen.mid_frames))]
        scales = (chosen.high_scale, chosen.mid_scale, chosen.low_scale)
        ordered = sorted(places, key=self.ranks.__getitem__)
        return {place: scales[bisect_right(ends, number)] for number, place in enumerate(ordered)}

    def _logits(self, at: Frames, pool_T: Tensor) -> Tensor:
        """Products (T,) of the frames with the text in their shared space, not normalised, on the host."""
        matcher, request = self.setting.matcher, at.request
        if matcher is None:
            raise ValueError("select_frames needs a matcher; give one, or call what `begin` returns")
        with torch.inference_mode():
            text_P = matcher.embed_text(request.text_N)
            runs = [matcher.embed_frames(frames_F3HW) for frames_F3HW in request.keep_frames(pool_T).runs]
            logit_T: Tensor = (torch.cat(runs) @ text_P).cpu()
        return logit_T


def _resized(frame_3HW: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(frame_3HW.shape[-2:]) == size:
        return frame_3HW
    out: Tensor = functional.interpolate(frame_3HW[None], size, mode="bicubic", antialias=True)
    return out[0]
