"""STTM: each frame becomes a quadtree of vision tokens, and nodes that go on alike from frame to frame become one.

Paper: hyun2025sttm, abstract; code: HYUNJS/STTM, token_merging_utils/quadtree_builder.py, quadtree_spatial_merger.py,
quadtree_temporal_merger.py and token_merging_monkey_patch/quadtree_attn_monkey_patch.py.

Symbols: `sa_start_layer_idx` → `layer`, `sa_tree_thresh` → `spatial`, `sa_tree_temporal_thresh` → `temporal`,
`sa_tree_root_level` → `root_level`, tyxyx → frame, corner and end of a node.

Departs:
1. Along a side of odd length the first cell of a level has one child, and only children that are there are compared;
   the code compares the missing ones too, as if each were the first cell of its frame.
2. Chains of nodes are followed to their end; the code stops before some are joined.
3. A root level finer than the tokens themselves means these, and a single row or column forms a tree too; the code
   fails there or never ends.
4. Frames of one size that follow each other are a video, whatever text stands between; the code has one span, and its
   positions close up over it. A video that is read in parts is merged in each part.
5. Means weighted by patches, cosines head by head and merged positions, options of the code, are left out, and so is
   merging before the first layer.
6. Images of a model that tiles them stay as they are, since they stand on no grid; the code takes frames of a video.

T frames, H rows and W columns of tokens, h, w, y and x those of cells, D width, V vision tokens, M nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


@dataclass(frozen=True)
class Level:
    """A level of the pyramid."""

    x_ThwD: Tensor
    """Means of the cells of the level below."""
    row_H: Tensor
    """The row here of each row of tokens."""
    column_W: Tensor
    """The column here of each column of tokens."""
    share_HW: Tensor
    """What each token is of the mean that its cell is."""

    def seen(self, value_Thw: Tensor) -> Tensor:
        """Values of this level's cells, at each token."""
        return value_Thw[:, self.row_H][:, :, self.column_W]


def parents(cells: int, device: torch.device) -> Tensor:
    """The cell above each cell of an axis: two by two, but the first one alone where their number is odd."""
    return (torch.arange(cells, device=device) + cells % 2) // 2


def pooled(x: Tensor) -> Tensor:
    """The level above of cells (T, h, w, *): the mean of each one's children."""
    for axis in (1, 2):
        above = parents(x.shape[axis], x.device)
        shape = [*x.shape]
        shape[axis] = (shape[axis] + 1) // 2
        children = _children(x.shape[axis], x)
        total = x.new_zeros(shape).index_add(axis, above, x)
        x = total / children.reshape(-1, *(1 for _ in range(x.dim() - axis - 1)))
    return x


def _children(cells: int, like: Tensor) -> Tensor:
    """How many cells lie below each cell of the level above, on one axis."""
    children = like.new_full(((cells + 1) // 2,), 2)
    children[: cells % 2] = 1
    return children


def pyramid(x_THWD: Tensor, root_level: int) -> list[Level]:
    """Levels from the tokens to the roots.

    Rows and columns are halved, rounded up, until there are two of one of them; the roots are `root_level` levels below
    that top, or the tokens.
    """
    rows, columns = x_THWD.shape[1:3]
    row_H, column_W = (torch.arange(side, device=x_THWD.device) for side in (rows, columns))
    share_H, share_W = (x_THWD.new_ones(side) for side in (rows, columns))
    levels = [Level(x_THWD, row_H, column_W, torch.outer(share_H, share_W))]
    x_ThwD = x_THWD
    while 2 not in (rows, columns) and (rows, columns) != (1, 1):
        x_ThwD = pooled(x_ThwD)
        row_H, column_W = parents(rows, row_H.device)[row_H], parents(columns, row_H.device)[column_W]
        share_H = share_H / _children(rows, share_H)[row_H]
        share_W = share_W / _children(columns, share_W)[column_W]
        rows, columns = x_ThwD.shape[1:3]
        levels.append(Level(x_ThwD, row_H, column_W, torch.outer(share_H, share_W)))
    return levels[: max(1, len(levels) - root_level)]


@dataclass(frozen=True)
class Quadtree:
    """Of each token of a video, the node that it belongs to."""

    corner_THW2: Tensor
    """Row and column of the node's first token."""
    end_THW2: Tensor
    """Those just behind its last one."""
    share_THW: Tensor
    """What the token is of the node."""


def quadtree(x_THWD: Tensor, spatial: float, root_level: int) -> Quadtree:
    """Each frame in the coarsest cells whose children all have a cosine of at least `spatial` with their mean.

    A cell with one child, in the corner of an odd level, is its child and never splits.
    """
    levels = pyramid(x_THWD.float(), root_level)
    active_Thw = torch.ones_like(levels[-1].x_ThwD[..., 0], dtype=torch.bool)
    corner_THW2 = torch.zeros(*x_THWD.shape[:3], 2, dtype=torch.long, device=x_THWD.device)
    end_THW2, share_THW = torch.zeros_like(corner_THW2), torch.zeros_like(levels[0].x_ThwD[..., 0])
    for level, below in zip(reversed(levels), [*reversed(levels[:-1]), None], strict=True):
        splits_Thw = torch.zeros_like(active_Thw)
        if below is not None:
            row, column = (parents(side, x_THWD.device) for side in below.x_ThwD.shape[1:3])
            cosine_Tyx = functional.cosine_similarity(level.x_ThwD[:, row][:, :, column], below.x_ThwD, dim=-1)
            splits_Thw = active_Thw & (pooled((cosine_Tyx < spatial).float()) > 0)
        final_THW1 = level.seen(active_Thw & ~splits_Thw)[..., None]
        axes = (level.row_H, level.column_W)
        corner_HW2 = torch.stack(torch.meshgrid(*(torch.searchsorted(at, at) for at in axes), indexing="ij"), dim=-1)
        ends = (torch.searchsorted(at, at, right=True) for at in axes)
        end_HW2 = torch.stack(torch.meshgrid(*ends, indexing="ij"), dim=-1)
        corner_THW2 = torch.where(final_THW1, corner_HW2, corner_THW2)
        end_THW2 = torch.where(final_THW1, end_HW2, end_THW2)
        share_THW = torch.where(final_THW1[..., 0], level.share_HW, share_THW)
        if below is not None:
            active_Thw = splits_Thw[:, row][:, :, column]
    return Quadtree(corner_THW2, end_THW2, share_THW)


def links(x_MD: Tensor, box_M4: Tensor, count_T: list[int], temporal: float) -> list[tuple[int, int]]:
    """Pairs of nodes of neighbouring frames of which one lies in the other, with a cosine of at least `temporal`.

    Args:
        x_MD: the nodes, frame by frame.
        box_M4: corner and end of each.
        count_T: nodes of each frame.
        temporal: least cosine.
    """
    pairs: list[tuple[int, int]] = []
    unit_MD, first = unit(x_MD), 0
    for here, there in pairwise(count_T):
        now, later = slice(first, first + here), slice(first + here, first + here + there)
        apart = box_M4[now, None] - box_M4[None, later]
        holds = (apart[..., :2] <= 0).all(-1) & (apart[..., 2:] >= 0).all(-1)
        lies_in = (apart[..., :2] >= 0).all(-1) & (apart[..., 2:] <= 0).all(-1)
        linked = (holds | lies_in) & (unit_MD[now] @ unit_MD[later].mT >= temporal)
        pairs += [(first + a, first + here + b) for a, b in linked.nonzero().tolist()]
        first += here
    return pairs


def earliest(nodes: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The first node of the chain that each node is in, chains being whatever the pairs join."""
    first = [*range(nodes)]

    def root(node: int) -> int:
        while first[node] != node:
            first[node] = first[first[node]]
            node = first[node]
        return node

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        first[high] = low
    return [root(node) for node in range(nodes)]


def sttm(x_THWD: Tensor, spatial: float, temporal: float, root_level: int) -> tuple[Tensor, Tensor]:
    """Which token each token is merged into (V,), and what share (V,) of that it is; V = T · H · W in reading order.

    A node's feature is a mean of means, level by level; nodes of a chain count alike, and become the first token of the
    first of them.

    Args:
        x_THWD: the vision tokens of a video.
        spatial: least cosine of a cell and each of its children for these to become one.
        temporal: least cosine of nodes of neighbouring frames to become one; 0: none do.
        root_level: see `pyramid`.
    """
    frames, rows, columns, _ = x_THWD.shape
    tree = quadtree(x_THWD, spatial, root_level)
    frame_T11 = torch.arange(frames, device=x_THWD.device)[:, None, None] * rows * columns
    corner_V = (frame_T11 + tree.corner_THW2[..., 0] * columns + tree.corner_THW2[..., 1]).flatten()
    share_V = tree.share_THW.flatten()
    if temporal <= 0 or frames < 2:
        return corner_V, share_V
    is_node_V = corner_V == torch.arange(len(corner_V), device=x_THWD.device)
    node_M = is_node_V.nonzero()[:, 0]
    x_VD = x_THWD.float().flatten(0, 2)
    mean_MD = torch.zeros_like(x_VD).index_add(0, corner_V, x_VD * share_V[:, None])[node_M]
    box_M4 = torch.cat([tree.corner_THW2, tree.end_THW2], dim=-1).flatten(0, 2)[node_M]
    pairs = links(mean_MD, box_M4, is_node_V.reshape(frames, -1).sum(dim=1).tolist(), temporal)
    first_M = torch.tensor(earliest(len(node_M), pairs), device=x_THWD.device)
    nodes_M = torch.bincount(first_M, minlength=len(node_M))[first_M]
    rank_V = torch.searchsorted(node_M, corner_V)
    return node_M[first_M][rank_V], share_V / nodes_M[rank_V]


@dataclass(frozen=True)
class STTM(Technique):
    """Merges the vision tokens once, before layer `layer`, in space and then in time.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layer: int = 2
    """The first layer that runs on the merged tokens."""
    spatial: float = 0.85
    temporal: float = 0.55
    root_level: int = 1

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = (
        "visual-features", "modality-mask", "vision-in-sequence", "whole-grid", "equal-frames", "frames-apart",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "layer")
        if not -1 <= self.spatial <= 1:
            raise ValueError(f"spatial must lie in [-1, 1], got {self.spatial}")
        self.expect_shares("temporal")
        if not 0 <= self.root_level <= 8:
            raise ValueError(f"root_level must lie in [0, 8], got {self.root_level}")

    def begin(self, run: Run) -> Merging:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index.
        """
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return Merging(self, run, active=not getattr(run.config, "image_grid_pinpoints", None))


@dataclass(frozen=True)
class Merging:
    """STTM with the run, whose prompt says which vision tokens are of one frame."""

    setting: STTM
    run: Run
    active: bool
    """Whether the model does not tile its images."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer from layer `layer` on. On one axis of positions they close up, on several they stay.

        Raises:
            Refusal: a frame is not whole, or neither its grid is known nor is it a square.
        """
        sequence, setting = at.sequence, self.setting
        if not self.active or at.layer != setting.layer or not sequence.vision_places().shape[1]:
            return sequence
        x_VD = sequence.hidden_BND[0, sequence.vision_BN[0]]
        into, shares, start = [], [], 0
        for (rows, columns), same in groupby(self._grids(sequence)):
            end = start + len([*same]) * rows * columns
            x_THWD = x_VD[start:end].reshape(-1, rows, columns, x_VD.shape[1])
            into_v, share_v = sttm(x_THWD, setting.spatial, setting.temporal, setting.root_level)
            into.append(start + into_v)
            shares.append(share_v)
            start = end
        return merged(sequence, torch.cat(into), torch.cat(shares))

    def _grids(self, sequence: Sequence) -> list[tuple[int, int]]:
        """Rows and columns of each frame; squares where an adapter has made tokens whose places are not known."""
        place_BN3, prompt = sequence.place_BN3, self.run.prompt
        if place_BN3 is not None or prompt is None:
            return grids(sequence.on_grid()[0, sequence.vision_BN[0]].tolist())
        lengths = [length for length in prompt.span_lengths if length]
        if sum(lengths) != int(sequence.vision_BN.sum()):
            raise Refusal("STTM merges whole frames, and some of their tokens are gone; leave out what drops them")
        for length in lengths:
            if math.isqrt(length) ** 2 != length:
                raise Refusal(f"STTM halves a grid, but a frame of {length} tokens without places is no square")
        return [(math.isqrt(length),) * 2 for length in lengths]


def grids(place_V3: list[list[int]]) -> list[tuple[int, int]]:
    """Rows and columns of each frame.

    Args:
        place_V3: frame, row and column of each vision token.

    Raises:
        Refusal: a frame is not whole.
    """
    sides = []
    for _, tokens in groupby(place_V3, key=lambda place: place[0]):
        spots = [(row, column) for _, row, column in tokens]
        rows, columns = (1 + max(side) for side in zip(*spots, strict=True))
        if spots != [*product(range(rows), range(columns))]:
            raise Refusal(
                f"STTM merges whole frames, got {len(spots)} tokens on a grid of {rows} × {columns}; leave out what "
                f"drops tokens or reads a frame in parts"
            )
        sides.append((rows, columns))
    return sides


def merged(sequence: Sequence, into_V: Tensor, share_V: Tensor) -> Sequence:
    """The prompt (of a batch of one) with its vision tokens merged, DeepStack features alike.

    Args:
        sequence: the tokens.
        into_V: rank, among the vision tokens, of the one that each is merged into.
        share_V: what share of it that is.
    """
    vision_BN = sequence.vision_BN

    def summed(x: Tensor) -> Tensor:
        parts = x[vision_BN].float() * share_V.reshape(-1, *(1 for _ in x.shape[2:]))
        return x.index_put((vision_BN,), torch.zeros_like(parts).index_add(0, into_V, parts).to(x.dtype))

    stays_K = (into_V == torch.arange(len(into_V), device=into_V.device)).nonzero()[:, 0]
    added = sequence.deepstack_BNLD
    changed = replace(
        sequence,
        hidden_BND=summed(sequence.hidden_BND),
        deepstack_BNLD=None if added is None else summed(added),
        place_BN3=None,
    ).keep_vision(stays_K[None])
    if sequence.position_BN.dim() > 2:
        return changed
    return replace(changed, position_BN=sequence.position_BN[:, : changed.length])
