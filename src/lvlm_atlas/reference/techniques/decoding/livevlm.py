"""LiveVLM: old frames of a stream are cut to a memory that is spread over time, and a question reads pages of it.

Paper: ning2025livevlm, second version (vision sink bucketing, position-agnostic retrieval), of which the abstract and
notes of third parties could be read; its repository could not. Symbols: long-term memory M → `memory_budget`;
short-term memory → `short_term`; last vision queries r → `recent_queries`; tokens a bucket B → `bucket_capacity`;
what stays whatever its bucket R → `forced`; page C → `page_size`; share of the pages that is read → `page_ratio`.

Departs:
1. Whenever vision entries exceed `short_term` + M, all but the `short_term` newest are cut to M at once. The notes say
   that segments are cut as they leave the short-term memory, not how the memory is kept to its limit.
2. All heads of a layer keep the same tokens, by the mean of their attention; r, R and the size of the short-term memory
   are ours.
3. A page's score is the product of the question's mean query with its mean key, mean over heads; the notes say pooled
   attention. What was asked in the prompt that brought the frames is asked by the first token of its answer.
4. Of equal entries and pages the earlier one is taken. The last page may be shorter than the others.

B batch, H query heads, G key-value heads, M of the memory, S entries, V vision entries, C of them that stay, K older
ones, P pages, U unread, N tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm.contexts import CacheRead, CacheStep
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.scores import carried_over
from lvlm_atlas.reference.ops.selection import rank_in_group, top_places
from lvlm_atlas.reference.refusal import Refusal


def bucketed(score_BK: Tensor, keep: int, capacity: int, forced: int) -> Tensor:
    """Places (B, `keep`), ascending: the `forced` best wherever they are, then the best whose bucket has room.

    The K places are divided into ⌈`keep` / `capacity`⌉ buckets of equal width, of which each takes `capacity`; forced
    ones take room of their bucket. Where buckets are too small for that, what is missing is filled up by score.

    Args:
        score_BK: scores in the order of time.
        keep: how many stay, at most K.
        capacity: B.
        forced: R.
    """
    places = score_BK.shape[1]
    if keep >= places or not keep:
        return torch.arange(min(keep, places), device=score_BK.device).expand(len(score_BK), -1)
    buckets = -(-keep // capacity)
    bucket_K = torch.arange(places, device=score_BK.device) * buckets // places
    rank_BK = rank_in_group(score_BK, bucket_K.expand_as(score_BK))
    first_BK = (rank_BK < capacity) | mask_of(top_places(score_BK, min(forced, places)), places)
    return top_places(score_BK, keep, first=first_BK)


def page_scores(query_BHd: Tensor, key_BGKd: Tensor, page: int) -> Tensor:
    """The product (B, P) of a question's query with the mean key of each page, mean over heads.

    Args:
        query_BHd: mean query of the question, before rotary.
        key_BGKd: keys of the memory in the order of time, before rotary.
        page: entries a page.
    """
    groups = key_BGKd.shape[1]
    parts = key_BGKd.float().split(page, dim=2)
    mean_BGPd = torch.stack([part.mean(dim=2) for part in parts], dim=2)
    query_BGd = torch.unflatten(query_BHd.float(), 1, (groups, -1)).mean(dim=2)
    return torch.einsum("bgpd,bgd->bgp", mean_BGPd, query_BGd).mean(dim=1)


def pages_read(pages: int, ratio: float) -> int:
    """Of so many pages how many a question reads: round(ratio · pages), one at least, 0 of none."""
    return max(min(1, pages), round(pages * ratio))


@dataclass(frozen=True)
class LiveVlm(Technique):
    """LiveVLM at `cache-step` and `cache-read`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    memory_budget: int = 12000
    """Vision entries of the long-term memory."""
    short_term: int = 4096
    """Newest vision entries, which are held and read whole."""
    recent_queries: int = 64
    """Last vision tokens of a round whose attention scores what came before."""
    bucket_capacity: int = 1
    """Entries of each bucket of the memory's time."""
    forced: int = 0
    """Best entries that stay whatever their bucket."""
    page_size: int = 16
    """Entries a page of the memory."""
    page_ratio: float = 0.4
    """Share of the pages that a question reads."""

    acts_at: ClassVar = ("cache-step", "cache-read")
    needs: ClassVar = ("attention-row", "unrotated-keys", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name, least in (
            ("memory_budget", 0), ("short_term", 0), ("recent_queries", 1), ("bucket_capacity", 1), ("forced", 0),
            ("page_size", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.page_ratio <= 1:
            raise ValueError(f"page_ratio must lie in (0, 1], got {self.page_ratio}")

    def begin(self, run: Run) -> Memory:
        """The memory of this run or session."""
        return Memory(self, run)


@dataclass
class Memory:
    """LiveVLM in one run or session."""

    setting: LiveVlm
    run: Run
    unread: dict[int, Tensor] = field(default_factory=dict)
    """Of each layer the tokens (B, G, U) of the memory that the latest question does not read, ascending."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at what stays once frames have arrived; None: all.

        Raises:
            Refusal: heads hold different numbers of vision entries.
        """
        setting, prompt = self.setting, self.run.prompt
        if not at.prompt or prompt is None or not any(prompt.span_lengths):
            return None
        self.unread.pop(at.layer, None)
        vision_BGS = at.held.vision_BGS & at.held.visible_BGS
        place_BGV = self._places(vision_BGS, at.layer)
        older = place_BGV.shape[2] - setting.short_term
        if older <= setting.memory_budget:
            return None
        flag_N = prompt.vision_BN[0].tolist()[::-1]
        behind = flag_N.index(True)
        rows = min(setting.recent_queries, ([*flag_N[behind:], False]).index(False))
        weight_BHRS = at.rows(slice(-behind - rows, -behind if behind else None))
        weight_BGS = torch.unflatten(weight_BHRS.mean(dim=2), 1, (vision_BGS.shape[1], -1)).mean(dim=2)
        score_BK = take(weight_BGS, place_BGV[:, :, :older]).mean(dim=1)
        kept_BM = bucketed(score_BK, setting.memory_budget, setting.bucket_capacity, setting.forced)
        memory_BGM = take(place_BGV, kept_BM[:, None].expand(-1, place_BGV.shape[1], -1))
        stays_BGC = torch.cat([memory_BGM, place_BGV[:, :, older:]], dim=2)
        return ~at.held.vision_BGS | mask_of(stays_BGC, vision_BGS.shape[2])

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """All entries where frames arrive; for a question and its answer, text, the short-term memory and some pages.

        Raises:
            Refusal: heads hold different numbers of vision entries.
        """
        prompt = self.run.prompt
        if at.sequence is not None and prompt is not None and any(prompt.span_lengths):
            return None
        held = at.held()
        if at.sequence is not None or at.layer not in self.unread:
            self.unread[at.layer] = self._unread(at, held)
        unread_BGU = self.unread[at.layer]
        if not unread_BGU.shape[2]:
            return None
        unread_BGS = carried_over(torch.ones_like(unread_BGU, dtype=torch.float), unread_BGU, held.index_BGS) > 0
        return self._places(held.visible_BGS & ~unread_BGS, at.layer)

    def _unread(self, at: CacheRead, held: Held) -> Tensor:
        """The tokens of the memory that this question does not read."""
        setting = self.setting
        place_BGV = self._places(held.vision_BGS & held.visible_BGS, at.layer)
        entries = max(0, place_BGV.shape[2] - setting.short_term)
        pages = -(-entries // setting.page_size)
        count = pages_read(pages, setting.page_ratio)
        if count == pages:
            return held.index_BGS[:, :, :0]
        memory_BGK = place_BGV[:, :, :entries]
        key_BGKd = take(at.store.read()[0], memory_BGK)
        score_BP = page_scores(at.query_BHMd.mean(dim=2), key_BGKd, setting.page_size)
        chosen_BP = mask_of(top_places(score_BP, count), pages)
        page_K = torch.arange(entries, device=memory_BGK.device) // setting.page_size
        unread_BU = places_of(~chosen_BP[:, page_K])
        return take(held.index_BGS, take(memory_BGK, unread_BU[:, None].expand(-1, memory_BGK.shape[1], -1)))

    def _places(self, mask_BGS: Tensor, layer: int) -> Tensor:
        """Where a mask is True, equally often in every head."""
        try:
            return places_of(mask_BGS)
        except ValueError as error:
            raise Refusal(
                f"LiveVLM holds and reads as many entries in every head, and those of layer {layer} hold different "
                f"numbers of vision entries; leave out what evicts some of one head"
            ) from error
