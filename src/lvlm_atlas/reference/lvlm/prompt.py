"""From clips to the assembled prompt: what the encoder takes, what it gives, where it stands among the words.

B batch, F frames, T units that the encoder takes on their own (a frame, or a temporal patch), N tokens,
V vision tokens of all rows, A axes of a position, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Sequence


@dataclass(frozen=True)
class Clip:
    """Frames of one size, which the tower takes at once."""

    frames_F3HW: Tensor
    time_T: Tensor | None = None
    """Of a video, when each temporal patch was: in temporal position ids, not yet whole, or in seconds, as the
    dialect counts. None: stills."""


@dataclass(frozen=True)
class Seen:
    """What encoder and adapter made of a clip."""

    tokens_TND: Tensor
    grid: tuple[int, int] | None = None
    """Rows and columns of a unit's tokens, where positions tell them; else None."""
    time_T: Tensor | None = None
    """As in `Clip`."""
    deepstack_TNLD: Tensor | None = None
    """As in `Patches`."""
    place_TN2: Tensor | None = None
    """Row and column of each token among those of its unit; None where they stand on no grid."""

    @property
    def span_lengths(self) -> tuple[int, ...]:
        """Vision tokens of each unit."""
        return (self.tokens_TND.shape[1],) * self.tokens_TND.shape[0]

    def apart(self) -> Iterator[Seen]:
        """Each unit on its own, its time forgotten: the stills of a clip."""
        for unit in range(len(self.tokens_TND)):
            deepstack_TNLD = None if self.deepstack_TNLD is None else self.deepstack_TNLD[unit, None]
            place_TN2 = None if self.place_TN2 is None else self.place_TN2[unit, None]
            yield Seen(self.tokens_TND[unit, None], self.grid, deepstack_TNLD=deepstack_TNLD, place_TN2=place_TN2)


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
    """Vision tokens of each unit (a frame, or a temporal patch of a video), in the order of the prompt."""
    deepstack_VLD: Tensor | None = None
    """DeepStack features of the vision tokens, as in `Sequence`."""
    place_V3: Tensor | None = None
    """Frame, row and column of the vision tokens; None where they stand on no grid."""

    @property
    def spans(self) -> tuple[Tensor, ...]:
        """Places of each unit's vision tokens in the prompt of a batch of one, ascending."""
        return torch.split(self.vision_BN[0].nonzero()[:, 0], list(self.span_lengths))

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
            deepstack_BNLD=deepstack_BNLD, place_BN3=None if (at := self.place_BN3) is None else at.to(device),
        )  # fmt: skip


def places(seen: Iterable[Seen]) -> Tensor | None:
    """Frame, row and column (V, 3) of the vision tokens, units counted through; None if some stand on no grid."""
    frames, parts = 0, [torch.empty(0, 3, dtype=torch.long)]
    for each in seen:
        if each.place_TN2 is None:
            return None
        units, tokens = each.tokens_TND.shape[:2]
        frame_T11 = torch.arange(frames, frames + units, device=each.place_TN2.device)[:, None, None]
        parts.append(torch.cat([frame_T11.expand(-1, tokens, 1), each.place_TN2], dim=-1).flatten(0, 1))
        frames += units
    return torch.cat(parts if len(parts) == 1 else parts[1:])


def same_size(frames: Seq[Tensor]) -> Tensor:
    """Frames (F, 3, H, W) one after the other.

    Raises:
        ValueError: they differ in size.
    """
    sizes = {tuple(each.shape[-2:]) for each in frames}
    if len(sizes) > 1:
        said = ", ".join(f"{height} × {width}" for height, width in sorted(sizes))
        raise ValueError(f"the images of a request must be of one size for this model, got {said} pixels; resize them")
    return torch.cat(list(frames))


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


def expand(prompt_N: Tensor, placeholder: int, tokens_F: Seq[int]) -> Tensor:
    """Token ids (1, N) with each placeholder repeated for its frame's vision tokens.

    Raises:
        ValueError: the prompt has not one placeholder a frame.
    """
    is_frame_N = prompt_N == placeholder
    if int(is_frame_N.sum()) != len(tokens_F):
        raise ValueError(
            f"the prompt has {int(is_frame_N.sum())} image placeholders for {len(tokens_F)} frames; give one a frame"
        )
    repeat_N = torch.ones_like(prompt_N)
    repeat_N[is_frame_N] = torch.tensor(tokens_F, dtype=prompt_N.dtype)
    return prompt_N.repeat_interleave(repeat_N)[None]
