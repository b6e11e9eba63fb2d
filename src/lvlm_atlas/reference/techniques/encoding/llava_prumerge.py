"""LLaVA-PruMerge: as many patches as the class token's attention has outliers, each with its nearest neighbours.

Paper: shang2025prumerge, sec. 3; code: 42Shawn/LLaVA-PruMerge, llava/model/multimodal_encoder/clip_encoder.py,
`token_prune_merge_advanced`.

Symbols: class attention a → attention_FN, keys k → key_FNC, features y → hidden_FND, kept tokens K, reduction ratio r.

Queries and keys are those of the encoder's last layer, on the features of the layer before, which is the last that
LLaVA runs; they are not split into heads, so that the scale is C^−0.5.

Departs:
1. Of equal attention, and of equally near neighbours, the earlier patch comes first; the code's `topk` leaves that
   open.
2. The softmax is float32; the code's has the type of the weights.
3. With fewer than `neighbours` + 1 patches all others are neighbours; the code fails.
4. The adapter tuned on merged tokens is not here: the model stays as it is.

As in the code, quartiles are taken over all frames of a clip at once, so that each keeps as many tokens.

F frames, N patches without the class token, K kept, k neighbours, C width of keys, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.selection import ranking
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def kept_places(attention_FN: Tensor, ratio: float) -> Tensor:
    """Places (F, K) of the K = ⌊N · ratio⌋ patches of most attention, most first."""
    return ranking(attention_FN)[:, : int(attention_FN.shape[1] * ratio)]


def merge(hidden_ND: Tensor, attention_N: Tensor, key_NC: Tensor, kept_K: Tensor, neighbours: int = 32) -> Tensor:
    """The kept patches, each with its neighbours added, then one token of all others: (K + 1, D).

    Neighbours are those with the most similar keys, among all other patches, kept or not. They are weighted by their
    attention, and the weights are not normalised.

    Args:
        hidden_ND: features of a frame.
        attention_N: the class token's attention.
        key_NC: keys.
        kept_K: places of the kept patches, all different, in the order in which they are to come.
        neighbours: how many are added to each; all others, if there are fewer.
    """
    patches = len(hidden_ND)
    cosine_KN = unit(key_NC[kept_K]) @ unit(key_NC).mT
    cosine_KN = cosine_KN.scatter(1, kept_K[:, None], float("-inf"))  # no patch is its own neighbour
    near_Kk = ranking(cosine_KN)[:, : min(neighbours, patches - 1)]
    weighted_ND = attention_N[:, None].to(hidden_ND.dtype) * hidden_ND
    centre_KD = hidden_ND[kept_K] + weighted_ND[near_Kk].sum(1)
    rest_R = mask_of(kept_K, patches).byte().argsort(stable=True)[: patches - len(kept_K)]
    return torch.cat([centre_KD, weighted_ND[rest_R].sum(0, keepdim=True)])


@dataclass(frozen=True)
class LlavaPruMerge(Technique):
    """At `encoder-output`: leaves K + 1 tokens of each frame, the best first, the sum of the others last.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    adaptive: bool = True
    """Whether the outliers say how many patches stay; else `ratio` does."""
    ratio: float = 0.125
    neighbours: int = 32

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "encoder-keys", "cls-token", "free-patches", "whole-grid",
                       "unread-encoder-layer")  # fmt: skip
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")
        check_neighbours(self.neighbours)

    def begin(self, run: Run) -> Merging:
        """What acts in a run."""
        return Merging(self, run.config.vision.num_hidden_layers - 1)


@dataclass(frozen=True)
class Merging:
    """PruMerge with the index of the model's last encoder layer."""

    setting: LlavaPruMerge
    last_layer: int

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The merged patches.

        Raises:
            Refusal: there is not one class token, the last layer has run already, or it cannot be looked ahead to.
        """
        attention_FN, key_FNC, hidden_FND = look(at.patches, self.last_layer, "LLaVA-PruMerge")
        ratio = outlier_ratio(attention_FN) if self.setting.adaptive else self.setting.ratio
        kept_FK = kept_places(attention_FN, ratio)
        merged = [
            merge(*each, self.setting.neighbours)
            for each in zip(hidden_FND, attention_FN, key_FNC, kept_FK, strict=True)
        ]
        return Patches(torch.stack(merged), prefix=0)


def look(patches: Patches, layer: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The class token's attention (F, N) in an encoder layer that has not run, its keys (F, N, C), and the features.

    Queries and keys are not split into heads. The patches alone; the class token is left out.

    Args:
        patches: what enters that layer.
        layer: its index.
        name: of the technique, for messages.

    Raises:
        Refusal: there is not one class token, patches were merged, or the layer cannot be looked ahead to.
    """
    if patches.prefix != 1:
        raise Refusal(f"{name} reads the attention of one class token, the encoder has {patches.prefix}")
    if patches.size_FN is not None:
        raise Refusal(f"{name} reads the attention of single patches; leave out what merges them before")
    ahead = patches.ahead(layer)
    query, key = (x.transpose(1, 2).flatten(2)[:, None] for x in (ahead.query_BHNd, ahead.key_BGNd))
    one_head = replace(ahead, query_BHNd=query, key_BGNd=key)
    return one_head.rows(slice(0, 1))[:, 0, 0, 1:], key[:, 0, 1:], patches.hidden_FND[:, 1:]


def check_neighbours(neighbours: int) -> None:
    """Raise ValueError where a number of neighbours is none."""
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
