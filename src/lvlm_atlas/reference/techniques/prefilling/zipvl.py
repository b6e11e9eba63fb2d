"""ZipVL: in each layer as many tokens attend to one another as hold a share of the attention; no others are cached.

Paper: he2024zipvl (algorithm 1, eq. 6 and 8; abstract of the second version). No code of it is published; probe tokens
are those of its authors' code for another paper, ThisisBillhe/ZipCache, zipcache/models/modeling_llama.py.

Symbols: τ → `threshold`; p → the number of important tokens, T → the mask of them; Q' → the probe rows.

Departs:
1. Entries of tokens that are not important are dropped, as in the paper's second version; the first stores them in
   fewer bits, and compresses once more every 100 decoded tokens.
2. One set of tokens for all heads of a layer, by sums over the heads. Of equal scores the earlier token goes first.
3. Probe rows are drawn without replacement, from a generator with a seed of its own.
4. Behind a cache, what is chosen are the new tokens; all of them attend to the entries that are held, and those left
   out to nothing else.

B batch, H query heads, G key-value heads, N tokens, R probe rows, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import Attention, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention  # noqa: F401 - a step of the entry
from lvlm_atlas.reference.ops.selection import mass_count, ranking
from lvlm_atlas.reference.refusal import Refusal


def probe_places(tokens: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Places (R,) of the probe, ascending: the last ⌈ratio · N / 2⌉, then ⌊ratio · N / 2⌋ of the others."""
    before = int(tokens - tokens * ratio / 2)
    drawn = min(before, int(tokens * ratio / 2))
    random = torch.randperm(before, generator=generator)[:drawn].sort().values
    return torch.cat([random, torch.arange(before, tokens)])


def important(weight_BHRN: Tensor, place_R: Tensor, threshold: float) -> Tensor:
    """True (B, N) at the important tokens.

    Their number is the least whose attention, summed over the probe, reaches `threshold` of the total. Which ones they
    are goes by the mean over the rows that see a token, since early tokens are seen by more of them.

    Args:
        weight_BHRN: softmax rows of the probe.
        place_R: places of its tokens.
        threshold: share of the attention.
    """
    sum_BN = weight_BHRN.sum((1, 2))
    token_N = torch.arange(weight_BHRN.shape[-1], device=weight_BHRN.device)
    seen_N = (place_R[:, None] >= token_N).sum(0)
    mean_BN = sum_BN / seen_N
    enters_BN = token_N < mass_count(sum_BN, threshold)[:, None]
    return torch.zeros_like(enters_BN).scatter(-1, ranking(mean_BN), enters_BN)


@dataclass(frozen=True)
class ZipVL(Technique):
    """Sparse attention of prefill, and the cache that it leaves; both by the same tokens, layer by layer.

    Raises:
        ValueError: an argument lies outside its range.
    """

    threshold: float = 0.975
    """Share of the attention that the important tokens hold."""
    probe_ratio: float = 0.1
    """Share of the tokens whose attention is looked at: half of them the last, half drawn."""
    seed: int = 0
    """Of the draw."""

    acts_at: ClassVar = ("attention", "cache-tokens")
    needs: ClassVar = ("attention-row",)
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("threshold", "probe_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        self.expect_at_least(0, "seed")

    def begin(self, run: Run) -> ChosenTokens:  # noqa: ARG002 - the same for every run
        """What is chosen in this run."""
        return ChosenTokens(self, torch.Generator().manual_seed(self.seed))


@dataclass
class ChosenTokens:
    """ZipVL in one run."""

    setting: ZipVL
    generator: torch.Generator
    keep_BN: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """True at the important tokens of the layer that runs."""

    def choose_blocks(self, at: Attention) -> Pairs:
        """The pairs of important tokens; the others attend to nothing."""
        if at.probe is None:
            raise ValueError("this context was made without a probe; give it one")
        place_R = probe_places(at.sequence.length, self.setting.probe_ratio, self.generator)
        place_R = place_R.to(at.query_BHNd.device)
        self.keep_BN = important(at.probe.rows(place_R), place_R, self.setting.threshold)
        return Pairs((self.keep_BN[:, :, None] & self.keep_BN[:, None])[:, None])

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries of the important tokens.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        length = at.entries.key_BGSd.shape[2]
        if length != self.keep_BN.shape[1]:
            raise Refusal(
                f"ZipVL has chosen among {self.keep_BN.shape[1]} tokens, of which {length} entries are left; put it "
                f"before the technique that evicts the others"
            )
        return at.entries.keep_where(self.keep_BN[:, None].expand(at.entries.vision_BGS.shape))
