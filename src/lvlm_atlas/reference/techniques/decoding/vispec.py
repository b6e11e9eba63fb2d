"""ViSpec: a draft head that sees an image as a few learned tokens, and its gist at every word behind it.

Paper: kang2025vispec; official code (vispec/model/cnets_ours.py, `ImgAdaptor` and `Model.forward`), trees and their
verification as in EAGLE-2, which it builds on.
Symbols: `num_q` → Q; `total_token` − 1 → `nodes`, N; `depth` + 1 → `depth`; k → `top_k`; f → `feature_ND`;
g → `gist_1D`.

Departs:
1. The head's weights are random; the official ones are trained, and `img_fc` begins as the identity on the feature.
2. Stretches of fewer than Q − 1 vision tokens give the head as many tokens as they have, so that none takes the place
   of a word; the official code does not say.
3. Any number of images; the official code stops where a second one makes the number of its rows wrong.
4. As in the reference of EAGLE-2: ties, tokens dropped inside the LLM, sessions.

M, N tokens · R rows of the head · Q queries · D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.lvlm.config import TextConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.query_adaptor import QueryAdaptor
from lvlm_atlas.reference.ops.verification import verify_tree  # noqa: F401 - steps of the entry


class VisionAwareHead(FeatureHead):
    """The head of EAGLE with an adaptor of images, and a projection that adds an image's gist to features."""

    def __init__(self, config: TextConfig, queries: int) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.adaptor = QueryAdaptor(width, config.num_attention_heads, queries, bias=config.qkv_bias)
        self.img_fc = nn.Linear(2 * width, width)

    def enter_after(self, embed_MD: Tensor, feature_MD: Tensor, gist_1D: Tensor) -> Tensor:
        """What enters the layer at words: their embeddings, and the features before them with the gist (1, D) added."""
        seen_MD = self.img_fc(torch.cat([feature_MD, gist_1D.expand_as(feature_MD)], dim=-1))
        return self.enter(embed_MD, seen_MD)


def rows_of(
    prompt: Prompt, adapt: Callable[[Tensor], Tensor], enter: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads of a prompt (R, D), position ids (R,), and the gist (1, D) of the last image; 0 without one.

    Words stand beside the feature before them, which the gist of the last image before is added to. Of each stretch of
    vision tokens the first Q − 1 of the adaptor's outputs take the last places; the last output is its gist.

    Args:
        prompt: the prompt; place i gives the feature, place i + 1 what is read.
        adapt: from vision tokens (M, D) to (Q, D).
        enter: from embeddings and features (M, D) of words and the gist (1, D) to what enters.
    """
    embed_ND, feature_ND = prompt.embed_ND[1:], prompt.feature_ND[:-1]
    gist_1D, start = torch.zeros_like(prompt.embed_ND[:1]), 0
    rows, positions = [], []
    for vision, stretch in groupby(prompt.vision_N[1:].tolist()):
        here = slice(start, start + len([*stretch]))
        position_M = prompt.position_N[1:][here]
        if vision:
            out_QD = adapt(embed_ND[here])
            count = min(len(out_QD) - 1, len(position_M))
            rows.append(out_QD[:count])
            positions.append(position_M[len(position_M) - count :])
            gist_1D = out_QD[-1:]
        else:
            rows.append(enter(embed_ND[here], feature_ND[here], gist_1D))
            positions.append(position_M)
        start = here.stop
    return torch.cat(rows), torch.cat(positions), gist_1D


@dataclass(frozen=True)
class ViSpec(Technique):
    """ViSpec at `decode-loop`.

    Raises:
        ValueError: a parameter below its least.
    """

    num_q: int = 2
    """Learned queries Q of an image: all but one take its place, the last is its gist."""
    nodes: int = 29
    """Most tokens N of a tree."""
    depth: int = 4
    """Most tokens of a path, and passes of the head in a round."""
    top_k: int = 8
    """Children k of a node that is expanded, and nodes that are expanded on each level."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = (
        "draft-model",
        "llm-states",
        "modality-mask",
        "vision-in-sequence",
        "tree-attention",
        "cache-rollback",
    )

    def __post_init__(self) -> None:
        for name, least in (("num_q", 2), ("nodes", 1), ("depth", 1), ("top_k", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with words and a few tokens of each image."""
        run = at.run
        head = module_of(run, ("vispec", self.num_q), lambda: VisionAwareHead(run.config.text, self.num_q))
        prompt = Prompt.of(run.target, at.prefill)
        rows_RD, position_R, gist_1D = rows_of(prompt, head.adaptor, head.enter_after)

        def enter(embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
            return head.enter_after(embed_MD, feature_MD, gist_1D)

        draft = FeatureDraft(run.target, head.layer, enter, rows_RD, position_R, prompt, run.trace)
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
