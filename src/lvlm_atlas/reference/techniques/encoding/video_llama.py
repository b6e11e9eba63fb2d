"""Video-LLaMA's Video Q-Former: learned queries read what a Q-Former leaves of each frame, and a video costs M tokens.

Paper: zhang2023videollama; code: DAMO-NLP-SG/Video-LLaMA, video_llama/models/video_llama.py (`init_video_Qformer`,
`encode_videoQformer_visual`), Qformer.py, processors/video_processor.py (`load_video`).

Symbols: num_video_query_token M → queries, num_query_token → frame_queries, max_frame_pos T → max_frames,
num_hidden_layers of the Video Q-Former → layers, of the image Q-Former → frame_layers.

Departs:
1. The features are those that the model's own adapter would get: LLaVA's without the class token, which the authors
   leave in, and of a CLIP encoder.
2. As many frames are read as there are positions; the authors' demonstrations read 8 of 32.
3. Where a model cuts a frame into tiles, each view counts as a frame; those behind the last position share it.
4. The branch for audio is not here.
5. The weights are random unless trained ones are given; dropout, which acts in training alone, is not here.

F frames, T positions, N patches, C their width, S features of all frames, M queries, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.contexts import Adapter, Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.qformer import QFormer
from lvlm_atlas.reference.refusal import Refusal


def evenly(frames: int, keep: int) -> Tensor:
    """The first frames (K,) of K = `keep` equal stretches, ascending: ⌊i · F / K⌋; all where there are no more."""
    kept = min(frames, keep)
    return torch.arange(kept) * frames // max(1, kept)


class VideoQFormer(nn.Module):
    """A Q-Former of each frame, a position for each frame, a Q-Former of all frames, and a linear layer to the LLM."""

    def __init__(self, channels: int, out: int, setting: VideoLlama) -> None:
        super().__init__()
        width, heads = setting.width, setting.heads
        self.vision_norm = nn.LayerNorm(channels)
        self.frame_qformer = QFormer(setting.frame_queries, width, heads, setting.frame_layers, channels)
        self.frame_position = nn.Embedding(setting.max_frames, width)
        self.video_qformer = QFormer(setting.queries, width, heads, setting.layers, width, cross_every=1)
        self.linear = nn.Linear(width, out)

    def forward(self, patch_FNC: Tensor) -> Tensor:
        """The frames of one video (F, N, C) → (1, M, D)."""
        token_FMD = self.frame_qformer(self.vision_norm(patch_FNC))
        place_F = torch.arange(len(token_FMD), device=patch_FNC.device).clamp(
            max=self.frame_position.num_embeddings - 1
        )
        placed_1SD = (token_FMD + self.frame_position(place_F)[:, None]).flatten(0, 1)[None]
        out: Tensor = self.linear(self.video_qformer(placed_1SD))
        return out


@dataclass(frozen=True)
class VideoLlama(Technique):
    """At `frames` and `adapter`: `queries` vision tokens of the whole video, however many frames it has.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `width` is no multiple of `heads`.
    """

    max_frames: int = 32
    queries: int = 32
    layers: int = 2
    frame_queries: int = 32
    frame_layers: int = 12
    width: int = 768
    heads: int = 12

    acts_at: ClassVar = ("frames", "adapter")
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "frames-apart")
    withholds: ClassVar = ("whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "max_frames", "queries", "layers", "frame_queries", "frame_layers", "width", "heads")
        if self.width % self.heads:
            raise Refusal(f"width must be a multiple of the {self.heads} heads, got {self.width}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(self, module_of(run, self, lambda: VideoQFormer(*widths, self)))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: VideoLlama
    adapter: VideoQFormer

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""
        return evenly(len(at.request.frames_F3HW), self.setting.max_frames)

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens of the whole video, as if of one frame (1, M, D)."""
        out_1MD: Tensor = self.adapter(at.hidden_FND)
        return out_1MD
