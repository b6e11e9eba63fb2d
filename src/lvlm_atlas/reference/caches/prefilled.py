"""What prefill leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Sequence


@dataclass(frozen=True)
class Prefill:
    """The filled cache, the states around it and the logits of the next token."""

    inputs: Sequence
    """The prompt as it entered the first decoder layer."""
    outputs: Sequence
    """What left the last, before the final norm."""
    cache: Cache
    logits_BC: Tensor
    """Logits after the last token of each row."""
    attention: tuple[tuple[Probe, Tensor], ...]
    """Each layer's attention and the prompt places (B, N) of its tokens; empty unless the run retains it."""
    states: tuple[tuple[Tensor, Tensor], ...] = ()
    """What entered each layer (B, N, D), and the prompt places (B, N) of its tokens; empty unless it is retained."""

    @property
    def logits_C(self) -> Tensor:  # noqa: N802 - names carry shapes
        """Logits after the last token of a batch of one."""
        return self.logits_BC[0]
