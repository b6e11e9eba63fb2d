"""MustDrop: like patches merge, favourites of the class token are safe, and text drops others stage by stage.

Paper: liu2024mustdrop; code: liuting20/MustDrop, llava/model/multimodal_encoder/local_merge.py and clip_encoder.py,
llava/model/language_model/modelling_sparse_llama.py (`dual_attention_filter`).

Symbols: `threshold` of `conditional_pooling` → `similarity`, `keep_rate` → `key_rate`, `global_thr` → `share`,
`individual_thr` → `peak`, `pruning_layers` → `layers`.

Departs:
1. Windows merge between attention and MLP of the first layer; the code merges behind the MLP.
2. A decoded token counts on from the numbers of the tokens that the layer saw; in the code from the number of entries
   that its cache was cut to, so that some of these lie ahead of it.
3. Text behind the last vision token filters, and all vision tokens of the request are one set; the code counts on one
   block of them, the tiles of one image.
4. Caches are cut once the prompt is in, as in the code; layers before the first that prunes keep all entries.
5. Of equal windows or patches the earlier one is taken; the code's `topk` leaves that open.

F frames, H heads, N patches, W windows, K key tokens, R rows of text, V vision tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries, Patches, Sequence
from lvlm_atlas.reference.lvlm.contexts import CacheLayers, EncoderLayer, EncoderOutput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.class_token import expect_class_token
from lvlm_atlas.reference.modules.merged import merged
from lvlm_atlas.reference.ops.merging import Matching
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.selection import ranking, top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def window_likeness(x_FND: Tensor, window: int) -> Tensor:
    """Mean cosine (F, W) of the pairs of different patches in each window of a square grid, window by window.

    Args:
        x_FND: the patches, row after row; the window's side divides that of the grid.
        window: its side, 2 at least.
    """
    side, members = math.isqrt(x_FND.shape[1]) // window, window**2
    unit_FWmD = (
        unit(x_FND.float()).unflatten(1, (side, window, side, window)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    )
    # All ordered pairs but those of a patch with itself: |Σ u|² − Σ |u|².
    pairs_FW = unit_FWmD.sum(dim=2).square().sum(dim=-1) - unit_FWmD.square().sum(dim=(2, 3))
    likeness_FW: Tensor = pairs_FW / (members * (members - 1))
    return likeness_FW


def merge_windows(likeness_FW: Tensor, similarity: float, window: int, prefix: int) -> Matching:
    """The windows that become one token each: as many in every frame as reach the similarity in the frame of fewest.

    Merged tokens come by falling likeness, behind the prefix, and the other patches follow in their order.

    Args:
        likeness_FW: of each window.
        similarity: least likeness of what merges.
        window: side of a window.
        prefix: leading tokens that are no patches.
    """
    frames, windows = likeness_FW.shape
    device, side = likeness_FW.device, math.isqrt(windows)
    merging = int((likeness_FW >= similarity).sum(dim=1).min())
    rank_FW = ranking(likeness_FW).argsort(dim=1)
    line = torch.arange(side * window, device=device) // window
    window_N = (line[:, None] * side + line).flatten()
    rank_FN = rank_FW[:, window_N]
    stays_FN = rank_FN >= merging
    group_FN = torch.where(stays_FN, merging + stays_FN.long().cumsum(dim=1) - 1, rank_FN)
    front_FP = torch.arange(prefix, device=device).expand(frames, prefix)
    return Matching(torch.cat([front_FP, prefix + group_FN], dim=1), prefix + len(window_N) - merging * (window**2 - 1))


def key_set(cls_attention_FHN: Tensor, key_rate: float) -> Tensor:
    """Places (F, K), ascending, of the ⌈`key_rate` · N⌉ patches to which the class token attends most."""
    return top_places(cls_attention_FHN.mean(dim=1), math.ceil(key_rate * cls_attention_FHN.shape[2]))


def dual_filter(row_BRV: Tensor, share: float, peak: float) -> Tensor:
    """True (B, V) at the vision tokens that text holds on to.

    One goes if what all words pay to it is below a share of what they pay to all, and none pays it as much as `peak`.

    Args:
        row_BRV: what each word pays to each vision token, mean over heads.
        share: of the attention of all words to all vision tokens.
        peak: attention of a single word.
    """
    sum_BV = row_BRV.sum(dim=1)
    return (sum_BV >= sum_BV.sum(dim=1, keepdim=True) * share) | (row_BRV.amax(dim=1) >= peak)


@dataclass(frozen=True)
class MustDrop(Technique):
    """Merges in the encoder, prunes behind each layer of `layers`, and cuts the caches of these layers to what is left.

    Raises:
        ValueError: an argument lies outside its range.
    """

    window: int = 3
    similarity: float = 0.8
    key_rate: float = 0.08
    share: float = 0.001
    peak: float = 0.001
    layers: tuple[int, ...] = (2, 6, 10, 14)
    """LLM layers behind which it prunes, by their attention."""

    acts_at: ClassVar = ("encoder-layer", "encoder-output", "llm-layer", "cache-layers")
    needs: ClassVar = (
        "encoder-attention", "cls-token", "visual-features", "free-patches", "whole-grid", "equal-frames",
        "attention-row", "modality-mask", "vision-in-sequence",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        object.__setattr__(self, "layers", layers)
        self.expect_at_least(2, "window")
        self.expect_shares("key_rate")
        for name in ("share", "peak"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if any(layer < 0 for layer in layers) or [*layers] != sorted({*layers}):
            raise ValueError(f"layers must rise and be at least 0, got {[*layers]}")

    def begin(self, run: Run) -> Dropping:
        """What acts in a run.

        Raises:
            Refusal: no layer follows one that prunes.
        """
        last = run.config.text.num_hidden_layers - 2
        if any(layer > last for layer in self.layers):
            raise Refusal(f"layers must lie in 0..{last} for an LLM of {last + 2} layers, got {[*self.layers]}")
        return Dropping(self)


@dataclass
class Dropping:
    """MustDrop in one run or session."""

    setting: MustDrop
    encoded: int = 0
    """Patches that went to the adapter, of the round at hand."""
    ranks: list[Tensor] = field(default_factory=list)
    """Which of them are key tokens."""
    key_index: Tensor = field(default_factory=Tensor)
    """Places of the key tokens in the text."""
    left_index: Tensor | None = None
    """Places in the text of the tokens that the last stage so far has left."""

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches, like windows of them merged in the first layer.

        Raises:
            Refusal: they form no square that the windows divide.
        """
        setting, patches = self.setting, at.patches
        if at.layer:
            return patches
        x_FND = patches.hidden_FND[:, patches.prefix :]
        side = math.isqrt(x_FND.shape[1])
        if side**2 != x_FND.shape[1] or side % setting.window:
            raise Refusal(
                f"MustDrop cuts a square of patches into windows of {setting.window} × {setting.window}, and here are "
                f"{x_FND.shape[1]}; choose a side that divides theirs"
            )
        likeness_FW = window_likeness(x_FND, setting.window)
        matching = merge_windows(likeness_FW, setting.similarity, setting.window, patches.prefix)
        return merged(patches, matching, proportional=False)

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are; the class token's favourites in the layer that is left out are noted.

        Raises:
            Refusal: there is not one class token.
        """
        patches = at.patches
        if self.setting.key_rate:
            expect_class_token(patches, "MustDrop")
            key_FK = key_set(patches.ahead().rows(slice(0, 1))[:, :, 0, 1:], self.setting.key_rate)
            frames, tokens = len(key_FK), patches.hidden_FND.shape[1] - 1
            first_F1 = self.encoded + tokens * torch.arange(frames, device=key_FK.device)[:, None]
            self.ranks.append((first_F1 + key_FK).flatten())
            self.encoded += frames * tokens
        return patches

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer behind each layer that prunes.

        Raises:
            Refusal: another technique has changed the number of vision tokens since the encoder, or no text follows the
                last of them.
        """
        sequence, attention = at.sequence, at.sequence.attention
        place_BV = sequence.vision_places()
        if at.layer == 0:
            self._find_keys(sequence.index_BN[0, place_BV[0]])
        if at.layer - 1 not in self.setting.layers or attention is None or not place_BV.shape[1]:
            return sequence
        first_text = int(place_BV[:, -1].max()) + 1
        if first_text == sequence.length:
            raise Refusal(
                "MustDrop lets the text behind the last vision token filter, and there is none; ask behind it"
            )
        row_BRN = attention.rows(slice(first_text, None)).mean(dim=1)
        row_BRV = row_BRN.gather(2, place_BV[:, None].expand(-1, row_BRN.shape[1], -1))
        held_BV = dual_filter(row_BRV, self.setting.share, self.setting.peak)
        held_BV |= torch.isin(sequence.index_BN.gather(1, place_BV), self.key_index)
        sequence = sequence.keep_vision(places_of(held_BV)).renumber()
        self.left_index = sequence.index_BN[0]
        return sequence

    def _find_keys(self, index_V: Tensor) -> None:
        """Note where the key tokens stand in the text, given where the vision tokens of the round do."""
        if self.setting.layers and self.setting.key_rate and len(index_V):
            if len(index_V) != self.encoded:
                raise Refusal(
                    f"MustDrop marked some of {self.encoded} patches, and the prompt has {len(index_V)} vision tokens; "
                    f"leave out what changes them in between"
                )
            self.key_index = index_V[torch.cat(self.ranks)]
        self.encoded, self.ranks, self.left_index = 0, [], None

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries of each layer; from the first that prunes to the last, those of the tokens left in the end."""
        left_N, layers = self.left_index, self.setting.layers
        if left_N is None:
            return at.entries
        return tuple(
            entries.keep_where(torch.isin(entries.index_BGS, left_N)) if layers[0] <= layer <= layers[-1] else entries
            for layer, entries in enumerate(at.entries)
        )
