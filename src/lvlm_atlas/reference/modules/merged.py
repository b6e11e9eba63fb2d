"""Patches after some of them became one.

B batch (frames), N tokens, K tokens after merging, H heads, R query rows, d head dimension, D width.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.ops.merging import Matching, merge_wavg


def merged(patches: Patches, matching: Matching, *, proportional: bool) -> Patches:
    """The patches in groups: features are means weighted by size, sizes add up, and where they stand is not known.

    Keys and the columns of the attention are merged along, for techniques that read them.

    Args:
        patches: with keys, of a layer whose attention has run.
        matching: which of them become one. Where none do, nothing changes.
        proportional: whether a token that stands for s patches counts s times in the attention of later layers.
    """
    if matching.count == patches.hidden_FND.shape[1]:
        return patches
    hidden_FKD, size_FK = merge_wavg(matching, patches.hidden_FND, patches.size_FN)
    key_FHKd = None
    if patches.key_FHNd is not None:
        key_FNHd = patches.key_FHNd.transpose(1, 2)
        key_FKw, _ = merge_wavg(matching, key_FNHd.flatten(2), patches.size_FN)
        key_FHKd = key_FKw.reshape(*size_FK.shape, *key_FNHd.shape[2:]).transpose(1, 2)

    def in_groups(weight_BHRN: Tensor) -> Tensor:
        return weight_BHRN @ matching.assignment(weight_BHRN.dtype)[:, None]

    return replace(
        patches,
        hidden_FND=hidden_FKD,
        key_FHNd=key_FHKd,
        attention=patches.attention and patches.attention.then(in_groups),
        size_FN=size_FK,
        place_FN2=None,
        proportional=proportional,
    )
