"""The optimisers of the lab: Muon for matrices, AdamW for all else, their rates warmed up and falling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lvlm_atlas.lab.training import recipe


class Optimisers:
    """One step of all of them at a time.

    Args:
        named: the weights, by name.
        others: weights that AdamW gets whatever they are.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], others: Iterable[nn.Parameter] = ()) -> None:
        matrices, rest = list[nn.Parameter](), [*others]
        for name, weight in named:
            apart = weight.dim() != 2 or "embed" in name or "lm_head" in name
            (rest if apart else matrices).append(weight)
        self._weights = [*matrices, *rest]
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=recipe.MATRIX_RATE, weight_decay=recipe.DECAY, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=recipe.OTHER_RATE, betas=(0.9, 0.98), weight_decay=recipe.DECAY),
        ]
        self._rates = [group["lr"] for one in self.each for group in one.param_groups]

    def state(self) -> list[dict[str, Any]]:
        """What they need to go on."""
        return [one.state_dict() for one in self.each]

    def load(self, state: Iterable[dict[str, Any]]) -> None:
        """Go on from what `state` gave."""
        for one, kept in zip(self.each, state, strict=True):
            one.load_state_dict(kept)

    def step(self, share: float) -> None:
        """Clip the gradients, take a step at this share of the rates, and forget the gradients."""
        nn.utils.clip_grad_norm_([weight for weight in self._weights if weight.grad is not None], recipe.CLIP)
        groups = (group for one in self.each for group in one.param_groups)  # new ones where a run was resumed
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * share
        for one in self.each:
            one.step()
            one.zero_grad()
