"""What dialects differ in: everything between pixels and the decoder.

B batch, F frames, T sequences of the encoder (a frame, a tile or a temporal patch), N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

from torch import Tensor, nn

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.prompt import Clip, Prompt


class Dialect(Protocol):
    """A vision tower, an adapter, and how a prompt holds what they give."""

    @property
    def adapter(self) -> nn.Module:
        """From the encoder's features (T, N, D_v) to vision tokens (T, N', D)."""

    @property
    def clips(self) -> Callable[..., tuple[Clip, ...]]:
        """A function of the fields that a published processor returns besides ids and mask: their frames.

        It raises ValueError where a field has a wrong shape, and TypeError for a field that is none of the dialect's.
        """

    def images(self, clips: Seq[Clip]) -> tuple[Tensor, ...]:
        """The images (3, H, W) of clips, as a request has them."""

    def split(self, request: Request) -> tuple[Clip, ...]:
        """The frames of a request, at sizes that the tower takes.

        Raises:
            Refusal: the frames of a video differ in size.
        """

    @property
    def offers(self) -> frozenset[str]:
        """Which of the needs that a model decides (`lvlm_atlas.needs.LACKS`) it meets."""

    def patches(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """What the tower makes of frames.

        Args:
            frames_F3HW: frames of one size.
            trace: counts the tokens that enter each layer and leave the last, and the attention that is read.
            between: what happens to the patches between attention and MLP of each layer.
            attending: what takes the place of each layer's attention; None leaves it.
        """

    def features(self, patches: Patches) -> Tensor:
        """What of it the adapter gets (T, N, D_v)."""

    def vision_tokens(self, token_TND: Tensor | tuple[Tensor, ...], patches: Patches, clip: Clip) -> VisionTokens:
        """What the adapter gives, in the blocks in which it stands in a prompt.

        Raises:
            ValueError: their number is none that the dialect has positions for.
        """

    def expand(self, request: Request, tokens: Seq[VisionTokens]) -> Tensor:
        """Token ids (1, N), a placeholder a vision token. `tokens` are those of each clip of `split`.

        Raises:
            ValueError: the prompt has not one placeholder a frame.
        """

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, tokens: Seq[VisionTokens]) -> Prompt:
        """The assembled prompt; clips stand in the order of their placeholders.

        Args:
            ids_BN: token ids, a placeholder a vision token.
            real_BN: False where a row is padded; None means nowhere.
            tokens: the vision tokens of each clip.

        Raises:
            ValueError: the places do not fit the clips.
        """
