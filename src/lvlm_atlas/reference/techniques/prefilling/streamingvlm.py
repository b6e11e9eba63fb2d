"""StreamingVLM: of an endless video the newest rounds stay in the cache, and of older text its beginning and its end.

Paper: xu2025streamingvlm (abstract); code: mit-han-lab/streaming-vlm, streaming_vlm/inference/inference.py
(`process_past_kv`), streaming_vlm/inference/qwen2_5/language_forward.py and pos_emb.py.

Symbols: visual_round, NUM_WINDOW_TO_KEEP → `window_size`, text_round → `text_round`, text_sink and text_sliding_window
as there. A block of vision is what the encoder makes of a frame, or of the frames of a temporal patch: at the code's 2
frames a second that is a second of video, its chunk. A round is what one call of a session reads and answers.

Keys are held as they are before rotary (`unrotated-keys`) and turned by positions that are closed up over what is left,
on one axis or on three (`lvlm_atlas.reference.caches.in_cache`), as the code does in its mode `shrink`.

Departs:
1. Vision is counted in blocks, text in rounds; in the code a round is a chunk with one block, so that both are the
   same. The cache is cut once a round's prompt has been read, which thus sees a round more than in the code, which cuts
   before it reads; the answer sees the same.
2. Of an old round all text joins the previous text; the code moves its answer there and drops the rest: time stamps,
   marks of the chat, and the question if there was one.
3. Entries keep their order. The code moves old answers in front of all rounds that are left, which is another order
   only where vision is kept for more rounds than text.
4. The ends of the previous text are exactly as long as the parameters say; the code's trim leaves one token fewer at
   the end.
5. It says only what stays. The repetition penalty of the code and its limit of 20 tokens a round are the request's.

B batch, G key-value heads, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.technique import Run, Technique


def age_of(index_BGS: Tensor, begin_R: Tensor) -> Tensor:
    """How many rounds, or blocks, began behind each entry's token (B, G, S), from the places (R,) where each begins."""
    return len(begin_R) - torch.bucketize(index_BGS.contiguous(), begin_R, right=True)


def stays(
    vision_BGS: Tensor,
    block_BGS: Tensor,
    round_BGS: Tensor,
    window_size: int,
    text_round: int,
    text_sink: int,
    text_sliding_window: int,
    visible_BGS: Tensor | None = None,
) -> Tensor:
    """True (B, G, S) at what stays: young vision and young text, and the first and the last of what text is older.

    Args:
        vision_BGS: True where an entry is visual.
        block_BGS: blocks of vision that began behind each entry, 0 in the newest.
        round_BGS: rounds that began behind it.
        window_size: blocks whose vision stays.
        text_round: rounds whose text stays whole.
        text_sink: entries that stay at the beginning of the older text.
        text_sliding_window: entries that stay at its end.
        visible_BGS: False at padding, which is counted nowhere; None means there is none.
    """
    visible_BGS = torch.ones_like(vision_BGS) if visible_BGS is None else visible_BGS
    old_BGS = ~vision_BGS & visible_BGS & (round_BGS >= text_round)
    number_BGS = old_BGS.long().cumsum(dim=2)
    ends_BGS = (number_BGS <= text_sink) | (number_BGS > number_BGS[:, :, -1:] - text_sliding_window)
    return visible_BGS & torch.where(vision_BGS, block_BGS < window_size, (round_BGS < text_round) | ends_BGS)


@dataclass(frozen=True)
class StreamingVlm(Technique):
    """Bounds the cache of every layer while a session goes on, in whichever store it is.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    window_size: int = 16
    """Blocks of vision that stay: frames, or temporal patches."""
    text_round: int = 16
    """Rounds whose text stays whole."""
    text_sink: int = 512
    """Entries that stay for good at the beginning of the text of older rounds."""
    text_sliding_window: int = 512
    """Entries that stay at its end."""

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("unrotated-keys", "modality-mask", "vision-in-sequence", "frames-apart")

    def __post_init__(self) -> None:
        for name, least in (("window_size", 1), ("text_round", 1), ("text_sink", 0), ("text_sliding_window", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> Streaming:
        """What evicts in a run or session."""
        return Streaming(self, run)


@dataclass
class Streaming:
    """StreamingVLM in one run or session."""

    setting: StreamingVlm
    run: Run
    rounds: list[int] = field(default_factory=list)
    """Place in the text at which each round begins."""
    blocks: list[int] = field(default_factory=list)
    """Place in the text at which each block of vision begins."""
    begins: tuple[Tensor, Tensor] | None = None
    """The same of blocks and of rounds, where the entries lie, once something may be old."""
    end: int = 0
    """Place behind the last token that has settled."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at the entries that stay once a prompt is in; None: all, as while an answer grows."""
        if not at.prompt:
            self.end = max(self.end, *(place + 1 for place in at.entered))
            return None
        held, setting, prompt = at.held, self.setting, self.run.prompt
        while len(self.rounds) <= self.run.round:
            self.rounds.append(self.end)
            if prompt:
                self.blocks += [self.end + place for place in prompt.block_starts]
                self.end += prompt.position_BN.shape[1]
            self.begins = None
        if len(self.blocks) <= setting.window_size and len(self.rounds) <= setting.text_round:
            return None
        if self.begins is None:
            device = held.index_BGS.device
            self.begins = torch.tensor(self.blocks, device=device), torch.tensor(self.rounds, device=device)
        block_BGS, round_BGS = (age_of(held.index_BGS, begin_R) for begin_R in self.begins)
        return stays(
            held.vision_BGS, block_BGS, round_BGS, setting.window_size, setting.text_round, setting.text_sink,
            setting.text_sliding_window, held.visible_BGS,
        )  # fmt: skip
