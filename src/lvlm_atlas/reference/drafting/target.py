"""The model that answers, as a draft may use it.

N tokens · M new tokens of a step · C vocabulary · D width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence


class Target(Protocol):
    """An LVLM: it reads a request, prefills and decodes."""

    @property
    def vocab_size(self) -> int:
        """Tokens C of its vocabulary."""

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""

    def embed(self, token_N: Tensor) -> Tensor:
        """Embeddings (N, D) of text tokens."""

    def begin(self, request: Request, techniques: Seq[Any] = ()) -> Any:
        """A run of the request with techniques; see `lvlm_atlas.reference.lvlm.technique.Run`."""

    def prepare(self, run: Any) -> Sequence:
        """The prompt of a run at the LLM's input, encoded, and changed by the techniques that act before the LLM."""

    def prefill(self, inputs: Sequence, run: Any = None, cache: Cache | None = None) -> Prefill:
        """Read a prompt into a new cache, or what follows into one; without a run nothing acts and nothing counts."""

    def step(self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """Logits (M, C) after new tokens, whose entries are added to the cache, unsettled.

        Args:
            token_M: the tokens.
            cache: from `prefill`.
            parent_M: the unsettled token that each one follows; −1 is the last settled one. None: a chain.
        """

    def hidden_states(
        self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None, until: int | None = None
    ) -> tuple[Tensor, ...]:
        """As `step`, without the head: what enters each layer (M, D), then what leaves the last, before the norm.

        Args:
            token_M: as in `step`.
            cache: as in `step`.
            parent_M: as in `step`.
            until: only this many first layers run, and the tokens wait in the cache: the next pass without it runs the
                other layers on them, and returns their states before those of its own tokens.
        """

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Logits (M, C) of hidden states that left the last layer: final norm and head."""

    def head(self, hidden_MD: Tensor) -> Tensor:
        """Logits (M, C) of hidden states that the final norm has seen: the head alone."""

    def adapt(self, hidden_FND: Tensor) -> Tensor:
        """What the model's own adapter makes of features of the encoder (F, N, D_v)."""

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, D) as the norm before the head would see them at the end."""

    def observe(self, request: Request) -> Prefill:
        """Read a request without techniques; every layer's attention is retained."""
