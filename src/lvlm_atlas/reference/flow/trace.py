"""What a run did, counted while it ran: the ground on which declared effects are judged."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held, Sequence


@dataclass
class Trace:
    """Counts of one run. Lists go by layer unless they say otherwise; prefill unless they say decode.

    Where prompts are read one after the other, or in chunks, prefill is all of that together, and the cache is what the
    last one left.
    """

    frames_in: int = 0
    """Frames of the request."""
    frames: int = 0
    """Frames that enter the encoder."""
    frame_index: Tensor | None = None
    """Which frames those are."""
    pixels_in: int = 0
    """Pixels of a frame of the request."""
    pixels: int = 0
    """Pixels of a frame once techniques have resized it; a tower that takes other sizes alone resizes it again."""
    encoder_tokens: list[int] = field(default_factory=list)
    """Tokens (class token included) that enter each encoder layer, then those that leave the last; a frame."""
    vision_tokens: int = 0
    """Vision tokens that leave the adapter, all frames."""
    text_tokens: int = 0
    """Text tokens of the prompt."""
    kept: list[Tensor] = field(default_factory=list)
    """Places in the assembled prompt (B, N) of the tokens that enter each LLM layer."""
    llm_tokens: list[int] = field(default_factory=list)
    """Tokens that enter each LLM layer."""
    llm_vision_tokens: list[int] = field(default_factory=list)
    """Vision tokens among them."""
    score_entries: list[int] = field(default_factory=list)
    """Attention scores computed, over all heads."""
    probe_entries: int = 0
    """Attention scores computed again for techniques that read them, encoder and LLM, all layers."""
    kv_entries: list[int] = field(default_factory=list)
    """Cache entries per key-value head, once the prompt is in."""
    kv_most_entries: list[int] = field(default_factory=list)
    """The most that a layer holds from then on: once the prompt is in, or when a round has settled."""
    kv_vision_entries: list[float] = field(default_factory=list)
    """Vision entries among those of the prompt, mean over heads. A layer whose store holds another number of entries
    than it was given is left out: nobody knows which they are."""
    kv_index: list[Tensor] = field(default_factory=list)
    """Places in the text (B, G, S) of the cached entries, once the prompt is in."""
    kv_byte: list[int] = field(default_factory=list)
    """Bytes of the tensors of the cache, once the prompt is in; those of an earlier layer count there alone."""
    kv_resident_byte: int = 0
    """Bytes among them that lie on the device."""
    kv_layers: int = 0
    """Layers that hold tensors of their own."""
    kv_read: list[float] = field(default_factory=list)
    """Share of the entries held that attention reads, summed over the target's passes after prefill."""
    layer_runs: int = 0
    """Layers that these passes ran, all together."""
    kv_byte_end: int = 0
    """Bytes of the whole cache at the end."""
    target_passes: int = 0
    """Forward passes of the target after prefill."""
    draft_nodes: list[int] = field(default_factory=list)
    """Tokens drafted in each round, all branches."""
    draft_lengths: list[int] = field(default_factory=list)
    """Tokens on the longest drafted path of each round."""
    accepted_lengths: list[int] = field(default_factory=list)
    """Drafted tokens accepted in each round."""
    draft_tokens: int = 0
    """Prompt tokens that the draft prefilled."""
    draft_passes: int = 0
    """Forward passes of the draft model after its prefill."""
    draft_layer_runs: int = 0
    """Layers of the target that draft passes ran, where its first layers draft; its own passes do not repeat them."""
    output_tokens: int = 0
    """Tokens generated."""

    @classmethod
    def total(cls, rounds: Seq[Trace]) -> Trace:
        """The work of several runs added up, layer by layer; what they leave behind is that of the last.

        Raises:
            ValueError: there is none.
        """
        if not rounds:
            raise ValueError("no run to add up; an answer takes one at least")
        last = rounds[-1]
        summed = {
            name: [sum(layers) for layers in zip(*(getattr(each, name) for each in rounds), strict=True)]
            for name in ("encoder_tokens", "llm_tokens", "llm_vision_tokens", "score_entries", "kv_read")
            if len({len(getattr(each, name)) for each in rounds}) == 1
        }
        joined = {
            name: [number for each in rounds for number in getattr(each, name)]
            for name in ("draft_nodes", "draft_lengths", "accepted_lengths")
        }
        added = {
            name: sum(getattr(each, name) for each in rounds)
            for name in (
                "frames", "vision_tokens", "text_tokens", "probe_entries", "layer_runs", "target_passes",
                "draft_tokens", "draft_passes", "draft_layer_runs", "output_tokens",
            )
        }  # fmt: skip
        counted: dict[str, Any] = {**summed, **joined, **added}
        return replace(last, **counted)

    def note_probe(self, entries: int) -> None:
        """A technique read that many scores."""
        self.probe_entries += entries

    def note_tokens(self, layer: int, sequence: Sequence) -> None:
        """These tokens of a prompt, or of a chunk of one, enter an LLM layer."""
        if layer == len(self.kept):
            self.kept.append(sequence.index_BN)
            for counts in (self.llm_tokens, self.llm_vision_tokens, self.score_entries):
                counts.append(0)
        else:
            self.kept[layer] = torch.cat([self.kept[layer], sequence.index_BN], dim=1)
        self.llm_tokens[layer] += sequence.length
        self.llm_vision_tokens[layer] += int(sequence.vision_BN.sum())

    def note_cache(self, layers: Seq[tuple[Held, int]]) -> None:
        """A prompt is in: which tokens each layer's entries are, as far as is known, and how many it holds a head."""
        self.kv_entries = [length for _, length in layers]
        self.kv_index = [held.index_BGS for held, _ in layers]
        self.kv_vision_entries = [
            float(held.vision_BGS.sum(-1).float().mean()) for held, length in layers if held.length == length
        ]
        self.note_settled(self.kv_entries)

    def note_read(self, layer: int, read: int, held: int) -> None:
        """In a pass after prefill, a layer's attention read so many entries of those it holds."""
        if layer == len(self.kv_read):
            self.kv_read.append(0.0)
        self.kv_read[layer] += read / held
        self.layer_runs += 1

    def note_settled(self, lengths: list[int]) -> None:
        """A round has settled, and the layers hold so many entries a head."""
        self.kv_most_entries = [*map(max, self.kv_most_entries or lengths, lengths)]
