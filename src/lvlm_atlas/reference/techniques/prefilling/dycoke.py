"""DyCoke: what repeats an earlier frame is dropped, and a decoded token reads the visual entries it attends to most.

Paper: tao2025dycoke; code: KD-TAO/DyCoke, llava/model/llava_arch.py (`dycole_ttm`) and
llava/model/language_model/modeling_qwen2.py (`dycoke_pruning`, `update_cache`).

Symbols: `dycoke_k` → `reduction`, `dycoke_l` → `layer`, `dycoke_p` → `skip`, the similarity 0.9 → `threshold`.

Departs:
1. Every frame is compared: the code loses the last one of an odd number, and leaves the third of the last four alone
   where no more follow. What is left of a frame stays in its order; the code's is that of `topk`.
2. Where the visual attention has changed little since the last step, the last choice is read again; the code reads all
   entries in such a step.
3. Visual entries may stand anywhere in the cache, and tokens decoded since are always read; the code is told one span.
4. Heads of a layer must hold the same tokens, as they do without a technique that evicts head by head.
5. Of several tokens in a pass, drafted ones, the last one's attention to itself and to what is settled counts; the
   code decodes one.

T frames or temporal patches, N tokens of each, D width, B batch, H heads, G key-value heads, A entries, S of them
settled, E = S + 1, V visual ones, K kept, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, CacheRead
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.selection import top_mask, top_places
from lvlm_atlas.reference.refusal import Refusal


def temporal_mask(x_TND: Tensor, reduction: float) -> Tensor:
    """True (T, N) at the tokens that each frame keeps.

    Of every four frames the first stays whole, the second is compared with it, the third with the first and the fourth
    with the third, all with what these were at first; a compared frame keeps ⌊(1 − `reduction`) · N⌋ tokens.

    Args:
        x_TND: the frames.
        reduction: share of a compared frame that goes: what resembles the other frame most at the same place.
    """
    frame_T = torch.arange(len(x_TND), device=x_TND.device)
    other_T = frame_T - torch.where(frame_T % 2 == 1, 1, frame_T % 4)
    likeness_TN = functional.cosine_similarity(x_TND[other_T], x_TND, dim=-1)
    return top_mask(-likeness_TN, int((1 - reduction) * x_TND.shape[1])) | (other_T == frame_T)[:, None]


def most_attended(weight_V: Tensor, skip: float) -> Tensor:
    """Places (K,), ascending, of the ⌊V · (1 − `skip`)⌋ visual entries that get most attention."""
    return top_places(weight_V, int(len(weight_V) * (1 - skip)))


def alike(weight_V: Tensor, before_V: Tensor) -> float:
    """Cosine of the visual attention of two steps."""
    return float(functional.cosine_similarity(weight_V, before_V, dim=0))


@dataclass(frozen=True)
class DyCoke(Technique):
    """At `adapter-output` drops what repeats, at `cache-read` chooses what a decoded token reads; nothing is evicted.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    reduction: float = 0.7
    """Share of a compared frame that is dropped."""
    layer: int = 3
    """The first layer that reads some visual entries; the one before chooses them."""
    skip: float = 0.7
    """Share of the visual entries that these layers leave out."""
    threshold: float = 0.9
    """Cosine of the visual attention of two steps below which the choice is made anew."""

    acts_at: ClassVar = ("adapter-output", "cache-read")
    needs: ClassVar = (
        "visual-features", "modality-mask", "vision-in-sequence", "equal-frames", "frames-apart", "attention-row",
    )  # fmt: skip
    withholds: ClassVar = ("equal-frames", "whole-grid")

    def __post_init__(self) -> None:
        for name in ("reduction", "skip"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.layer < 1:
            raise ValueError(f"layer must be at least 1 (the layer before it chooses), got {self.layer}")
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [-1, 1], got {self.threshold}")

    def begin(self, run: Run) -> Coking:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index, or the cache holds unrotated keys.
        """
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        if any("unrotated-keys" in other.needs for other in run.techniques):
            raise Refusal("DyCoke reads attention to the cache as it lies, which unrotated keys do not give; drop one")
        return Coking(self)


@dataclass
class Coking:
    """DyCoke in one run or session."""

    setting: DyCoke
    weight_V: Tensor | None = None
    """The visual attention of the last step."""
    chosen_K: Tensor = field(default_factory=Tensor)
    """Places in the text of the visual tokens that are read."""

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The frames without what repeats.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        tokens = at.tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"DyCoke compares frames of equally many tokens, got {[*tokens.lengths]}; leave one out")
        x_TND = torch.stack([block.token_ND for block in tokens.blocks])
        kept_TN = temporal_mask(x_TND, self.setting.reduction)
        return tokens.keep(kept_TN.nonzero()[:, 1].split(kept_TN.sum(dim=1).tolist()))

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """Which entries a layer reads in decoding: text, what was decoded, and the chosen visual ones.

        Raises:
            Refusal: heads of the layer hold different tokens.
        """
        if at.sequence is not None:
            self.weight_V = None
            return None
        if at.layer < self.setting.layer - 1:
            return None
        held = at.held()
        vision_S, index_S = held.vision_BGS[0, 0], held.index_BGS[0, 0]
        if held.real_BGS is not None or not bool((held.index_BGS == index_S).all()):
            raise Refusal("DyCoke reads the same entries in all heads; leave out what evicts head by head")
        if at.layer < self.setting.layer:
            self._choose(at, vision_S, index_S)
            return None
        read_S = ~vision_S | torch.isin(index_S, self.chosen_K)
        return read_S.nonzero()[:, 0].expand(*held.index_BGS.shape[:2], -1)

    def _choose(self, at: CacheRead, vision_S: Tensor, index_S: Tensor) -> None:
        """Look at the attention of the newest token, and choose anew where it has changed."""
        every_BGAd = at.store.read()[0]
        key_BGEd = torch.cat([every_BGAd[:, :, : at.settled], every_BGAd[:, :, -1:]], dim=2)
        probe = Probe(at.query_BHMd[:, :, -1:], key_BGEd, causal=False, on_read=at.on_read)
        row_BHE = probe.rows(earlier=True)[:, :, 0]
        weight_V = row_BHE.mean(dim=1)[0, : at.settled][vision_S]
        before, self.weight_V = self.weight_V, weight_V
        if before is not None and alike(weight_V, before) >= self.setting.threshold:
            return
        self.chosen_K = index_S[vision_S][most_attended(weight_V, self.setting.skip)]
