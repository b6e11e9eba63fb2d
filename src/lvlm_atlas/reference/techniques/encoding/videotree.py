"""VideoTree: frames in a tree of clusters, wider until enough of them matter and deeper where they do.

Paper: wang2025videotree; code: Ziyang412/VideoTree, adaptive_breath_expansion.py and depth_expansion.py, with its
kmeans_pytorch/__init__.py.

Symbols: init_cluster_num → first_clusters, max_cluster_num → max_clusters, default_adpative_rate → growth,
iter_threshold → wanted, num_subclusters and num_subsubclusters → branches, relevance 1 to 3 → rating.

Stand-in: in the paper an LLM rates the captions of the clusters' frames. Here a matcher rates the frames: 2 if one
matches the text better than the mean of the video, 3 if better by more than a standard deviation. The matcher, which
gives the features too (the paper's are EVA-CLIP's), has CLIP's architecture and random weights unless one is given.
`widen` takes any other rater.

Departs:
1. The frames of the tree go to the model. The paper answers from their captions, with an LLM that sees no picture.
2. Each rating belongs to the cluster that it was given for. Upstream hands the LLM frames in the order of time and
   reads its answers in the order of clusters; clusters that it forgets count as 3.
3. A part of one frame, inside a cluster rated 3, is kept. Upstream drops it, and so the whole of a cluster of which all
   parts are that small: the most relevant frames are then missing.
4. A frame that stands for a cluster and for a part of it is there once.
5. There are never more clusters than frames, of which upstream fails; as few frames as `first_clusters` are all kept.

F frames, N frames of a cluster, M frames of a part of it, K clusters or kept, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.clustering import cosine_means, ward

RELEVANT = 3
"""The highest rating."""
ROUNDING = 1e-9
"""Scores that differ by less are the same."""
Rater = Callable[[Tensor], Seq[int]]
"""From the places (K,) of frames to the rating of each, 1 to 3."""


def widen(
    feature_FD: Tensor,
    rate: Rater,
    first_clusters: int,
    max_clusters: int,
    growth: int,
    wanted: int,
    generator: torch.Generator,
) -> tuple[list[Tensor], list[int]]:
    """Clusters of frames, the places (N,) in each, and how each is rated.

    They are made anew, `growth` times as many, until `wanted` of them are rated 3 or there are `max_clusters` or more.
    The frame nearest to the mean of a cluster is rated for it; clusters without frames are left out.

    Args:
        feature_FD: on the CPU.
        rate: see `Rater`.
        first_clusters: how many there are at first.
        max_clusters: see above; also all frames are enough.
        growth: two at least.
        wanted: see above.
        generator: of every draw.
    """
    clusters = min(first_clusters, len(feature_FD))
    while True:
        cluster_F, mean_KD = cosine_means(feature_FD, clusters, generator)
        groups = [(cluster_F == cluster).nonzero()[:, 0] for cluster in range(clusters)]
        pairs = [(place_N, mean_D) for place_N, mean_D in zip(groups, mean_KD, strict=True) if len(place_N)]
        nearest = [place_N[(feature_FD[place_N] - mean_D).norm(dim=1).argmin()] for place_N, mean_D in pairs]
        ratings = [*rate(torch.stack(nearest))]
        if ratings.count(RELEVANT) >= wanted or clusters >= min(max_clusters, len(feature_FD)):
            return [place_N for place_N, _ in pairs], ratings
        clusters = min(clusters * growth, len(feature_FD))


def typical(feature_ND: Tensor) -> int:
    """The place of the frame most similar, by cosine, to the mean of all."""
    return int((1 - functional.cosine_similarity(feature_ND, feature_ND.mean(dim=0, keepdim=True))).argmin())


def deepen(feature_ND: Tensor, rating: int, branches: int) -> set[int]:
    """Places in a cluster of the frames that stand for it: one if it is rated 1.

    If it is rated 2, one for each of the `branches` parts that it falls into besides; if 3, one for each part of those.
    """
    found = {typical(feature_ND)}
    if rating == 1:
        return found
    for part_M in _parts(feature_ND, branches):
        inner = [part_M] if rating < RELEVANT else [part_M[each] for each in _parts(feature_ND[part_M], branches)]
        found |= {int(place_M[typical(feature_ND[place_M])]) for place_M in inner}
    return found


@dataclass(frozen=True)
class VideoTree(Technique):
    """At `frames`: keeps the frames that stand for the clusters of the tree.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    first_clusters: int = 8
    max_clusters: int = 32
    growth: int = 2
    wanted: int = 4
    branches: int = 4
    matcher: ImageTextMatcher | None = None
    """Gives features and rates frames; None takes the one that the model of the run keeps, see `matcher_of`."""

    acts_at: ClassVar = ("frames",)
    needs: ClassVar = ("image-text-matcher",)

    def __post_init__(self) -> None:
        for name, least in {"first_clusters": 1, "max_clusters": 1, "growth": 2, "wanted": 0, "branches": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> VideoTree:
        """The technique with a matcher."""
        return self if self.matcher else replace(self, matcher=matcher_of(run))

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending.

        Raises:
            ValueError: frames must be clustered and nothing gives their features.
        """
        request, frames = at.request, len(at.request.frames_F3HW)
        if frames <= self.first_clusters:
            return torch.arange(frames)
        if self.matcher is None:
            raise ValueError("select_frames needs a matcher; give one, or call what `begin` returns")
        with torch.inference_mode():
            embedded = [self.matcher.embed_frames(frames_F3HW) for frames_F3HW in request.runs]
            feature_FD = torch.cat(embedded).float().cpu()
            text_D = self.matcher.embed_text(request.text_N).float().cpu()
        rating_F = ratings(functional.cosine_similarity(feature_FD, text_D[None]))
        groups, rating_K = widen(
            feature_FD,
            lambda place_K: rating_F[place_K].tolist(),
            self.first_clusters,
            self.max_clusters,
            self.growth,
            self.wanted,
            torch.Generator().manual_seed(request.seed),
        )
        kept: list[int] = []
        for place_N, rating in zip(groups, rating_K, strict=True):
            kept += place_N[sorted(deepen(feature_FD[place_N], rating, self.branches))].tolist()
        return torch.tensor(sorted(kept))


def ratings(score_F: Tensor) -> Tensor:
    """How well frames match, (F,): 3 above the mean by more than a standard deviation, 2 above the mean, else 1."""
    above_F = score_F.double() - score_F.double().mean()
    spread = above_F.square().mean().sqrt()
    return 1 + (above_F > ROUNDING).long() + (above_F > spread + ROUNDING).long()


def _parts(feature_ND: Tensor, branches: int) -> list[Tensor]:
    """The places of each part of a cluster."""
    part_N = ward(feature_ND, branches)
    return [(part_N == part).nonzero()[:, 0] for part in range(int(part_N.max()) + 1)]
