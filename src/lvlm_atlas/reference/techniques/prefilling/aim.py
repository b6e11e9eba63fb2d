"""AIM: tokens of a frame that are alike are merged before the LLM, and inside it a schedule prunes them by PageRank.

Paper: zhong2025aim; code: LaVi-Lab/AIM, llava/model/token_merge.py, llava/model/llava_arch.py (`get_2dPool`) and
other_packages/transformers, models/qwen2/modeling_qwen2.py (`get_importance`, `Qwen2Model.forward`).

Symbols: the number of merges before the LLM → `merges`, l₁ → `layer`, k → `slope`, `tau_imp` → `temperature`, `iters` →
`iterations`, the map at that temperature M → share_BHNN, the mass of the walk π → mass_BHN.

Departs:
1. What is pruned is gone. In the code it is masked as a key alone: it still sends the mass that it starts with, so
   that scores differ from the second pruning layer on.
2. Still images and tiled ones are merged as frames are; the code merges in the pooling of video frames alone.
3. A round that has nothing to merge leaves the tokens as they are; the code fails on a frame of fewer than 4.
4. Of equal similarities and equal scores the earlier token comes first; the code's sorts leave that open.
5. Where positions follow the grid, a token that took others in stands where it stood itself.
6. The map at the temperature is the softmax of log(p) / temperature of the layer's own map p, which is the same. Behind
   a cache the walk stays among the tokens read now.
7. Beside another technique that acts between LLM layers it is refused, since shares are of what entered the LLM.

B batch, H heads, N tokens, K tokens after merging, V vision tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.merging import Matching, bipartite_soft_matching, merge_wavg
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def rounds(tokens: int, merges: int) -> list[int]:
    """How many tokens each merge removes: ⌊N / 2⌋, ⌊N / 4⌋, … of the N that there were at first."""
    return [tokens // 2**step for step in range(1, merges + 1) if tokens >= 2**step]


def matchings(x_ND: Tensor, merges: int) -> list[Matching]:
    """Which tokens of a frame become one in each merge; likeness is the cosine of what the last merge has left."""
    steps, x_BKD = [], x_ND[None]
    for removed in rounds(len(x_ND), merges):
        steps.append(bipartite_soft_matching(x_BKD, removed))
        x_BKD, _ = merge_wavg(steps[-1], x_BKD)
    return steps


def merge(steps: list[Matching], x_ND: Tensor) -> Tensor:
    """The plain mean of each group, merge by merge: (N, D) → (K, D). Earlier merges give a token no weight."""
    x_BKD = x_ND[None]
    for matching in steps:
        x_BKD, _ = merge_wavg(matching, x_BKD)
    return x_BKD[0]


def stands_for(steps: list[Matching], place_N: Tensor) -> Tensor:
    """Of the places (N,) of the tokens those (K,) of what took others in or stayed; what is merged away leaves none."""
    place = place_N
    for matching in steps:
        group, place_before = matching.group_BN[0], place
        place = place_N.new_empty(matching.count)
        for parity in (slice(0, None, 2), slice(1, None, 2)):  # an odd one takes in, and so has the last word
            place[group[parity]] = place_before[parity]
    return place


def page_rank(weight_BHNN: Tensor, temperature: float, iterations: int) -> Tensor:
    """Importance of each token (B, N): how much mass a walk along the attention has brought it.

    Every token starts with 1 / N and hands on what it has to the tokens before it and itself; no mass is given back to
    all. Of the heads the root of the mean square counts.

    Args:
        weight_BHNN: softmax attention of a layer, causal.
        temperature: by which its logits are divided before another softmax.
        iterations: steps of the walk.
    """
    share_BHNN = (weight_BHNN.log() / temperature).softmax(dim=-1)
    mass_BHN = torch.full_like(weight_BHNN[..., 0], 1 / weight_BHNN.shape[-1])
    for _ in range(iterations):
        mass_BHN = (mass_BHN[:, :, None] @ share_BHNN)[:, :, 0]
    return mass_BHN.square().mean(dim=1).sqrt()


def retained(arrived: int, layer: int, first: int, slope: float) -> int:
    """Vision tokens that enter an LLM layer: a share of those that entered the LLM, which falls on a line.

    Args:
        arrived: vision tokens that entered the LLM.
        layer: the layer, behind `first`.
        first: the first layer whose attention prunes.
        slope: share that goes behind each layer.
    """
    return int(arrived * max(0, 1 - (layer - first) * slope))


@dataclass(frozen=True)
class AIM(Technique):
    """Merges at `adapter-output`, and prunes at `llm-layer` before each layer behind `layer`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    merges: int = 2
    layer: int = 14
    slope: float = 0.125
    temperature: float = 0.1
    iterations: int = 5

    acts_at: ClassVar = ("adapter-output", "llm-layer")
    needs: ClassVar = ("visual-features", "attention-map", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames", "whole-grid")

    def __post_init__(self) -> None:
        for name, least in (("merges", 0), ("layer", 0), ("slope", 0), ("iterations", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def begin(self, run: Run) -> Merging:
        """What acts in a run.

        Raises:
            Refusal: no LLM layer follows `layer`, or another technique may drop tokens between its layers.
        """
        last = run.config.text.num_hidden_layers - 2
        if self.layer > last:
            raise Refusal(f"layer must be in 0..{last} for an LLM of {last + 2} layers, got {self.layer}")
        expect_alone(run, self, "the schedule of AIM is in shares of the tokens that entered the LLM")
        return Merging(self)


@dataclass
class Merging:
    """AIM in a run."""

    setting: AIM
    arrived: int = 0
    """Vision tokens that entered the LLM."""
    alive: int = 0
    """Those that are left."""

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens of each frame, merged; those that stayed first, by falling likeness, then those merged into."""
        if not self.setting.merges or not at.tokens.blocks:
            return at.tokens
        blocks = at.tokens.blocks
        steps = [matchings(block.token_ND, self.setting.merges) for block in blocks]
        places = (torch.arange(block.length, device=block.token_ND.device) for block in blocks)
        index = [*map(stands_for, steps, places)]
        stood = torch.cat(index).cpu()  # for the places in the grid, of all frames in one copy
        if blocks[0].place_N2 is not None:
            stood = stood.to(blocks[0].place_N2.device)
        parts = stood.split([len(each) for each in index])
        return replace(at.tokens, blocks=tuple(map(_merged, blocks, steps, parts)), grid=None)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer vision tokens among them behind the first layer that prunes."""
        sequence, setting = at.sequence, self.setting
        if not setting.slope:
            return sequence
        if at.layer == 0:
            self.arrived = self.alive = sequence.vision_places().shape[1]
        keep = retained(self.arrived, at.layer, setting.layer, setting.slope)
        if at.layer <= setting.layer or sequence.attention is None or keep >= self.alive:
            return sequence
        self.alive = keep
        score_BN = page_rank(sequence.attention.rows(), setting.temperature, setting.iterations)
        return sequence.keep_vision(top_places(score_BN.gather(1, sequence.vision_places()), keep))


def _merged(block: Block, steps: list[Matching], index_K: Tensor) -> Block:
    """A frame after its merges, each token with the place in the grid that it had at `index_K`."""
    added_KLD = None
    if block.deepstack_NLD is not None:
        added_KLD = merge(steps, block.deepstack_NLD.flatten(1)).unflatten(1, block.deepstack_NLD.shape[1:])
    return Block(merge(steps, block.token_ND), None if block.place_N2 is None else block.place_N2[index_K], added_KLD)
