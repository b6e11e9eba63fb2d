"""VisionThink: the answer starts from a small image, and the model asks for the large one where it needs it.

Paper: yang2025visionthink; sizes and rounds as in the official code (`scripts/vllm_tool.py`: `downsample_image`,
`max_images=2`).
Symbols: reduction a side → `scale`; the tool call → `call_token`.

Stand-in: that the model knows when to ask is what its training by reinforcement teaches; any model can be run here, and
asks by the token with which published checkpoints begin a tool call, however good its judgement is.

Departs:
1. In the second round the large image takes the place of the small one; in the code it follows in a turn of its own,
   behind the small image and the model's call, so that N/4 more vision tokens and the first answer are read again.
2. The prompt is asked as it is; the code adds an instruction that describes the tool.
3. A call counts wherever its token stands in the first answer; the code parses the call and checks its format.
4. Frames shrink to the next whole pixel a side; the code then rounds to the encoder's multiples, as the dialect does.
5. At scale 1, which the code has not, nothing larger is left to ask for: there is no second round.

F frames, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.request import Result
from lvlm_atlas.reference.lvlm.contexts import Answer
from lvlm_atlas.reference.lvlm.technique import Technique

MOST = 3
"""The most by which a side may shrink here: of a smaller image encoders would see a few patches."""


def shrink(frames_F3HW: Tensor | tuple[Tensor, ...], scale: int) -> Tensor | tuple[Tensor, ...]:
    """Frames, of one size or images of several, with each side divided by `scale`; bicubic, antialiased.

    Sides are rounded up to whole pixels.
    """
    if isinstance(frames_F3HW, Tensor):
        return _shrink(frames_F3HW, scale)
    return tuple(_shrink(image_3HW[None], scale)[0] for image_3HW in frames_F3HW)


def _shrink(frames_F3HW: Tensor, scale: int) -> Tensor:
    size = tuple(math.ceil(side / scale) for side in frames_F3HW.shape[-2:])
    return functional.interpolate(frames_F3HW, size, mode="bicubic", antialias=True) if scale > 1 else frames_F3HW


def asks_for_more(token_N: Tensor, call_token: int) -> bool:
    """Whether an answer calls for the large image."""
    return bool((token_N == call_token).any())


@dataclass(frozen=True)
class VisionThink(Technique):
    """Two rounds at most: small frames, then large ones if the answer asks for them.

    Raises:
        ValueError: a parameter out of its range.
    """

    scale: int = 2
    """By how much each side shrinks in the first round."""
    call_token: int = 151657
    """Token by which the model asks; `<tool_call>` of Qwen2.5-VL."""

    acts_at: ClassVar = ("answer",)
    needs: ClassVar = ("training-data",)
    withholds: ClassVar = ("native-size",)

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= MOST:
            raise ValueError(f"scale must be in 1..{MOST}, got {self.scale}")
        self.expect_at_least(0, "call_token")

    def answer(self, at: Answer) -> Result:
        """The first answer, or the second if the first asks for more and there is more to be seen than at scale 1."""
        request = at.run.request
        first = at.ask(replace(request, frames_F3HW=shrink(request.frames_F3HW, self.scale)))
        return at.ask(request) if self.scale > 1 and asks_for_more(first.tokens_N, self.call_token) else first
