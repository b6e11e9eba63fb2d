"""Stretches of equal length, or as near to it as whole frames allow.

F frames, S stretches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def borders(frames: int, stretches: int) -> Tensor:
    """The first frame of each of S stretches of F frames, and the end of the last (S + 1,): ⌊i · F / S⌋, exactly.

    Stretch i runs from border i to the frame before border i + 1; lengths differ by one frame at most.

    Args:
        frames: F.
        stretches: S, from 1 to F.
    """
    return torch.arange(stretches + 1) * frames // stretches
