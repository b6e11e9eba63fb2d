"""The head of SpecVLM (Huang et al.), whose gate chooses how a picture is compressed.

N tokens, R rows of the head, D width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from lvlm_atlas.lab.parts.prompt_head import PromptHead, prefilled, unrolled
from lvlm_atlas.lab.parts.prompt_heads import OTHERWISE
from lvlm_atlas.lab.training.batch import UNJUDGED, Batch
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.features import Prompt
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.techniques.decoding.specvlm_huang import BRANCHES, ElasticHead, SpecVlmHuang, rows_of


class ElasticHeadTraining(PromptHead[ElasticHead]):
    """The head, its branches and its gate."""

    summary = "a draft head of one layer, with five ways to compress a picture and a gate that chooses one"
    departs = f"{OTHERWISE}, expected over what the gate chooses; no branch costs more than another."
    technique = SpecVlmHuang()

    def key(self) -> Hashable:
        """See `PromptHead`."""
        return "specvlm-huang", self.technique.conv_ratio, self.technique.queries

    def empty(self, config: Config) -> ElasticHead:
        """See `PartTraining`."""
        return ElasticHead(config.text, self.technique.conv_ratio, self.technique.queries)

    def begun(self, head: ElasticHead) -> None:
        """See `PromptHead`."""

    def drafts(self, model: LVLM, head: ElasticHead, read: Prefill) -> Iterator[Tensor]:
        """See `PromptHead`: by the branch that the gate chooses; here it reads the answer's features too."""
        prompt = Prompt.of(model, read)
        return self._branch(head, prompt, head.choose(prompt.feature_ND, prompt.vision_N))

    def loss(self, model: LVLM, head: ElasticHead, shown: Batch) -> Tensor:
        """See `PromptHead`: the mean over the branches, as likely as the gate holds them by the first question."""
        read = prefilled(model, shown)
        prompt = Prompt.of(model, read)
        asked = int((shown.target_BN[0] != UNJUDGED).nonzero()[0]) + 1
        likely: Tensor = head.gate(prompt.feature_ND[:asked][~prompt.vision_N[:asked]].mean(0)).softmax(-1)
        losses = [
            self.distance(model, head, next(self._branch(head, prompt, branch)), read, shown)
            for branch in range(len(BRANCHES))
        ]
        return (likely * torch.stack(losses)).sum()

    def _branch(self, head: ElasticHead, prompt: Prompt, branch: int) -> Iterator[Tensor]:
        rows = rows_of(prompt, head, branch, self.technique.ratio, torch.Generator().manual_seed(0))
        return unrolled(head.layer, *rows, self.unrolled)
