"""DSTP: an answer reads the vision entries that its prompt looked at, and others too for a while where its look shifts.

Paper: kim2026dstp, of which the abstract and a review with the equations could be read; no code is released. Symbols:
k → `keep_ratio` times the vision tokens; a_{t0→v} → anchor; s_l → likeness; τ → `threshold`; L → `steps`.

Departs:
1. The paper adds this to a pruner, whose choice it takes over and whose dropped tokens it keeps in reserve. Here the
   choice is FastV's, what the last token of the prompt attends to, and every layer holds all entries: how the paper has
   entries of reserved tokens in layers that a pruner spared them was not said. What is spared is reading.
2. Each layer compares and chooses for itself, its heads together. The paper uses the same tokens in all layers; which
   layer's attention decides was not said.
3. Of tokens that are read together, as in verifying a draft, the first one's query decides; steps are counted in
   settled entries. While more is read nothing is compared.
4. Of a batch one sequence whose look shifts decides for all, and all must then read equally many.

B batch, H query heads, G key-value heads, V vision tokens, K kept, C chosen, S entries, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Entries, Held
from lvlm_atlas.reference.lvlm.contexts import CacheRead, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def keep_count(tokens: int, keep_ratio: float) -> int:
    """Of so many vision tokens how many the prompt chooses: round(keep_ratio · tokens), one at least, 0 of none."""
    return max(min(1, tokens), round(tokens * keep_ratio))


def among(weight_BHV: Tensor, kept_BK: Tensor) -> Tensor:
    """Attention to the kept tokens alone (B, K): each head's sums to one over them; mean over heads.

    Args:
        weight_BHV: what each head pays to all vision tokens.
        kept_BK: places of the kept ones among them.
    """
    weight_BHK = weight_BHV.gather(2, kept_BK[:, None].expand(-1, weight_BHV.shape[1], -1))
    total_BH1 = weight_BHK.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weight_BHK.dtype).tiny)
    return (weight_BHK / total_BH1).mean(dim=1)


def look(query_BHd: Tensor, key_BGVd: Tensor) -> Tensor:
    """Softmax of each head's query over keys alone, (B, H, V), float32."""
    batch, heads, d = query_BHd.shape
    query_BGhd = query_BHd.float().reshape(batch, key_BGVd.shape[1], -1, d)
    weight_BGhV: Tensor = (query_BGhd @ key_BGVd.float().mT * d**-0.5).softmax(dim=-1)
    return weight_BGhV.reshape(batch, heads, -1)


def likeness(anchor_BK: Tensor, now_BK: Tensor) -> Tensor:
    """s_l (B,): the cosine of the attention to the kept tokens now and at the end of the prompt."""
    return functional.cosine_similarity(anchor_BK, now_BK, dim=-1)


@dataclass(frozen=True)
class Dstp(Technique):
    """DSTP at `cache-tokens`, where the prompt chooses, and at `cache-read`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.333
    """Share of the vision entries that is read; up to twice as many where the look has shifted."""
    threshold: float = 0.75
    steps: int = 20
    """Steps for which more is read."""

    acts_at: ClassVar = ("cache-tokens", "cache-read")
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence", "equal-heads")

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def begin(self, run: Run) -> Reading:  # noqa: ARG002
        """What acts in a run."""
        return Reading(self)


@dataclass
class Layer:
    """What a layer reads in the turn that is answered."""

    weight_BHV: Tensor
    """What the last token of the prompt pays to the vision tokens."""
    token_BV: Tensor
    """Which tokens these are."""
    more_BC: Tensor | None = None
    """Tokens that are read besides the kept ones."""
    until: int = 0
    """Settled entries up to which they are."""


@dataclass
class Reading:
    """DSTP in one run or session."""

    setting: Dstp
    held: dict[int, Held] = field(default_factory=dict)
    """What each layer held before the prompt of the turn."""
    layers: dict[int, Layer] = field(default_factory=dict)

    def compress_cache(self, at: CacheTokens) -> Entries:
        """All entries; what the last token attends to is noted.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        held, entries = self.held.pop(at.layer, None), at.entries
        self.layers.pop(at.layer, None)
        if self.setting.keep_ratio == 1:
            return entries
        vision_BS, index_BS = entries.vision_BGS[:, 0], entries.index_BGS[:, 0]
        if held is not None:
            vision_BS = torch.cat([held.vision_BGS[:, 0], vision_BS], dim=1)
            index_BS = torch.cat([held.index_BGS[:, 0], index_BS], dim=1)
        weight_BHS = at.probe.rows(slice(-1, None), earlier=True)[:, :, 0]
        if weight_BHS.shape[-1] != vision_BS.shape[1]:
            raise Refusal(
                f"the attention rows have {weight_BHS.shape[-1]} columns for {vision_BS.shape[1]} entries; put DSTP "
                f"before the technique that evicts the others"
            )
        place_BV = places_of(vision_BS)
        if place_BV.shape[1]:
            weight_BHV = weight_BHS.gather(2, place_BV[:, None].expand(-1, weight_BHS.shape[1], -1))
            self.layers[at.layer] = Layer(weight_BHV, take(index_BS, place_BV))
        return entries

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """All entries for a prompt; for an answer text, the kept vision entries, and more for a while after a shift.

        Raises:
            Refusal: heads or sequences would read different numbers of entries.
        """
        if at.sequence is not None:
            self.held[at.layer] = at.held()
            return None
        layer = self.layers.get(at.layer)
        if layer is None:
            return None
        held = at.held()
        vision_BGS = held.vision_BGS & held.visible_BGS
        try:
            wanted_BGS = self._wanted(at, layer, held, places_of(vision_BGS))
            return places_of(held.visible_BGS & (~held.vision_BGS | wanted_BGS))
        except ValueError as error:
            raise Refusal(
                f"DSTP reads the same vision entries in every head, and those of layer {at.layer} hold different ones; "
                f"leave out what evicts some of one head, and ask one request a time"
            ) from error

    def _wanted(self, at: CacheRead, layer: Layer, held: Held, place_BGV: Tensor) -> Tensor:
        """True (B, G, S) at the vision entries that are read.

        Raises:
            ValueError: heads hold different vision entries.
        """
        index_BGV = take(held.index_BGS, place_BGV)
        if not bool((index_BGV == index_BGV[:, :1]).all()):
            raise ValueError("heads hold different vision entries")
        # Of the tokens that the prompt saw, those that are still held.
        still_BV = places_of((layer.token_BV[:, :, None] == index_BGV[:, 0, None]).any(dim=-1))
        layer.token_BV, layer.weight_BHV = (
            take(layer.token_BV, still_BV),
            layer.weight_BHV.gather(2, still_BV[:, None].expand(-1, layer.weight_BHV.shape[1], -1)),
        )
        tokens = layer.token_BV.shape[1]
        count = keep_count(tokens, self.setting.keep_ratio)
        share_BHV = layer.weight_BHV / layer.weight_BHV.sum(dim=-1, keepdim=True).clamp(min=1e-30)
        kept_BK = top_places(share_BHV.mean(dim=1), count)
        if layer.more_BC is not None and at.settled >= layer.until:
            layer.more_BC = None
        if layer.more_BC is None and count < tokens:
            query_BHd = at.query_BHMd[:, :, 0]
            kept_BGK = kept_BK[:, None].expand(-1, index_BGV.shape[1], -1)
            at.on_read(query_BHd.shape[0] * query_BHd.shape[1] * count)
            now_BHK = look(query_BHd, at.store.read_at(take(place_BGV, kept_BGK), at.settled)[0][:, :, :count])
            if bool((likeness(among(layer.weight_BHV, kept_BK), now_BHK.mean(dim=1)) < self.setting.threshold).any()):
                at.on_read(query_BHd.shape[0] * query_BHd.shape[1] * tokens)
                all_BHV = look(query_BHd, at.store.read_at(place_BGV, at.settled)[0][:, :, :tokens])
                layer.more_BC = take(layer.token_BV, top_places(all_BHV.mean(dim=1), count))
                layer.until = at.settled + self.setting.steps
        chosen_BV = mask_of(kept_BK, tokens)
        if layer.more_BC is not None:
            chosen_BV = chosen_BV | (layer.token_BV[:, :, None] == layer.more_BC[:, None]).any(dim=-1)
        wanted_BGV = chosen_BV[:, None].expand(-1, index_BGV.shape[1], -1)
        return torch.zeros_like(held.vision_BGS).scatter(2, place_BGV, wanted_BGV)
