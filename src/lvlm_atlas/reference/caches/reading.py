"""What a pass reads of a layer's cache.

B batch, G key-value heads, S entries, R settled entries that are read, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lvlm_atlas.reference.flow.states import Held


@dataclass(frozen=True)
class Reading:
    """Keys and values of the settled entries that are read, then those of all that are not settled."""

    key_BGSd: Tensor
    value_BGSd: Tensor
    settled: int
    """Settled entries R among them."""
    held: Callable[[], Held]
    """Which tokens these are, if somebody asks."""
    real_BGR: Tensor | None = None
    """False where one of them is padding, G one where heads are alike; None means nowhere."""
    bias_BGR: Tensor | None = None
    """What is added to their logits; None: nothing to any."""
