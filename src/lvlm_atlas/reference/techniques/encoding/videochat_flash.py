"""VideoChat-Flash, clip level: the patches of a few frames together are merged to few tokens before the adapter.

Paper: li2026videochatflash; code: OpenGVLab/VideoChat-Flash,
llava-train_videochat/llava/model/multimodal_projector/tome16_mlp_hd64.py (`ToMe16_mlp_hd64`).

Symbols: num_tome_tokens → `tokens_per_frame` · `clip_frames`, local_num_frames → `clip_frames`.

Departs:
1. The encoder is that of the model, and sees frames one by one; the authors' sees a clip at once.
2. The weights of the MLP are random unless trained ones are given.
3. Frames that fill no clip are refused, as the code fails on them.
4. Frames of no more patches than tokens are asked for are not merged; the code fails on them.
5. The drop inside the LLM, the video level, is PyramidDrop with shares of its own, and is stacked as that.

F frames, N patches of a frame, P = c N patches of a clip of c frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_wavg
from lvlm_atlas.reference.refusal import Refusal


def rounds(tokens: int, target: int) -> list[int]:
    """How many tokens each round removes, so that `target` of them are left; none removes more than half."""
    removed = []
    while tokens > target:
        removed.append(min(tokens - target, tokens // 2))
        tokens -= removed[-1]
    return removed


def merged(patch_BPD: Tensor, target: int, heads: int) -> Tensor:
    """Patches of clips (B, P, D), merged to `target` tokens each: means of all that a token stands for.

    Args:
        patch_BPD: what the encoder gives of each clip, frame after frame.
        target: tokens of a clip.
        heads: parts of the width over which the mean is what similarity is measured on.
    """
    tokens, sizes = patch_BPD, None
    for removed in rounds(patch_BPD.shape[1], target):
        metric = tokens.unflatten(2, (heads, -1)).mean(2)
        tokens, sizes = merge_wavg(bipartite_soft_matching(metric, removed), tokens, sizes)
    return tokens


@dataclass(frozen=True)
class VideoChatFlash(Technique):
    """At `adapter`: `tokens_per_frame` tokens for each frame, shared by the frames of a clip.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens_per_frame: int = 16
    clip_frames: int = 4

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "frames-apart")
    withholds: ClassVar = ("whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens_per_frame", "clip_frames")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        encoder, llm = run.config.vision.hidden_size, run.config.text.hidden_size

        def build() -> nn.Sequential:
            return nn.Sequential(nn.Linear(encoder, llm), nn.GELU(), nn.Linear(llm, llm))

        return _Acting(self, run, module_of(run, VideoChatFlash, build))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: VideoChatFlash
    run: Run
    projector: nn.Sequential

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F / c, c · min(`tokens_per_frame`, N), D) of each clip.

        Raises:
            Refusal: frames are left over, or are tiles of an image.
        """
        clip, wanted = self.setting.clip_frames, self.setting.tokens_per_frame
        frames, patches = at.hidden_FND.shape[:2]
        if frames % clip or (at.views and clip > 1):
            what = "tiles of an image are no frames" if at.views else f"it does not divide {frames} frames"
            raise Refusal(f"clip_frames {clip} joins frames of a video, and {what}; give 1")
        patch_BPD = at.hidden_FND.reshape(frames // clip, clip * patches, -1)
        out: Tensor = self.projector(
            merged(patch_BPD, clip * min(wanted, patches), self.run.config.vision.num_attention_heads)
        )
        return out
