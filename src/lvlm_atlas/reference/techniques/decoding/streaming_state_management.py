"""Streaming state management: text and vision of a stream in a cache of constant size, old frames thinned as they age.

Papers: zhang2026survey, sec. 6, which asks for state that is bounded at every stage; xu2025streamingvlm, whose cache
(`streaming_vlm/inference/inference.py`, `process_past_kv`) this follows in what stays of text, in whole recent frames
and in positions that are closed up; kim2025infinipotv for the length of values as what an entry can say. Symbols: first
and last text entries → `text_sink`, `text_window`; whole recent frames → `window` (W); vision entries held →
`vision_budget` (C).

Departs:
1. StreamingVLM drops a frame whole once it leaves the window, which is C = W frames. Here older frames keep ever fewer
   entries until none is left: of a frame of age a about as many as 1 / (1 + a / W) of the newest's. This is ours.
2. StreamingVLM moves answers behind the system prompt and deletes the words of the chat around them; here text stays
   where it stands, and what lies between its first and its last entries goes.
3. It was fine-tuned to such a cache; the weights here are those of the model.
4. Layers choose for themselves, the heads of a layer alike, by the mean length of their values.

B batch, G key-value heads, J heads of all rows of a batch, S entries, N tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.prompt import Prompt
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.scores import carried_over
from lvlm_atlas.reference.ops.selection import rank_in_group
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.streamingllm import stay_mask


def forgetting(rank_JS: Tensor, age_JS: Tensor, window: int) -> Tensor:
    """How soon each entry goes (J, S): (rank + 1) · (1 + a / W), the largest first; 0 in the latest `window` frames.

    Cut at some height κ, a frame of age a keeps its κ / (1 + a / W) best entries.

    Args:
        rank_JS: rank of each entry in its frame.
        age_JS: how many frames are newer than its own.
        window: W.
    """
    soon_JS = (rank_JS + 1) * (1 + age_JS / window)
    return soon_JS.masked_fill(age_JS < window, 0)


def held_of_frames(frame_S: Tensor, frames: int) -> Tensor:
    """Entries (frames,) that are held of each frame of a stream: the curve of what is forgotten.

    Args:
        frame_S: the frame of each entry that is held, negative for text.
        frames: frames so far.
    """
    return frame_S[frame_S >= 0].long().bincount(minlength=frames)


@dataclass
class State:
    """The state of one run or session: which frame each entry is of, in numbers as many as entries."""

    setting: StreamingStateManagement
    run: Run
    frames: int = 0
    """Frames, or temporal patches, so far."""
    latest_N: Tensor | None = None
    """Of the prompt that is read the frame of each token, −1 for text."""
    frame_of: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of each layer the frame of each entry (B, G, S), −1 for text, and which token (B, G, S) the entry is."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at what stays; None: all.

        Raises:
            Refusal: heads hold different numbers of entries.
        """
        held, prompt, setting = at.held, self.run.prompt, self.setting
        if held.real_BGS is not None and held.real_BGS.shape[1] > 1:
            raise Refusal(
                f"the state of a stream is as large in every head, and those of layer {at.layer} hold different "
                f"numbers of entries; leave out what gives each head a number of its own"
            )
        visible_BGS, vision_BGS = held.visible_BGS, held.vision_BGS & held.visible_BGS
        text = setting.text_sink + setting.text_window
        text_BGS = visible_BGS & ~held.vision_BGS
        stays_BGS = vision_BGS | stay_mask(text_BGS, setting.text_sink, setting.text_window)
        if not at.prompt or prompt is None or not any(prompt.span_lengths):
            return None if held.length <= text else stays_BGS
        if at.layer == 0:
            self._note(prompt, held.index_BGS.device)
        frame_BGS = self._frames(at.layer, held.index_BGS)
        self.frame_of[at.layer] = frame_BGS, held.index_BGS
        if held.length <= min(text, setting.vision_budget):
            return None
        norm_BGS = at.read()[1].float().norm(dim=-1)
        norm_BGS = norm_BGS.mean(dim=1, keepdim=True).expand_as(norm_BGS)
        frame_JS, vision_JS = frame_BGS.flatten(0, 1), vision_BGS.flatten(0, 1)
        rank_JS = rank_in_group(norm_BGS.flatten(0, 1), frame_JS.masked_fill(~vision_JS, -1))
        soon_JS = forgetting(rank_JS, self.frames - 1 - frame_JS, setting.window)
        soon_BGS = soon_JS.masked_fill(~vision_JS, float("inf")).reshape(frame_BGS.shape)
        # Of entries that go equally soon the later one stays.
        last_BGC = soon_BGS.flip(2).argsort(dim=2, stable=True)[..., : setting.vision_budget]
        kept_BGS = torch.zeros_like(vision_BGS).scatter(2, held.length - 1 - last_BGC, value=True)
        return stays_BGS & (kept_BGS | ~held.vision_BGS)

    def _note(self, prompt: Prompt, device: torch.device) -> None:
        """Take account of the frames of a round."""
        frame_N = torch.full((prompt.vision_BN.shape[1],), -1)
        for number, place_T in enumerate(prompt.spans, start=self.frames):
            frame_N[place_T.cpu()] = number
        self.frames += len(prompt.span_lengths)
        self.latest_N = frame_N.to(device)

    def _frames(self, layer: int, index_BGS: Tensor) -> Tensor:
        """The frame of each entry (B, G, S), −1 for text; the newest entry is the last token of the prompt."""
        assert self.latest_N is not None  # noqa: S101 - the first layer has noted it
        length = len(self.latest_N)
        place_BGS = index_BGS - (index_BGS[:, :, -1:] + 1 - length)
        new_BGS = self.latest_N[place_BGS.clamp(min=0, max=length - 1)].masked_fill(place_BGS < 0, -1)
        if layer not in self.frame_of:
            return new_BGS
        frame_BGK, then_BGK = self.frame_of[layer]
        old_BGS = carried_over(frame_BGK + 1, then_BGK, index_BGS) - 1
        return torch.where(place_BGS < 0, old_BGS, new_BGS)


@dataclass(frozen=True)
class StreamingStateManagement(Technique):
    """Bounds text and vision of a stream at `cache-step`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    window: int = 16
    """Latest frames that stay whole, as long as they fit the budget."""
    vision_budget: int = 8192
    """Vision entries that a layer holds."""
    text_sink: int = 512
    """First text entries that stay."""
    text_window: int = 512
    """Last text entries that stay."""

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("unrotated-keys", "modality-mask", "vision-in-sequence", "frames-apart")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("vision_budget", 0), ("text_sink", 0), ("text_window", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> State:
        """The state of this run or session.

        Raises:
            Refusal: another technique evicts at each step.
        """
        for other in run.techniques:
            # A drafter only looks there at what the answer attends to.
            if other is not self and "cache-step" in other.acts_at and "decode-loop" not in other.acts_at:
                raise Refusal(
                    f"the state of a stream is divided between text and frames, and {type(other).__name__} would cut "
                    f"it as well; leave one out"
                )
        return State(self, run)
