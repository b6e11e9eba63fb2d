"""From clips to the assembled prompt: what the encoder takes, and where vision tokens stand among the words.

B batch, F frames, T blocks of vision tokens (of a frame, a tiled image or a temporal patch), N tokens,
V vision tokens of all rows, A axes of a position, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.request import Request, placeholders_error
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block
from lvlm_atlas.reference.lvlm.tiles import Tiling


@dataclass(frozen=True)
class Clip:
    """Frames of one size, which the tower takes at once."""

    frames_F3HW: Tensor
    time_T: Tensor | None = None
    """Of a video, when each temporal patch was: in temporal position ids, not yet whole, or in seconds, as the
    dialect counts. None: stills."""
    tilings: tuple[Tiling, ...] = ()
    """Of tiled images, how each was cut into frames; they stand one after the other."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, a placeholder a vision token, and what stands there."""

    ids_BN: Tensor
    vision_BN: Tensor
    """True where a vision token stands."""
    vision_VD: Tensor
    """The vision tokens of all rows, in order."""
    position_BN: Tensor
    """Position ids; (B, N, A) where they have A axes."""
    real_BN: Tensor | None = None
    """False where a row is padded; None means nowhere."""
    span_lengths: tuple[int, ...] = ()
    """Vision tokens of each block, in the order of the prompt."""
    deepstack_VLD: Tensor | None = None
    """DeepStack features of the vision tokens, as in `Sequence`."""
    next_B: Tensor | None = None
    """As in `Sequence`: what follows a picture counts on from behind its longer side, not from its last token."""
    place_V3: Tensor | None = None
    """Frame, row and column of the vision tokens; None where they stand on no grid."""

    @property
    def spans(self) -> tuple[Tensor, ...]:
        """Places of each block's vision tokens in the prompt of a batch of one, ascending."""
        return torch.split(self.vision_BN[0].nonzero()[:, 0], list(self.span_lengths))

    @property
    def block_starts(self) -> list[int]:
        """Place of the first vision token of each block that has some, in a prompt of a batch of one."""
        return [int(place_N[0]) for place_N in self.spans if len(place_N)]

    @property
    def place_BN3(self) -> Tensor | None:  # noqa: N802 - names carry shapes
        """See `Sequence`; what `index_BN` or `index_BGS` point into."""
        if self.place_V3 is None:
            return None
        text_BN3 = self.place_V3.new_full((*self.vision_BN.shape, 3), -1)
        return text_BN3.index_put((self.vision_BN.to(text_BN3.device),), self.place_V3)

    def embed(self, embed_tokens: nn.Embedding) -> Sequence:
        """What the decoder reads.

        Raises:
            ValueError: there are not as many places as vision tokens.
        """
        device = embed_tokens.weight.device
        places, tokens = int(self.vision_BN.sum()), len(self.vision_VD)
        if places != tokens:
            raise places_error(places, tokens)
        vision_BN = self.vision_BN.to(device)
        hidden_BND = embed_tokens(self.ids_BN.to(device).masked_fill(vision_BN, 0))
        if tokens:
            hidden_BND = hidden_BND.index_put((vision_BN,), self.vision_VD.to(hidden_BND.dtype))
        place_BN = torch.arange(self.ids_BN.shape[1], device=device).expand(self.ids_BN.shape)
        real_BN = None if self.real_BN is None else self.real_BN.to(device)
        position_BN = self.position_BN.to(device)
        deepstack_BNLD = None
        if self.deepstack_VLD is not None:
            added_VLD = self.deepstack_VLD.to(hidden_BND)
            deepstack_BNLD = added_VLD.new_zeros(*vision_BN.shape, *added_VLD.shape[1:])
            deepstack_BNLD = deepstack_BNLD.index_put((vision_BN,), added_VLD)
        return Sequence(
            hidden_BND, position_BN, vision_BN, place_BN, real_BN=real_BN, origin_BN=position_BN,
            deepstack_BNLD=deepstack_BNLD, next_B=None if self.next_B is None else self.next_B.to(device),
            place_BN3=None if (at := self.place_BN3) is None else at.to(device),
        )  # fmt: skip


def places(blocks: Iterable[Block]) -> Tensor | None:
    """Block, row and column (V, 3) of the vision tokens of blocks; None if some are not known to stand on a grid."""
    parts = [torch.empty(0, 3, dtype=torch.long)]
    for number, block in enumerate(blocks):
        if block.place_N2 is None:
            return None
        parts.append(torch.nn.functional.pad(block.place_N2, (1, 0), value=number))
    return torch.cat(parts[1:] or parts)


def places_error(places: int, tokens: int) -> ValueError:
    """The error of a prompt that does not fit its clips."""
    return ValueError(f"the prompt has places for {places} vision tokens, the encoder gave {tokens}")


def real_tokens(attention_mask: Tensor | None) -> Tensor | None:
    """(B, N), True where a token is no padding; None if none is, so that no mask need be formed."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask.bool()


def places_in_text(ids_BN: Tensor, real_BN: Tensor | None) -> Tensor:
    """Position ids (B, N) on one axis: 0, 1, … from the first token that is no padding."""
    if real_BN is None:
        return torch.arange(ids_BN.shape[1], device=ids_BN.device).expand(ids_BN.shape)
    return (real_BN.long().cumsum(-1) - 1).clamp(min=0)


def expand(request: Request, tokens: Seq[int]) -> Tensor:
    """Token ids (1, N) of a request's prompt with each placeholder repeated for the vision tokens that stand there.

    Args:
        request: the request.
        tokens: vision tokens at each placeholder; at the last ones none, where there are fewer numbers than frames.

    Raises:
        ValueError: the prompt has not one placeholder a frame, or there are more numbers than frames.
    """
    prompt_N, is_frame_N, frames = request.prompt_N, request.is_frame_N, len(request.frames_F3HW)
    if int(is_frame_N.sum()) != frames:
        raise placeholders_error(int(is_frame_N.sum()), frames)
    repeat_N = torch.ones_like(prompt_N)
    repeat_N[is_frame_N] = torch.tensor(one_each(tokens, frames), dtype=prompt_N.dtype)
    return prompt_N.repeat_interleave(repeat_N)[None]


def one_each(tokens: Seq[int], frames: int) -> list[int]:
    """Vision tokens of each frame, none of the last ones where there are fewer numbers.

    Raises:
        ValueError: there are more numbers than frames.
    """
    if len(tokens) > frames:
        raise ValueError(f"there are {len(tokens)} blocks of vision tokens for {frames} frames; make one a frame")
    return [*tokens, *[0] * (frames - len(tokens))]
