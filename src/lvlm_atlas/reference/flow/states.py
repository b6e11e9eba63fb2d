"""What flows through the LVLM: patches in the encoder, tokens in the decoder, entries into the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.ops.places import places_of, take, take_columns, uneven_places
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class Patches:
    """Tokens inside the encoder. Frames are its batch."""

    hidden_FND: Tensor
    prefix: int
    """Leading tokens that are no patches (1: the class token); dropped on the way to the adapter."""
    attention: Probe | None = None
    """Attention of the last layer that ran; columns are the tokens here."""
    key_FHNd: Tensor | None = None
    """Keys of the last layer that ran, for the tokens here."""
    size_FN: Tensor | None = None
    """How many patches each token stands for; None means one each."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the patches where a merger joins neighbours, so that all must be there; else None."""
    proportional: bool = True
    """Whether a token that stands for s patches counts s times in attention: log s is added to its logits."""
    deepstack_FNLD: Tensor | None = None
    """DeepStack: for each token that the adapter gives, what is added after each of the first L LLM layers."""
    place_FN2: Tensor | None = None
    """Row and column of the patch that each token is, −1 where it is none, such as in the prefix; None where it is not
    known. The frame is the batch."""
    upcoming: Callable[[Patches, int | None], Probe] | None = None
    """See `ahead`; None where no tower gave these patches."""
    entered_FND: Tensor | None = None
    """Between attention and MLP of a layer, what entered it, as the layer before gave it, prefix first. Else None."""
    on_grid: bool = True
    """Whether tokens made of all of them stand where they stood; False behind an adapter whose tokens have no place,
    even where they happen to be as many."""

    def keep(self, index_FK: Tensor) -> Patches:
        """Only the tokens at these places, the prefix first; for models that offer `free-patches`."""
        return replace(
            self,
            hidden_FND=take(self.hidden_FND, index_FK),
            attention=self.attention and self.attention.then(lambda weight: take_columns(weight, index_FK)),
            key_FHNd=None if self.key_FHNd is None else take(self.key_FHNd.transpose(1, 2), index_FK).transpose(1, 2),
            size_FN=None if self.size_FN is None else take(self.size_FN, index_FK),
            place_FN2=None if self.place_FN2 is None else take(self.place_FN2, index_FK),
        )

    def ahead(self, layer: int | None = None) -> Probe:
        """The attention that an encoder layer which has not run yet, or never will, would have on these patches.

        Its norm, projections, positions and windows are its own; in a layer with windows, a patch sees its own alone.
        Layers before it run on the side, and so does the MLP of the layer that these patches are in the middle of.

        Args:
            layer: its index; None is the next one.

        Raises:
            Refusal: the encoder has no such layer, or an earlier technique made patches of which no layer is next.
        """
        if self.upcoming is None:
            raise Refusal(
                "an earlier technique left patches that no encoder layer can be projected from; put it behind the one "
                "that looks ahead"
            )
        return self.upcoming(self, layer)


Between = Callable[[int, int, Patches], Patches]
"""From index and number of the encoder layers that run and the patches after its attention to those for its MLP."""
Attending = Callable[[int, int, Patches, tuple[Tensor, Tensor, Tensor], Callable[[], Tensor], int], Tensor]
"""From index and number of the encoder layers that run, the patches that enter, the layer's queries, keys and values
(F, H, N, d), its own attention and the scores that this forms, to the output (F, H, N, d) that takes its place."""


@dataclass(frozen=True)
class Sequence:
    """Tokens inside the decoder."""

    hidden_BND: Tensor
    position_BN: Tensor
    """Position ids, as the rotary embedding sees them; (B, N, A) where they have A axes."""
    vision_BN: Tensor
    """True where a token is visual."""
    index_BN: Tensor
    """Place of each token in the assembled prompt; it never changes."""
    attention: Probe | None = None
    """Attention of the layer before; columns are the tokens here. None at the LLM's input."""
    real_BN: Tensor | None = None
    """False where a token is padding, which nothing attends to; None means nowhere."""
    origin_BN: Tensor | None = None
    """Position ids of the assembled prompt, dropped tokens and all; None means 0, 1, …"""
    place_BN3: Tensor | None = None
    """Frame, row and column of each vision token, −1 for text; None where they stand on no grid, see `on_grid`."""
    next_B: Tensor | None = None
    """Position id of the token that follows the prompt; None means one more than the last token's."""
    deepstack_BNLD: Tensor | None = None
    """DeepStack: what is added to a token after each of the first L layers, zero for text; None: nothing any more."""
    bias_BN: Tensor | None = None
    """What is added to the logits of each token as a key, from this layer on and in decoding: the log of how many it
    stands for, say; float32. None: nothing."""
    silent: int = 0
    """How many of the first tokens ask nothing: layers make keys and values of them and leave their states alone."""

    @property
    def length(self) -> int:
        """Tokens alive."""
        return self.hidden_BND.shape[1]

    @property
    def asking_BTD(self) -> Tensor:  # noqa: N802 - names carry shapes
        """States of the tokens that are not silent."""
        return self.hidden_BND[:, self.silent :]

    def after(self, out_BTD: Tensor) -> Sequence:
        """The tokens behind a layer, which gave these states for those that are not silent."""
        if not self.silent:
            return replace(self, hidden_BND=out_BTD)
        return replace(self, hidden_BND=torch.cat([self.hidden_BND[:, : self.silent], out_BTD], dim=1))

    @property
    def first_index(self) -> int:
        """The least place of a token in the assembled prompt."""
        return int(self.index_BN.min())

    @property
    def last_index(self) -> int:
        """The place of the first row's last token."""
        return int(self.index_BN[0, -1])

    @property
    def next_position(self) -> Tensor:
        """Position id (B,) of the token that follows the prompt, whatever is dropped of it."""
        if self.next_B is not None:
            return self.next_B
        return self.position_BN[:, -1].reshape(len(self.position_BN), -1).amax(1) + 1

    def keep(self, index_BK: Tensor) -> Sequence:
        """Only the tokens at these places, with their position ids."""
        return replace(
            self,
            hidden_BND=take(self.hidden_BND, index_BK),
            position_BN=take(self.position_BN, index_BK),
            vision_BN=take(self.vision_BN, index_BK),
            index_BN=take(self.index_BN, index_BK),
            attention=self.attention and self.attention.then(lambda weight: take_columns(weight, index_BK)),
            real_BN=None if self.real_BN is None else take(self.real_BN, index_BK),
            deepstack_BNLD=None if self.deepstack_BNLD is None else take(self.deepstack_BNLD, index_BK),
            place_BN3=None if self.place_BN3 is None else take(self.place_BN3, index_BK),
            next_B=self.next_position,
            bias_BN=None if self.bias_BN is None else take(self.bias_BN, index_BK),
            silent=int((index_BK[0] < self.silent).sum()) if self.silent else 0,
        )

    def behind(self, index: int, position_B: Tensor) -> Sequence:
        """The tokens as they follow others: their places in the text count on from `index`, position ids from these."""
        step_B1 = position_B.reshape(-1, *(1,) * (self.position_BN.dim() - 1))
        return replace(
            self,
            position_BN=self.position_BN + step_B1,
            index_BN=self.index_BN + index,
            origin_BN=None if self.origin_BN is None else self.origin_BN + step_B1,
            next_B=None if self.next_B is None else self.next_B + position_B,
        )

    def keep_vision(self, index_BK: Tensor) -> Sequence:
        """Every text token, and of the vision tokens those of these ranks among them (ascending)."""
        place_BV = self.vision_places()
        keep_BN = ~self.vision_BN
        keep_BN = keep_BN.scatter(1, place_BV.gather(1, index_BK), value=True)
        return self.keep(places_of(keep_BN))

    def vision_places(self) -> Tensor:
        """Places of the vision tokens (B, V), ascending."""
        return places_of(self.vision_BN)

    def on_grid(self) -> Tensor:
        """Frame, row and column (B, N, 3) of each vision token, −1 for text.

        A frame is what the encoder takes on its own (of a video, perhaps a temporal patch), counted in the order of the
        prompt; rows and columns count its vision tokens.

        Raises:
            Refusal: the vision tokens stand on no grid, for they were merged or an adapter made new ones.
        """
        if self.place_BN3 is None or bool((self.place_BN3[self.vision_BN] < 0).any()):
            raise Refusal(
                "the vision tokens stand on no grid of rows and columns: images are tiled, the class token is one of "
                "them, or an earlier technique merged patches or replaced the adapter; leave it out"
            )
        return self.place_BN3

    def add_deepstack(self, layer: int) -> Sequence:
        """The output of LLM layer `layer` with the DeepStack features that belong after it, if any do."""
        if self.deepstack_BNLD is None or layer >= self.deepstack_BNLD.shape[2]:
            return self
        remaining = self.deepstack_BNLD if layer + 1 < self.deepstack_BNLD.shape[2] else None
        hidden_BND = self.hidden_BND + self.deepstack_BNLD[:, :, layer]
        return replace(self, hidden_BND=hidden_BND, deepstack_BNLD=remaining)

    def renumber(self) -> Sequence:
        """The same tokens with the position ids that nobody has any more closed up: 0 … N − 1 on one axis.

        On several axes, an id that a token still has on any of them stays, and what lies above a gap moves down. The
        token that follows the prompt moves with it; between LLM layers, this holds for the layers that come.
        """
        # The next token's id comes last in each row, on all axes alike.
        next_B1 = self.next_position.reshape(-1, *(1,) * (self.position_BN.dim() - 1))
        id_BM = torch.cat([self.position_BN, next_B1.expand(-1, 1, *self.position_BN.shape[2:])], dim=1)
        rows = [
            close_up(id_M, None if self.origin_BN is None else self.origin_BN[row]) for row, id_M in enumerate(id_BM)
        ]
        closed_BM = torch.stack(rows)
        position_BN, next_B = closed_BM[:, :-1], closed_BM[:, -1].reshape(len(rows), -1)[:, 0]
        return replace(self, position_BN=position_BN, origin_BN=position_BN, next_B=next_B)


@dataclass(frozen=True)
class Held:
    """Which tokens the entries of a layer are, head by head, in order of arrival."""

    vision_BGS: Tensor
    """True where an entry is visual."""
    index_BGS: Tensor
    """Place of each entry's token in the text: the prompts and the answers, as they were assembled."""
    position_BGS: Tensor
    """Position ids with which the keys were rotated; (B, G, S, A) where they have A axes."""
    real_BGS: Tensor | None = None
    """False where an entry is padding, which nothing attends to; (B, 1, S) where heads are alike; None: nowhere."""

    @property
    def length(self) -> int:
        """Entries a head, padding among them."""
        return self.index_BGS.shape[2]

    def keep(self, index_BGK: Tensor) -> Held:
        """Only the entries at these places, head by head."""
        return Held(
            take(self.vision_BGS, index_BGK),
            take(self.index_BGS, index_BGK),
            take(self.position_BGS, index_BGK),
            None if self.real_BGS is None else take(self.visible_BGS, index_BGK),
        )

    def keep_where(self, keep_BGS: Tensor) -> Held:
        """Only the entries where it is True; heads with fewer than others are padded in front."""
        index_BGK, real_BGK = uneven_places(keep_BGS & self.visible_BGS)
        return replace(self.keep(index_BGK), real_BGS=None if bool(real_BGK.all()) else real_BGK)

    def then(self, later: Held) -> Held:
        """These entries, and others behind them."""
        real_BGS = None
        if self.real_BGS is not None or later.real_BGS is not None:
            real_BGS = torch.cat([self.visible_BGS, later.visible_BGS], dim=2)
        return Held(
            torch.cat([self.vision_BGS, later.vision_BGS], dim=2),
            torch.cat([self.index_BGS, later.index_BGS], dim=2),
            torch.cat([self.position_BGS, later.position_BGS], dim=2),
            real_BGS,
        )

    @property
    def visible_BGS(self) -> Tensor:  # noqa: N802 - names carry shapes
        """True where an entry is no padding."""
        if self.real_BGS is None:
            return torch.ones_like(self.vision_BGS)
        return self.real_BGS.expand(self.vision_BGS.shape)


@dataclass(frozen=True)
class Entries:
    """What a layer is about to cache. Heads may keep different tokens, and different numbers of them."""

    key_BGSd: Tensor
    value_BGSd: Tensor
    vision_BGS: Tensor
    """True where an entry is visual."""
    index_BGS: Tensor
    """Place of each entry's token in the assembled prompt."""
    position_BGS: Tensor | None = None
    """Position ids with which the keys were rotated, (B, G, S, A) where they have A axes; None means their places."""
    real_BGS: Tensor | None = None
    """False where an entry is padding, which nothing attends to; None means nowhere."""

    @property
    def held(self) -> Held:
        """Which tokens they are."""
        position_BGS = self.index_BGS if self.position_BGS is None else self.position_BGS
        return Held(self.vision_BGS, self.index_BGS, position_BGS, self.real_BGS)

    def keep(self, index_BGK: Tensor) -> Entries:
        """Only the entries at these places, head by head."""
        held = self.held.keep(index_BGK)
        return Entries(take(self.key_BGSd, index_BGK), take(self.value_BGSd, index_BGK), *vars(held).values())

    def keep_where(self, keep_BGS: Tensor) -> Entries:
        """Only the entries where it is True; heads with fewer than others are padded in front."""
        index_BGK, _ = uneven_places(keep_BGS & self.held.visible_BGS)
        held = self.held.keep_where(keep_BGS)
        return Entries(take(self.key_BGSd, index_BGK), take(self.value_BGSd, index_BGK), *vars(held).values())

    @property
    def uneven(self) -> bool:
        """Whether heads hold different numbers of entries."""
        return self.real_BGS is not None and self.real_BGS.shape[1] > 1

    def of_head(self, row: int, head: int) -> Entries:
        """The entries of one head of one sequence, without padding."""
        held = self.held
        real_S = held.visible_BGS[row, head]
        columns = (self.key_BGSd, self.value_BGSd, held.vision_BGS, held.index_BGS, held.position_BGS)
        return Entries(*(column[row, head, real_S][None, None] for column in columns))


def close_up(position_N: Tensor, origin_N: Tensor | None) -> Tensor:
    """Position ids, each less by how many smaller ids of `origin_N` (None: 0, 1, …) are gone; any shape."""
    kept = set(position_N.flatten().tolist())
    all_ = range(max(kept, default=-1) + 1) if origin_N is None else origin_N.flatten().tolist()
    gone = torch.tensor(sorted(set(all_) - kept), dtype=position_N.dtype, device=position_N.device)
    return position_N - torch.searchsorted(gone, position_N.contiguous())
