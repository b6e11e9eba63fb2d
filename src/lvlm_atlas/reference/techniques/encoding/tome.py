"""Token merging (ToMe): in each encoder layer the r most similar pairs of tokens become one token each.

Paper: bolya2023tome, sec. 3, proportional attention Eq. (1); code: facebookresearch/ToMe, tome/merge.py,
tome/patch/timm.py, tome/utils.py.

Symbols: r → r, K → key_FHNd (metric_BNd is its mean over heads), s → size_BN, the two sets A and B → even and
odd places.

Departs:
1. Equal similarities are ordered by place; upstream leaves them to the backend's sort, which differs by device.
2. Groups are summed by a matrix product with 0 and 1, not by scatter, whose order of addition varies on a GPU.
3. A schedule spans the layers that run; upstream's spans all, of which an LVLM leaves the last out.
   For a single layer, where upstream divides by zero, it is ⌊r · (1 − inflect)⌋.
4. The merged tokens go on to the adapter, in merged order, and keys and attention are merged along for
   techniques that read them; the paper classifies images and has no such readers.

B batch (frames), N tokens, K tokens after merging, H heads, R query rows, d head dimension, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.merged import merged
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_source, merge_wavg  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal


def schedule(r: int, inflect: float, layers: int) -> list[int]:
    """Tokens to remove in each layer: r on average, on a line whose slope `inflect` sets.

    −1 falls from 2r to 0, 0 is constant, 1 rises from 0 to 2r.
    """
    first = int(r * (1.0 - inflect))
    step = (2 * r - 2 * first) / max(1, layers - 1)
    return [int(first + step * layer) for layer in range(layers)]


@dataclass(frozen=True)
class ToMe(Technique):
    """At `encoder-layer`: merges tokens between attention and MLP.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    r: int = 8
    inflect: float = 0.0
    proportional_attention: bool = True

    acts_at: ClassVar = ("encoder-layer",)
    needs: ClassVar = ("encoder-keys", "attention-bias", "free-patches")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(0, "r")
        if not -1 <= self.inflect <= 1:
            raise ValueError(f"inflect must lie in [-1, 1], got {self.inflect}")

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches, fewer by this layer's share of the schedule.

        Raises:
            Refusal: the patches come without keys.
        """
        patches = at.patches
        if patches.key_FHNd is None:
            raise Refusal("ToMe matches patches by their keys, which these come without")
        r = schedule(self.r, self.inflect, at.layers)[at.layer]
        matching = bipartite_soft_matching(patches.key_FHNd.mean(1), r, patches.prefix)
        return merged(patches, matching, proportional=self.proportional_attention)
