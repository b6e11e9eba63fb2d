"""TimeChat-Online's differential token drop (DTD): a vision token that the frame before has shown already is dropped.

Paper: yao2025timechatonline, project page; code: yaolinli/TimeChat-Online, eval/qwen2_5_vl/modeling_qwen2_5_vl_DTD.py
(`token_drop`).

Symbols: τ_feat, `drop_threshold` → `threshold`, `drop_absolute` → `absolute`.

Departs:
1. Tokens are compared on features alone; the mode that compares the pixels of patches is left out.
2. Frames are those of one clip. The code walks over all vision spans of a prompt, so that the first frame of a second
   video is compared with the last one of the first, and loses tokens.
3. Tokens go before positions are given, not behind: where positions follow the grid these are the same, elsewhere they
   count on without gaps.
4. Cosines are float32 and end at 1, so that a threshold of 1 keeps everything; rounding puts some of the code's above.
   Of equally similar tokens the earlier ones stay; its `topk` leaves that open.
5. Images of one size are treated as the frames of a video; the code takes one video.
6. The weights that the authors train under the drop, and the answers that the share dropped of each frame triggers, are
   no part of it.

T frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.ops.similarity import likeness_to_frame_before
from lvlm_atlas.reference.refusal import Refusal


def differential_mask(token_TND: Tensor, threshold: float, absolute: bool = True) -> Tensor:
    """True (T, N) at the tokens that stay: all of the first frame, of the others those that have changed.

    Each is compared with what stands at its place in the frame before, as that was before anything was dropped.

    Args:
        token_TND: the frames.
        threshold: the cosine above which a token goes, or the share of each later frame that does.
        absolute: which of the two `threshold` is.
    """
    likeness_tN = likeness_to_frame_before(token_TND).clamp(max=1)
    if absolute:
        stays_tN = likeness_tN <= threshold
    else:
        tokens = token_TND.shape[1]
        stays_tN = top_mask(-likeness_tN, tokens - int(tokens * threshold))
    return torch.cat([torch.ones_like(token_TND[:1, :, 0], dtype=torch.bool), stays_tN])


@dataclass(frozen=True)
class TimeChatOnline(Technique):
    """At `adapter-output`: drops vision tokens that resemble the one at their place a frame earlier.

    Raises:
        ValueError: `threshold` lies outside its range.
    """

    threshold: float = 0.5
    absolute: bool = True

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "whole-grid", "equal-frames", "frames-apart")
    withholds: ClassVar = ("whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        least = -1 if self.absolute else 0
        if not least <= self.threshold <= 1:
            what = "a cosine" if self.absolute else "a share, as absolute is off"
            raise ValueError(f"threshold must lie in [{least}, 1] ({what}), got {self.threshold}")

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens that stay, at their places in space and time.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        blocks, lengths = at.tokens.blocks, {*at.tokens.lengths}
        if len(lengths) > 1:
            raise Refusal(
                f"DTD compares frames token by token, these have {', '.join(map(str, sorted(lengths)))}; give frames "
                f"of one size"
            )
        if len(blocks) < 2 or self._keeps_all(*lengths):
            return at.tokens
        token_TND = torch.stack([block.token_ND for block in blocks])
        keep_TN = differential_mask(token_TND, self.threshold, self.absolute).cpu()
        return at.tokens.keep([keep_N.nonzero()[:, 0] for keep_N in keep_TN])

    def _keeps_all(self, tokens: int) -> bool:
        return self.threshold == 1 if self.absolute else int(tokens * self.threshold) == 0
