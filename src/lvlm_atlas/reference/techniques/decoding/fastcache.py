"""FastCache: a small network folds every few neighbouring entries into one, by other weights for pictures and for text.

Paper: zhu2025fastcache; network, segments and what is left over as in the official code
(`utils_ccm/module_ccm_v11.py`, `KVCacheLinearDecoupleCompressor`). Symbols: compression factor → `compress_factor` (c).

Departs:
1. Weights are random, so that the answer is nonsense: shapes, counts and cost are those of the method, its accuracy is
   not. `give` puts trained ones in their place, under the key (`fastcache`, c).
2. Serving is left out: batches of prefill, compression and decoding by priority, and the pool that the cache lies in.
3. An entry that stands for c of them counts as the last one of these, to whoever asks which tokens are held.
4. Behind a cache, another turn is folded by itself; the official code answers one question.

B batch, G key-value heads, S entries, K entries after folding, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal


def folded_count(entries: int, factor: int, least: int) -> int:
    """Entries of a segment after folding: ⌊n / c⌋, one a group, and n mod c left over; n if the groups are few."""
    groups = entries // factor
    return groups + entries % factor if groups >= max(1, least) else entries


def fold(x_BGSd: Tensor, factor: int, least: int, folding: Callable[[Tensor], Tensor]) -> Tensor:
    """Keys or values (B, G, K, d) of a segment: every `factor` neighbours one, those left over at the end as they are.

    Args:
        x_BGSd: keys or values of the segment.
        factor: c, entries folded into one.
        least: the segment stays whole if it gave fewer entries of groups.
        folding: from c entries laid out in one row (…, c · d) to one (…, d); the same for all heads.
    """
    groups = x_BGSd.shape[2] // factor
    if groups < max(1, least):
        return x_BGSd
    whole = groups * factor
    row_BGKc = x_BGSd[:, :, :whole].reshape(*x_BGSd.shape[:2], groups, factor * x_BGSd.shape[3])
    return torch.cat([folding(row_BGKc), x_BGSd[:, :, whole:]], dim=2)


def representatives(entries: int, factor: int, least: int, device: torch.device | str = "cpu") -> Tensor:
    """Of a segment the places (K,) that the entries after folding count as: the last of each group, and the rest."""
    groups = entries // factor
    if groups < max(1, least):
        return torch.arange(entries, device=device)
    whole = groups * factor
    last_K = torch.arange(factor - 1, whole, factor, device=device)
    return torch.cat([last_K, torch.arange(whole, entries, device=device)])


def network(row: int, head_dim: int) -> nn.Sequential:
    """A perceptron from c entries laid out in one row (…, c · d) to one (…, d), without the dropout of training."""
    return nn.Sequential(
        nn.Linear(row, head_dim), nn.ReLU(), nn.Linear(head_dim, head_dim), nn.ReLU(), nn.Linear(head_dim, head_dim)
    )


class Compressor(nn.Module):
    """The networks of all layers, (image or text) × (keys or values)."""

    def __init__(self, layers: int, factor: int, head_dim: int) -> None:
        super().__init__()
        self.factor = factor
        lists = [nn.ModuleList(network(factor * head_dim, head_dim) for _ in range(layers)) for _ in range(4)]
        self.compress_ik, self.compress_iv, self.compress_tk, self.compress_tv = lists

    def forward(
        self, layer: int, key_BGSd: Tensor, value_BGSd: Tensor, image: int, least: int
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, K, d) of a layer, folded; the first `image` entries are the image segment."""
        parts = []
        for x_BGSd, of_image, of_text in (
            (key_BGSd, self.compress_ik, self.compress_tk),
            (value_BGSd, self.compress_iv, self.compress_tv),
        ):
            segments = ((x_BGSd[:, :, :image], of_image[layer]), (x_BGSd[:, :, image:], of_text[layer]))
            parts.append(torch.cat([fold(x, self.factor, least, folding) for x, folding in segments], dim=2))
        return parts[0], parts[1]


@dataclass(frozen=True)
class FastCache(Technique):
    """FastCache at `cache-tokens`.

    Raises:
        ValueError: a parameter out of its range.
    """

    compress_factor: int = 5
    """Neighbouring entries that are folded into one."""
    min_seq_len: int = 2
    """A segment that would give fewer entries of whole groups stays as it is."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("modality-mask", "vision-in-sequence", "training-data", "own-projections")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "compress_factor", "min_seq_len")

    def begin(self, run: Run) -> _Acting:
        """What folds the entries of this run or session."""
        text = run.config.text
        sizes = (text.num_hidden_layers, self.compress_factor, text.head_dim)
        return _Acting(self, module_of(run, ("fastcache", self.compress_factor), lambda: Compressor(*sizes)))


@dataclass(frozen=True)
class _Acting:
    setting: FastCache
    compressor: Compressor

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries of a prompt, folded: all up to the last vision entry as the image segment, the others as text.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        entries, factor, least = at.entries, self.setting.compress_factor, self.setting.min_seq_len
        length, tokens = entries.key_BGSd.shape[2], at.probe.query_BHNd.shape[2]
        if length != tokens or entries.real_BGS is not None:
            raise Refusal(
                f"FastCache folds neighbours of the text, and layer {at.layer} caches {length} of {tokens} tokens; "
                f"leave out the technique that evicts the others"
            )
        end_S = torch.arange(1, length + 1, device=entries.index_BGS.device) * entries.vision_BGS[0, 0]
        image = int(end_S.amax())
        key_BGKd, value_BGKd = self.compressor(at.layer, entries.key_BGSd, entries.value_BGSd, image, least)
        device = entries.index_BGS.device
        of_image, of_text = (representatives(n, factor, least, device) for n in (image, length - image))
        place_K = torch.cat([of_image, image + of_text])
        held = entries.held.keep(place_K.expand(*entries.index_BGS.shape[:2], -1))
        return Entries(key_BGKd, value_BGKd, *vars(held).values())
