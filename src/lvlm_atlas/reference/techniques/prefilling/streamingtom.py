"""StreamingTOM: each frame of a stream gives equally many tokens, held as codes and read in groups of a frame.

Paper: chen2025streamingtom; code: YIGE24/StreamingTOM, streamingtom/modules/ctr.py (`CTR`), oqm.py (`OQM`) and
attention_processor.py (`_select_top_k_groups`). Symbols: G → `tokens_per_frame`; τ → `static_threshold`; β →
`center_weight`; b → `bits`; B → `retrieved_tokens`; k → 7.

Departs:
1. Of tokens in a static part, density peaks lie far from what is denser (`ops.clustering`); the code's comparison is
   turned round, so that it takes the distance to what is less dense, and it adds noise of 1e-6. Of n static tokens it
   takes at most n − 1 neighbours.
2. Attention of patches is averaged over the grid of tokens; the code interpolates it.
3. A question reads by the mean of its queries where it is a pass of its own. One that comes with the frames, in one
   prompt, attends to all of them, and its answer reads by the query of its first token.
4. The mean key of a group is that of the keys as they are read back; the code keeps that of the exact ones.
5. While frames are read they attend to all before them; the code slides a window of 4,800 tokens over them.
6. Entries that do not fill a group, where another technique has dropped some, stay exact, and are read as a last group.

T frames, N tokens of a frame, K = G of them, C static ones, J their peaks, D width; B batch, H query heads, G key-value
heads (G alone as a number is the budget), V vision entries, R of them read, S entries, P groups of entries, d head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.parted import by_modality
from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.states import Held, Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, CacheBits, CacheRead, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.received import pooled, received_attention
from lvlm_atlas.reference.ops.clustering import density_peaks, knn_density, scaled_distance
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.quantisation import quantise, uniform  # noqa: F401 - a step of the entry
from lvlm_atlas.reference.ops.scores import carried_over
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal

_NEIGHBOURS = 7


def shares(static: int, dynamic: int, budget: int) -> tuple[int, int]:
    """How much of a frame's budget its static and its dynamic tokens get; what one cannot fill goes to the other.

    Args:
        static: tokens that stayed alike.
        dynamic: the others.
        budget: G, at most both together.
    """
    of_static = min(int(budget * static / (static + dynamic)), static)
    of_dynamic = min(budget - of_static, dynamic)
    return budget - of_dynamic, of_dynamic


def reduction(
    x_ND: Tensor, attention_N: Tensor, static_N: Tensor, budget: int, center_weight: float
) -> tuple[Tensor, Tensor]:
    """What is left of a frame: places (K,), ascending, and what each becomes of the frame's tokens (K, N).

    Static tokens are clustered around density peaks; a peak becomes β · itself + (1 − β) · the mean of the others of
    its cluster, if there are any. Of the dynamic tokens those of most attention stay.

    Args:
        x_ND: tokens of the frame.
        attention_N: what each gets in the encoder.
        static_N: True at tokens that stayed alike.
        budget: G, at most N.
        center_weight: β.
    """
    static_C, (of_static, of_dynamic) = places_of(static_N), shares(int(static_N.sum()), int((~static_N).sum()), budget)
    chosen_N = mask_of(top_places(attention_N.masked_fill(static_N, -torch.inf), of_dynamic), len(x_ND))
    weight_NN = torch.eye(len(x_ND), dtype=torch.float32, device=x_ND.device)
    if of_static:
        distance_1CC = scaled_distance(x_ND[static_C][None])
        peak_1J, matching = density_peaks(distance_1CC, knn_density(distance_1CC, _NEIGHBOURS), of_static)
        belongs_CJ = matching.assignment(torch.float32)[0]
        own_CJ = functional.one_hot(peak_1J[0], len(static_C)).mT.float()
        others_CJ = belongs_CJ - own_CJ
        count_J = others_CJ.sum(dim=0)
        mixed_CJ = center_weight * own_CJ + (1 - center_weight) * others_CJ / count_J.clamp(min=1)
        mixed_CJ = mixed_CJ.where(count_J > 0, own_CJ)
        place_J = static_C[peak_1J[0]]
        weight_NN[place_J] = torch.zeros_like(weight_NN[place_J]).index_copy(1, static_C, mixed_CJ.mT)
        chosen_N = chosen_N.scatter(0, place_J, value=True)
    kept_K = places_of(chosen_N)
    return kept_K, weight_NN[kept_K]


def group_scores(query_BHd: Tensor, key_BGVd: Tensor, size: int) -> Tensor:
    """Cosine (B, P) of a question's query and each group's mean key, all heads in one row.

    Args:
        query_BHd: mean query of the question, before rotary; those that share a key-value head are averaged.
        key_BGVd: keys in the order of time, before rotary.
        size: entries of a group; the last one may have fewer.
    """
    groups = key_BGVd.shape[1]
    mean_BGPd = torch.stack([part.mean(dim=2) for part in key_BGVd.float().split(size, dim=2)], dim=2)
    query_BGd = torch.unflatten(query_BHd.float(), 1, (groups, -1)).mean(dim=2)
    unit_BPD, unit_BD = unit(mean_BGPd.transpose(1, 2).flatten(2)), unit(query_BGd.flatten(1))
    return (unit_BPD @ unit_BD[..., None])[..., 0]


@dataclass(frozen=True)
class StreamingTom(Technique):
    """StreamingTOM behind the adapter, and in the cache.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: the codes of a group do not fill whole bytes.
    """

    tokens_per_frame: int = 50
    static_threshold: float = 0.9
    center_weight: float = 0.6
    bits: int = 4
    retrieved_tokens: int = 12544

    acts_at: ClassVar = ("encoder-output", "adapter-output", "cache-bits", "cache-read")
    needs: ClassVar = (
        "encoder-attention", "free-patches", "visual-features", "whole-grid", "equal-frames", "frames-apart",
        "unrotated-keys", "low-bit-kernel", "modality-mask", "vision-in-sequence", "equal-heads",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens_per_frame", "retrieved_tokens")
        self.expect_shares("center_weight")
        if not -1 <= self.static_threshold <= 1:
            raise ValueError(f"static_threshold must lie in [-1, 1], got {self.static_threshold}")
        if self.bits not in (2, 4):
            raise ValueError(f"bits must be 2 or 4, got {self.bits}")
        if self.tokens_per_frame * self.bits % 8:
            raise Refusal(
                f"tokens_per_frame times bits must be whole bytes, got {self.tokens_per_frame} times {self.bits} bits"
            )

    def begin(self, run: Run) -> Memory:
        """What acts in a run or session."""
        return Memory(self, run)


@dataclass
class Memory:
    """StreamingTOM in one run or session."""

    setting: StreamingTom
    run: Run
    patches: Patches | None = None
    """Those of the frames encoded last."""
    before_ND: Tensor | None = None
    """The tokens of the last frame so far, all of them."""
    read: dict[int, Tensor] = field(default_factory=dict)
    """Of each layer the vision tokens (B, G, R) that the latest question reads, ascending."""

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are, and noted."""
        self.patches = at.patches
        return at.patches

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """Each frame with G tokens, or as it is if it has no more; tiled images as they are.

        Raises:
            Refusal: frames have different numbers of tokens, or patches come without attention.
        """
        tokens, patches, budget = at.tokens, self.patches, self.setting.tokens_per_frame
        if len({*tokens.lengths}) > 1:
            raise Refusal(
                f"StreamingTOM compares frames of equally many tokens, got {[*tokens.lengths]}; leave one out"
            )
        if patches is None or len(tokens.blocks) != len(patches.hidden_FND):
            return tokens
        x_TND = torch.stack([block.token_ND for block in tokens.blocks])
        known = self.before_ND is not None and self.before_ND.shape == x_TND[0].shape
        before_TND = torch.cat([x_TND[:1] if self.before_ND is None or not known else self.before_ND[None], x_TND[:-1]])
        static_TN = (unit(x_TND.float()) * unit(before_TND.float())).sum(dim=-1) > self.setting.static_threshold
        static_TN[0] &= known
        self.before_ND = x_TND[-1]
        if x_TND.shape[1] <= budget:
            return tokens
        attention_TN = pooled(received_attention(patches, "StreamingTOM"), x_TND.shape[1], "StreamingTOM")
        blocks = []
        for block, attention_N, static_N in zip(tokens.blocks, attention_TN, static_TN, strict=True):
            kept_K, weight_KN = reduction(
                block.token_ND.float(), attention_N, static_N, budget, self.setting.center_weight
            )
            left = block.keep(kept_K)
            blocks.append(replace(left, token_ND=(weight_KN @ block.token_ND.float()).to(block.token_ND.dtype)))
        return replace(tokens, blocks=tuple(blocks))

    def new_store(self, at: CacheBits) -> Store:
        """An empty store: vision entries as codes in groups of a frame, text as it comes."""
        size, form = self.setting.tokens_per_frame, uniform(self.setting.bits)

        def coded(length: int) -> tuple[int, int]:
            return (length - length % size,) * 2

        def vision() -> Store:
            return QuantisedStore(Half(form, size, across_tokens=True), Half(form, size, across_tokens=True), coded)

        return by_modality(at.entries.vision_BGS, vision, PlainStore)

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """All entries where frames arrive; for a question and its answer text and the nearest groups.

        Raises:
            Refusal: heads hold different numbers of vision entries, or entries that the answer reads are gone.
        """
        prompt = self.run.prompt
        if at.sequence is not None and prompt is not None and any(prompt.span_lengths):
            self.read.pop(at.layer, None)
            return None
        held = at.held()
        if at.sequence is not None or at.layer not in self.read:
            self.read[at.layer] = self._retrieve(at, held)
        read_BGR = self.read[at.layer]
        wanted_BGS = carried_over(torch.ones_like(read_BGR, dtype=torch.float), read_BGR, held.index_BGS) > 0
        if int(wanted_BGS.sum()) < read_BGR.numel():
            raise Refusal(
                "StreamingTOM reads the same groups for a whole answer, of which some entries are gone; leave out what "
                "evicts vision entries while an answer is written"
            )
        return self._places(held.visible_BGS & (~held.vision_BGS | wanted_BGS), at.layer)

    def _retrieve(self, at: CacheRead, held: Held) -> Tensor:
        """The vision tokens (B, G, R) that this question reads."""
        size = self.setting.tokens_per_frame
        place_BGV = self._places(held.vision_BGS & held.visible_BGS, at.layer)
        groups, count = -(-place_BGV.shape[2] // size), -(-self.setting.retrieved_tokens // size)
        if count >= groups:
            return take(held.index_BGS, place_BGV)
        key_BGVd = take(at.store.read()[0], place_BGV)
        chosen_BP = mask_of(top_places(group_scores(at.query_BHMd.mean(dim=2), key_BGVd, size), count), groups)
        group_V = torch.arange(place_BGV.shape[2], device=place_BGV.device) // size
        read_BR = self._places(chosen_BP[:, group_V], at.layer)
        return take(held.index_BGS, take(place_BGV, read_BR[:, None].expand(-1, place_BGV.shape[1], -1)))

    def _places(self, mask: Tensor, layer: int) -> Tensor:
        """Where a mask is True, equally often in every row."""
        try:
            return places_of(mask)
        except ValueError as error:
            raise Refusal(
                f"StreamingTOM holds and reads as many entries in every head, and those of layer {layer} hold "
                f"different numbers of vision entries; leave out what evicts some of one head"
            ) from error
