"""ReKV: a video is read in a sliding window, its cache waits on the host, a question fetches the frames that it needs.

Paper: di2025rekv; window, blocks and retrieval as in the official code (`model/attention/kv_cache_manager.py`,
`model/attention/rekv_attention.py`). Symbols: n_local → `local_size`; topk → `retrieve_size`; chunk_size →
`retrieve_chunk_size`; block: the entries of one frame.

Departs:
1. The question is the whole text behind the video. The official code retrieves with the bare question first, and then
   reads a prompt that also has the template of a chat; here they are the same tokens, so that one pass does both.
2. Only internal retrieval is here; the official code can also take frames that another model has chosen.
3. A first token is seen in the window or behind it, not both. In the official code the queries of a frame see the first
   tokens that leave the window by its end twice, once at each of their distances.
4. Fetched blocks stay on the device until another question is asked. The official code keeps up to 128 blocks there,
   those used last. Blocks inside the window are never fetched, as they still lie there; the official code holds copies
   of them on both sides.
5. Decoded tokens attend to all that was read; the official code slides on once that exceeds `local_size`.
6. Blocks are frames of equally many tokens. Of equal scores the earlier block is taken.

B batch, H query heads, G key-value heads, M tokens of the question, S entries, F blocks, T entries of a block, R read,
D = H · d.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.host import HostStore
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import Attention, CacheBits, CacheRead, CacheTokens, PrefillChunks
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.window import Window
from lvlm_atlas.reference.refusal import Refusal


def representatives(key_BGSd: Tensor, tokens: int, heads: int) -> Tensor:
    """The mean key of each block, repeated for its query heads and laid out in one row: (B, F, D).

    Args:
        key_BGSd: keys of the blocks, one behind the other, before rotary.
        tokens: T.
        heads: H.
    """
    mean_BGFd = torch.unflatten(key_BGSd, 2, (-1, tokens)).mean(dim=3)
    return share_heads(mean_BGFd, heads).transpose(1, 2).flatten(2)


def block_scores(query_BHMd: Tensor, representative_BFD: Tensor) -> Tensor:
    """Products (B, F), float32, of the mean query of a question with what stands for each block; not normalised."""
    mean_BD = query_BHMd.mean(dim=2).flatten(1)
    return (representative_BFD.float() @ mean_BD.float()[..., None]).squeeze(-1)


def select_blocks(score_BF: Tensor, count: int, group: int = 1) -> Tensor:
    """Which blocks (B, K), ascending, are read: the best groups of neighbours, by the mean of their scores.

    All of them where there are no more than `count`. The last group may be shorter; in a row that takes it places
    beyond the last block are −1, and stand last.

    Args:
        score_BF: scores.
        count: blocks to read, a multiple of `group`.
        group: neighbours that are taken together.
    """
    blocks = score_BF.shape[-1]
    if blocks <= count:
        return torch.arange(blocks, device=score_BF.device).expand(len(score_BF), -1)
    means = [part.mean(dim=-1) for part in torch.split(score_BF, group, dim=-1)]
    first_BJ = top_places(torch.stack(means, dim=-1), count // group) * group
    index_BK = (first_BJ[..., None] + torch.arange(group, device=score_BF.device)).flatten(1)
    return index_BK.masked_fill(index_BK >= blocks, -1)


@dataclass(frozen=True)
class ReKV(Technique):
    """Reads a video in a window, holds its blocks on the host, and answers from those that a question is nearest to.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: sizes that do not fit each other.
    """

    local_size: int = 15000
    """Tokens of the sliding window."""
    retrieve_size: int = 64
    """Blocks that a question reads in each layer."""
    retrieve_chunk_size: int = 1
    """Neighbouring blocks that are scored and read together."""

    acts_at: ClassVar = ("prefill-chunks", "attention", "cache-tokens", "cache-bits", "cache-read")
    needs: ClassVar = (
        "unrotated-keys",
        "one-position-axis",
        "modality-mask",
        "vision-in-sequence",
        "equal-frames",
        "frames-apart",
    )

    def __post_init__(self) -> None:
        self.expect_at_least(1, "local_size", "retrieve_size", "retrieve_chunk_size")
        if self.retrieve_size % self.retrieve_chunk_size:
            raise Refusal(
                f"retrieve_size must be a multiple of retrieve_chunk_size {self.retrieve_chunk_size}, got "
                f"{self.retrieve_size}"
            )

    def begin(self, run: Run) -> Retrieval:
        """What is known of the video in this run or session."""
        return Retrieval(self, run)


@dataclass
class Retrieval:
    """ReKV in one run or session. Places are those of the cache, alike in all layers."""

    setting: ReKV
    run: Run
    first: int = 0
    """Tokens before the video."""
    tokens: int = 0
    """T."""
    blocks: int = 0
    """F, of all frames so far."""
    representative_BFD: list[Tensor] = field(default_factory=list)
    """Of each layer."""
    stores: list[HostStore] = field(default_factory=list)
    read_BGR: dict[int, Tensor] = field(default_factory=dict)
    """By layer, the places before the end of the video that the last question reads."""

    @property
    def end(self) -> int:
        """Where the video ends in the cache."""
        return self.first + self.blocks * self.tokens

    def split_prompt(self, at: PrefillChunks) -> Tensor:
        """The video with what stands before it, then the question.

        Raises:
            Refusal: frames do not follow one another, or something else is cached behind those before.
        """
        vision_N = at.sequence.vision_BN[0]
        if not vision_N.any():
            return torch.tensor([at.sequence.length])
        place_V = vision_N.nonzero()[:, 0]
        before, behind = int(place_V[0]), at.sequence.length - int(place_V[-1]) - 1
        if before + len(place_V) + behind != at.sequence.length or (self.blocks and before):
            raise Refusal(
                "ReKV reads frames that follow one another, with text before the first and behind the last alone"
            )
        return torch.tensor([length for length in (before + len(place_V), behind) if length])

    def choose_blocks(self, at: Attention) -> Window | None:
        """The window, behind which the first tokens are seen at its far end; None where it covers everything."""
        if at.cached + at.sequence.length <= self.setting.local_size:
            return None
        first = self.first if at.cached else int((~at.sequence.vision_BN[0]).sum())
        return Window(self.setting.local_size, first, self.setting.local_size - 1)

    def compress_cache(self, at: CacheTokens) -> Entries:
        """All entries; blocks of frames that arrive are noted with what stands for them.

        Raises:
            Refusal: frames have different numbers of vision tokens, another technique has dropped some, or text is
                cached behind the frames before.
        """
        vision_BGS, prompt = at.entries.vision_BGS, self.run.prompt
        if prompt is None or not bool(vision_BGS.any()):
            return at.entries
        if at.layer == 0:
            self._note(at, list(prompt.span_lengths))
        start = int(vision_BGS[0, 0].long().argmax())
        new = int(vision_BGS[0, 0].sum())
        if at.cached + start + new != self.end or not bool((vision_BGS == vision_BGS[:1, :1]).all()):
            raise Refusal("ReKV needs every entry of the video in every layer and head; leave out what drops some")
        heads = self.run.config.text.num_attention_heads
        mean_BFD = representatives(at.entries.key_BGSd[:, :, start:], self.tokens, heads)
        if at.layer == len(self.representative_BFD):
            self.representative_BFD.append(mean_BFD)
        else:
            self.representative_BFD[at.layer] = torch.cat([self.representative_BFD[at.layer], mean_BFD], dim=1)
            self.stores[at.layer].offload(self._outside(self.stores[at.layer]))
        return at.entries

    def new_store(self, at: CacheBits) -> Store:
        """A store whose blocks go to the host once they have left the window.

        Raises:
            Refusal: another technique has dropped entries.
        """
        if self.blocks and at.entries.key_BGSd.shape[2] != self.end:
            raise Refusal("ReKV needs every entry of the video in every layer and head; leave out what drops some")
        store = HostStore()
        store.offload(self._outside(store))
        self.stores.append(store)
        return store

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """What a pass reads: frames the window, a question its blocks, decoded tokens what the question read.

        Raises:
            Refusal: a question is missing, reads more than the window holds, or entries of the video are gone.
        """
        groups = self.run.config.text.num_key_value_heads
        place_S = torch.arange(at.settled, device=at.query_BHMd.device)
        if at.sequence is not None and bool(at.sequence.vision_BN.any()):
            if not self.blocks:
                self.first = at.settled + int(at.sequence.vision_BN[0].long().argmax())
            reach = max(self.first, at.settled - self.setting.local_size + 1)
            return torch.cat([place_S[: self.first], place_S[reach:]]).expand(1, groups, -1)
        if not self.blocks:
            return None
        if at.settled < self.end:
            raise Refusal("ReKV needs every entry of the video in the cache; leave out what evicts some")
        if at.sequence is not None:
            self.read_BGR[at.layer] = self._retrieve(at).expand(1, groups, -1)
        elif at.layer not in self.read_BGR:
            raise Refusal("ReKV retrieves frames by the question, so text must stand behind the video")
        behind = place_S[self.end :].expand(1, groups, -1)
        return torch.cat([self.read_BGR[at.layer], behind], dim=2)

    def _note(self, at: CacheTokens, lengths: list[int]) -> None:
        """Take account of the frames that arrive."""
        if len({*lengths} | ({self.tokens} if self.blocks else set())) > 1:
            raise Refusal(f"ReKV's blocks are frames of equally many vision tokens, got {lengths}")
        if self.blocks and at.cached != self.end:
            raise Refusal("ReKV holds frames behind its first prompt alone; take questions back with keep=False")
        if not self.blocks:
            self.first, self.tokens = int(at.entries.vision_BGS[0, 0].long().argmax()) + at.cached, lengths[0]
        self.blocks += len(lengths)
        self.read_BGR.clear()
        if min(self.setting.retrieve_size, self.blocks) * self.tokens > self.setting.local_size:
            raise Refusal(
                f"what a question reads must fit the window: local_size must be at least retrieve_size times "
                f"{self.tokens} tokens a frame, got {self.setting.local_size} and {self.setting.retrieve_size}"
            )

    def _outside(self, store: HostStore) -> list[tuple[int, int]]:
        """Blocks that have left the window and are not on the host yet."""
        edges = range(self.first + store.offloaded * self.tokens, self.end, self.tokens or 1)
        last = self.end - self.setting.local_size
        return [(start, start + self.tokens) for start in edges if start + self.tokens <= last]

    def _retrieve(self, at: CacheRead) -> Tensor:
        """Places of the first tokens and of the blocks that a question reads in a layer."""
        score_BF = block_scores(at.query_BHMd, self.representative_BFD[at.layer])
        block_K = select_blocks(score_BF, self.setting.retrieve_size, self.setting.retrieve_chunk_size)[0]
        block_K = block_K[block_K >= 0]
        token_T = torch.arange(self.tokens, device=block_K.device)
        place_KT = self.first + block_K[:, None] * self.tokens + token_T
        return torch.cat([torch.arange(self.first, device=block_K.device), place_KT.flatten()])
