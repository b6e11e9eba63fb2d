"""What a run did, counted while it ran: the ground on which declared effects are judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries, Sequence


@dataclass
class Trace:
    """Counts of one run. Lists go by layer unless they say otherwise; prefill unless they say decode."""

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
    encoder_flop: int | None = None
    """FLOPs of an encoder that takes the place of the model's; None: the model's own ran, and nothing was counted.
    What enters and leaves its layers is its own affair, so `encoder_tokens` is then what leaves it, patches alone."""
    encoder_density: list[float] = field(default_factory=list)
    """For each encoder layer whose attention was exchanged, FLOPs of what was computed over those of its own."""
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
    """Places in the assembled prompt (B, G, S) of the cached entries."""
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
    output_tokens: int = 0
    """Tokens generated."""

    def note_probe(self, entries: int) -> None:
        """A technique read that many scores."""
        self.probe_entries += entries

    def note_tokens(self, sequence: Sequence) -> None:
        """These tokens enter the next LLM layer."""
        self.kept.append(sequence.index_BN)
        self.llm_tokens.append(sequence.length)
        self.llm_vision_tokens.append(int(sequence.vision_BN.sum()))

    def note_cache(self, entries: Entries, length: int) -> None:
        """The next LLM layer was given these entries of the prompt to cache, and holds so many a head."""
        self.kv_entries.append(length)
        self.kv_most_entries.append(length)
        if length == entries.index_BGS.shape[2]:
            self.kv_vision_entries.append(float(entries.vision_BGS.sum(-1).float().mean()))
        self.kv_index.append(entries.index_BGS)

    def note_read(self, layer: int, read: int, held: int) -> None:
        """In a pass after prefill, a layer's attention read so many entries of those it holds."""
        if layer == len(self.kv_read):
            self.kv_read.append(0.0)
        self.kv_read[layer] += read / held
        self.layer_runs += 1

    def note_settled(self, lengths: list[int]) -> None:
        """A round has settled, and the layers hold so many entries a head."""
        self.kv_most_entries = [*map(max, self.kv_most_entries or lengths, lengths)]
