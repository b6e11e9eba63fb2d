"""What a run did, counted while it ran: the ground on which declared effects are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import zip_longest
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

    @classmethod
    def total(cls, rounds: Seq[Trace]) -> Trace:
        """The counts of rounds on one cache together; of the cache, what the last one left that says anything."""
        total = cls()
        for trace in rounds:
            for name, value in vars(trace).items():
                if isinstance(value, Tensor) or value:
                    setattr(total, name, _JOIN.get(name, _added)(getattr(total, name), value))
        return total

    frames_in: int = 0
    """Frames of the request."""
    frames: int = 0
    """Frames that enter the encoder."""
    frame_index: Tensor | None = None
    """Which frames those are."""
    pixels_in: int = 0
    """Pixels of all frames that are encoded."""
    pixels: int = 0
    """Their pixels once techniques have resized them; a tower that takes other sizes alone resizes them again."""
    encoder_tokens: list[int] = field(default_factory=list)
    """Tokens (class token included) that enter each encoder layer, then those that leave the last; of a frame, a tile
    or a temporal patch. Where images have different numbers of patches, clip after clip."""
    encoder_flop: int | None = None
    """FLOPs of an encoder that takes the place of the model's; None: the model's own ran, and nothing was counted.
    What enters and leaves its layers is its own affair, so `encoder_tokens` is then what leaves it, patches alone."""
    encoder_attention_flop: list[int] = field(default_factory=list)
    """For each encoder layer, FLOPs of what takes the place of its attention; empty: each layer's own ran."""
    encoder_own_attention_flop: list[int] = field(default_factory=list)
    """For each of these layers, the FLOPs that its own attention would have taken."""
    adapter_flop: int | None = None
    """FLOPs of an adapter that takes the place of the model's; None: the model's own ran, and nothing was counted."""
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
    llm_silent_tokens: list[int] = field(default_factory=list)
    """Tokens among them that a layer reads as keys and values alone."""
    score_entries: list[int] = field(default_factory=list)
    """Attention scores computed, over all heads."""
    cached_score_entries: list[int] = field(default_factory=list)
    """Those among them with entries that the cache held before."""
    probe_entries: int = 0
    """Attention scores computed again for techniques that read them, encoder and LLM, all layers."""
    step_probe_entries: int = 0
    """Attention scores computed again for policies that read them in decoding steps, all layers."""
    kv_entries: list[float] = field(default_factory=list)
    """Cache entries per key-value head, once the prompt is in; their mean where heads differ."""
    kv_most_entries: list[float] = field(default_factory=list)
    """The most that a layer holds from then on: once the prompt is in, or when a round has settled."""
    kv_settled_entries: list[float] = field(default_factory=list)
    """Entries of all layers together, a head: once the prompt is in, and when each round has settled."""
    kv_vision_entries: list[float] = field(default_factory=list)
    """Vision entries among those of the prompt, mean over heads. A layer whose store holds another number of entries
    than it was given is left out: nobody knows which they are."""
    kv_index: list[Tensor] = field(default_factory=list)
    """Places in the text (B, G, S) of the cached entries, once the prompt is in; −1 for the padding in front of a head
    that holds fewer than others."""
    kv_byte: list[int] = field(default_factory=list)
    """Bytes of the tensors of the cache, once the prompt is in; those of an earlier layer count there alone."""
    kv_resident_byte: int = 0
    """Bytes among them that lie on the device."""
    kv_layers: int = 0
    """Layers that hold tensors of their own."""
    kv_state: list[int] = field(default_factory=list)
    """Numbers of the constant state that a head of each layer holds in place of entries; 0: it holds entries."""
    kv_read: list[float] = field(default_factory=list)
    """Share of the entries held that attention reads, summed over the target's passes after prefill."""
    kv_fetched_byte: int = 0
    """Bytes of the cache that these passes fetched from the host, all together."""
    kv_fetched: float = 0.0
    """The same as shares of the bytes that the cache had then, summed over the passes."""
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
    scoring: list[Trace] = field(default_factory=list)
    """Traces of the passes that techniques had the target make on requests of their own, before the LLM; see
    `lvlm_atlas.reference.lvlm.technique.Run.score`. Nothing of them is in the counts above."""

    def note_probe(self, entries: int) -> None:
        """A technique read that many scores."""
        self.probe_entries += entries

    def note_step_probe(self, entries: int) -> None:
        """A policy read that many scores of a decoding step."""
        self.step_probe_entries += entries

    def note_tokens(self, layer: int, sequence: Sequence) -> None:
        """These tokens of a prompt, or of a chunk of one, enter an LLM layer."""
        if layer == len(self.kept):
            self.kept.append(sequence.index_BN)
            counted = (self.llm_tokens, self.llm_vision_tokens, self.llm_silent_tokens)
            for counts in (*counted, self.score_entries, self.cached_score_entries):
                counts.append(0)
        else:
            self.kept[layer] = torch.cat([self.kept[layer], sequence.index_BN], dim=1)
        self.llm_tokens[layer] += sequence.length
        self.llm_vision_tokens[layer] += int(sequence.vision_BN.sum())
        self.llm_silent_tokens[layer] += sequence.silent

    def note_encoder_attention(self, layer: int, flop: int, own_flop: int) -> None:
        """So many FLOPs took the place of a layer's attention, whose own would have taken so many."""
        if layer == len(self.encoder_attention_flop):
            self.encoder_attention_flop.append(0)
            self.encoder_own_attention_flop.append(0)
        self.encoder_attention_flop[layer] += flop
        self.encoder_own_attention_flop[layer] += own_flop

    def note_cache(self, layers: Seq[Held], lengths: Seq[float]) -> None:
        """A prompt is in: which tokens each layer's entries are, as far as is known, and how many it holds a head."""
        self.kv_entries = [*lengths]
        self.kv_index = [held.index_BGS.masked_fill(~held.visible_BGS, -1) for held in layers]
        self.kv_vision_entries = [
            float((held.vision_BGS & held.visible_BGS).sum(-1).double().mean())
            * bool(length)  # a layer with a state holds none, whatever it has read
            for held, length in zip(layers, lengths, strict=True)
            if not length or float(held.visible_BGS.sum(-1).double().mean()) == length
        ]
        self.note_settled(lengths)

    def note_read(self, layer: int, read: int, held: int) -> None:
        """In a pass after prefill, a layer's attention read so many entries of those it holds."""
        if layer == len(self.kv_read):
            self.kv_read.append(0.0)
        self.kv_read[layer] += read / held
        self.layer_runs += 1

    def note_fetch(self, fetched_byte: int, held_byte: int) -> None:
        """A pass after prefill fetched so many bytes from the host, of all that the cache holds."""
        self.kv_fetched_byte += fetched_byte
        self.kv_fetched += fetched_byte / held_byte

    def note_settled(self, lengths: Seq[float]) -> None:
        """A round has settled, and the layers hold so many entries a head."""
        self.kv_most_entries = [*map(max, self.kv_most_entries or lengths, lengths)]
        self.kv_settled_entries.append(sum(lengths))


def _added(old: Any, new: Any) -> Any:
    return [a + b for a, b in zip_longest(old, new, fillvalue=0)] if isinstance(new, list) else old + new


def _last(_old: Any, new: Any) -> Any:
    return new


def _most(old: list[int], new: list[int]) -> list[int]:
    return [max(a, b) for a, b in zip_longest(old, new, fillvalue=0)]


def _then(old: list[Any], new: list[Any]) -> list[Any]:
    return [*old, *new]


_JOIN: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("encoder_tokens", "draft_nodes", "draft_lengths", "accepted_lengths", "scoring",
                     "kv_settled_entries"), _then),
    **dict.fromkeys(
        ("kept", "frame_index", "kv_index", "kv_entries", "kv_vision_entries", "kv_byte", "kv_resident_byte",
         "kv_layers", "kv_state", "kv_byte_end"), _last,
    ),
    **dict.fromkeys(("encoder_flop", "adapter_flop"), lambda old, new: (old or 0) + new),
    "kv_most_entries": _most,
}  # fmt: skip
"""How a count of several rounds comes about, where it is no sum."""
