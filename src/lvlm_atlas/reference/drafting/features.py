"""A draft by a head of one layer on the target's last hidden states.

Paper: li2024eagle, sec. 3.1: the head reads, for each place of the text, the target's feature there and the token that
was drawn from it, and gives the feature of the next place, from which the target's own head draws. Where the target has
not been yet, the head reads its own features.

M tokens of a pass, U unsettled tokens, R rows, C vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.drafting.draft import Predictor
from lvlm_atlas.reference.drafting.rounds import Verified, ancestors
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.attention import attend


class HeadLayer(Protocol):
    """The head's layer; attention is split in two, as in a decoder layer."""

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, d), keys and values (B, G, N, d) of what enters; rotated by the positions."""

    def finish(self, x_BND: Tensor, attended_BHNd: Tensor) -> Tensor:
        """The features that it predicts, from what entered and what attention gave."""


@dataclass(frozen=True)
class Prompt:
    """The prompt as a head may read it; place i is that of a token and of the target's feature there."""

    embed_ND: Tensor
    """What entered the LLM."""
    feature_ND: Tensor
    """The target's features, under its final norm; 0 where a technique dropped the token inside the LLM."""
    vision_N: Tensor
    """True where a token is visual."""
    position_N: Tensor
    """Position ids; (N, A) where they have A axes."""
    next_position: Tensor
    """Position id () of the token that follows."""

    @classmethod
    def of(cls, target: Target, prefill: Prefill) -> Prompt:
        """The prompt that the target read."""
        outputs = prefill.outputs
        return cls.with_features(prefill, in_place(prefill, target.final_norm(outputs.hidden_BND), outputs.index_BN))

    @classmethod
    def with_features(cls, prefill: Prefill, feature_BND: Tensor) -> Prompt:
        """The prompt beside features of another kind than those under the final norm."""
        inputs = prefill.inputs
        return cls(
            inputs.hidden_BND[0], feature_BND[0], inputs.vision_BN[0], inputs.position_BN[0], inputs.next_position[0]
        )


def in_place(prefill: Prefill, hidden_BKD: Tensor, index_BK: Tensor) -> Tensor:
    """States (B, N, D) of tokens of these places in the text, where they stand in the prompt; 0 elsewhere."""
    inputs = prefill.inputs
    place_BK = torch.searchsorted(inputs.index_BN.contiguous(), index_BK.contiguous())
    return torch.zeros_like(inputs.hidden_BND).scatter(1, place_BK[..., None].expand_as(hidden_BKD), hidden_BKD)


Enter = Callable[[Tensor, Tensor], Tensor]
"""From embeddings (M, D) of tokens and the features (M, D) of the places before them to what enters the layer."""


class FeatureDraft(Predictor):
    """A head on the target's features, with a cache of its one layer.

    Args:
        target: whose features it reads.
        layer: the head's.
        enter: what enters it at a token of the answer.
        rows_RD: what entered it in the prompt, for all that precedes the answer's first token.
        position_R: position ids of these rows, (R, A) where they have A axes: those of the tokens that they read.
        prompt: the prompt: its last feature stands before the answer's first token.
        trace: where passes are counted; the rows and the one that the first token completes are the draft's prompt.
        features: from the target's states of tokens (M, D), what entered each layer and what left the last, to their
            features; None takes what left the last, under the final norm.
        logits: from the head's own features (M, D) to logits (M, C); None is the target's head.
    """

    def __init__(
        self,
        target: Target,
        layer: HeadLayer,
        enter: Enter,
        rows_RD: Tensor,
        position_R: Tensor,
        prompt: Prompt,
        trace: Trace,
        *,
        features: Callable[[tuple[Tensor, ...]], Tensor] | None = None,
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.features = features or (lambda states: target.final_norm(states[-1]))
        self.logits = logits or target.head
        self.target, self.layer, self.enter, self.trace = target, layer, enter, trace
        self.store = PlainStore()
        self.next_position = prompt.next_position
        """Position id of the next token of the answer."""
        self._parents: list[int] = []
        self._last_1D = self._feature_UD = prompt.feature_ND[-1:]
        """The head's own feature after what it read for good, and after each unsettled token."""
        self._known_KD = prompt.feature_ND[-1:]
        """The target's features before the tokens that are read next."""
        self._read = 0
        trace.draft_tokens = len(rows_RD) + 1
        if len(rows_RD):
            causal = torch.ones(len(rows_RD), len(rows_RD), dtype=torch.bool, device=rows_RD.device).tril()
            self._run(rows_RD, position_R, causal)
            self.store.settle()

    def read(self, tokens: Seq[int]) -> Tensor:
        """See `Predictor`: the target's features stand before these tokens, not the head's own."""
        new = torch.tensor(tokens[self._read :])
        self._parents = []
        entered_MD = self.enter(self.target.embed(new), self._known_KD)
        self._feature_UD = self._pass(entered_MD, torch.arange(len(new)) - 1)
        logits_C = self.logits(self._feature_UD[-1:])[0]
        self.store.settle()
        self._read += len(new)
        self.next_position = self.next_position + len(new)
        self._parents, self._last_1D = [], self._feature_UD[-1:]
        self._feature_UD = self._feature_UD[:0]
        return logits_C

    def guess(self, token_M: Tensor, parent_M: Tensor | None = None) -> Tensor:
        """See `Predictor`: each token stands behind the head's own feature of its parent, guessed in an earlier pass.

        Without parents, all follow the last token that was guessed, or read.
        """
        parent_M = torch.full((len(token_M),), len(self._parents) - 1) if parent_M is None else parent_M
        before_MD = torch.cat([self._last_1D, self._feature_UD])[(parent_M + 1).to(self._last_1D.device)]
        out_MD = self._pass(self.enter(self.target.embed(token_M), before_MD), parent_M)
        self._feature_UD = torch.cat([self._feature_UD, out_MD])
        return self.logits(out_MD)

    def keep(self, count: int) -> None:
        """See `Predictor`; what is kept was read behind features of the head's own."""
        self.store.retain(torch.arange(count, device=self._last_1D.device))
        self.store.settle()
        if count:
            self._last_1D = self._feature_UD[count - 1 : count]
        self._parents, self._feature_UD = [], self._feature_UD[:0]
        self._read += count
        self.next_position = self.next_position + count

    def learn(self, verified: Verified) -> None:
        """See `Predictor`: the features before the accepted tokens and the target's own."""
        rows = torch.tensor(verified.rows, device=self._last_1D.device)
        self._known_KD = self.features(tuple(state_MD[rows] for state_MD in verified.states))

    def _pass(self, entered_MD: Tensor, parent_M: Tensor) -> Tensor:
        """A pass over tokens that follow unsettled ones of these places; −1 is the last one read."""
        old, device = len(self._parents), entered_MD.device
        self._parents += parent_M.tolist()
        seen_UU = ancestors(torch.tensor(self._parents))[1:, 1:]
        depth_M = (seen_UU.sum(1)[old:] - 1).to(device)
        position_M = self.next_position + depth_M
        settled = self.store.length - old
        self.trace.draft_passes += 1
        mask = functional.pad(seen_UU[old:], (settled, 0), value=True).to(device)
        return self._run(entered_MD, position_M, mask)

    def _run(self, entered_MD: Tensor, position_M: Tensor, mask_MS: Tensor) -> Tensor:
        """The head's features (M, D); the entries are added to its cache, unsettled."""
        query, *entries = self.layer.project(entered_MD[None], position_M[None])
        self.store.append(*entries)
        return self.layer.finish(entered_MD[None], attend(query, *self.store.read(), mask_MS))[0]
