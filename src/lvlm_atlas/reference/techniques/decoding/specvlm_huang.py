"""SpecVLM (Huang et al.): the question decides how the vision tokens are compressed for the draft head.

Paper: huang2025specvlm, sec. 3.3 and 3.4, mode (c), dynamic selection; trees as in EAGLE-2, which it builds on. No code
is released.
Symbols: compression ratios → `ratio`, `conv_ratio`; object queries → `queries`; total tokens − 1 → `nodes`; depth + 1 →
`depth`; Top-K → `top_k`.

Departs:
1. All weights are random; the official ones are trained online, with the target in the loop.
2. The paper does not say what exactly is compressed: here the rows that would enter the head's layer, embedding and
   feature joined, all vision tokens of a request together, in their order.
3. Nor where compressed tokens stand: here where the last token stands that they were made of; those of the resampler at
   the last vision tokens.
4. The gate reads the mean of the target's features of all text. The norm on the input is the one before attention.
5. As in the reference of EAGLE-2: ties, tokens dropped inside the LLM, sessions.

N tokens of the prompt · R rows · V vision rows · Q queries · n compressed tokens · D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

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

BRANCHES = ("text only", "prune", "pool", "convolve", "resample")
"""What the gate chooses from."""


def group_ends(tokens: int, ratio: int, device: torch.device) -> Tensor:
    """The place (n,) of the last of each `ratio` neighbours among so many tokens; the last group may be smaller."""
    return (torch.arange(-(-tokens // ratio), device=device) * ratio + ratio - 1).clamp(max=tokens - 1)


def pool(x_VD: Tensor, ratio: int) -> Tensor:
    """Means (n, D) of each `ratio` neighbours; the last group may be smaller."""
    return functional.avg_pool1d(x_VD.T[None], ratio, ratio, ceil_mode=True)[0].T


def convolve(x_VD: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A convolution (n, D) of neighbours, as many as its kernel is wide; the last group is filled up with zeros."""
    width = convolution.kernel_size[0]
    filled = functional.pad(x_VD.T, (0, -len(x_VD) % width))
    out_Dn: Tensor = convolution(filled[None])[0]
    return out_Dn.T


class ElasticHead(FeatureHead):
    """The head of EAGLE with the norm before its attention, a compressor of five branches, and the gate."""

    def __init__(self, config: TextConfig, conv_ratio: int, queries: int) -> None:
        super().__init__(config, input_norm=True)
        width = config.hidden_size
        self.convolution = nn.Conv1d(width, width, conv_ratio, conv_ratio)
        self.resampler = QueryAdaptor(width, config.num_attention_heads, queries, bias=config.qkv_bias)
        self.gate = nn.Linear(width, len(BRANCHES))

    def choose(self, feature_ND: Tensor, vision_N: Tensor) -> int:
        """The branch of the greatest logit, by the mean feature of the text."""
        text_N1 = (~vision_N)[:, None].to(feature_ND.dtype)
        return int(self.gate((feature_ND * text_N1).sum(0) / text_N1.sum()).argmax())

    def compress(self, x_VD: Tensor, branch: int, ratio: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Compressed tokens (n, D), and the places (n,) among the V where they stand, ascending."""
        tokens, device = len(x_VD), x_VD.device
        match BRANCHES[branch]:
            case "text only":
                return x_VD[:0], torch.arange(0, device=device)
            case "prune":
                place_n = torch.randperm(tokens, generator=generator)[: -(-tokens // ratio)].sort().values.to(device)
                return x_VD[place_n], place_n
            case "pool":
                return pool(x_VD, ratio), group_ends(tokens, ratio, device)
            case "convolve":
                width = self.convolution.kernel_size[0]
                return convolve(x_VD, self.convolution), group_ends(tokens, width, device)
            case _:
                out_QD = self.resampler(x_VD)[:tokens]
                return out_QD, torch.arange(tokens - len(out_QD), tokens, device=device)


def rows_of(
    prompt: Prompt, head: ElasticHead, branch: int, ratio: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What enters the head's layer of a prompt (R, D), and position ids (R,): words, and vision tokens compressed."""
    row_ND, vision_N = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1]), prompt.vision_N[1:]
    at_V, at_T = vision_N.nonzero()[:, 0], (~vision_N).nonzero()[:, 0]
    small_nD, among_n = (row_ND[:0], at_V) if not len(at_V) else head.compress(row_ND[at_V], branch, ratio, generator)
    place_R, order_R = torch.cat([at_T, at_V[among_n]]).sort()
    return torch.cat([row_ND[at_T], small_nD])[order_R], prompt.position_N[1:][place_R]


@dataclass(frozen=True)
class SpecVlmHuang(Technique):
    """SpecVLM of Huang et al. at `decode-loop`.

    Raises:
        ValueError: a parameter below 1.
    """

    ratio: int = 20
    """Vision tokens of which pruning and pooling leave one."""
    conv_ratio: int = 3
    """Vision tokens of which the convolution makes one."""
    queries: int = 2
    """Vision tokens that the resampler makes of all."""
    nodes: int = 59
    """Most tokens of a tree."""
    depth: int = 8
    """Most tokens of a path, and passes of the head in a round."""
    top_k: int = 10
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
        self.expect_at_least(1, "ratio", "conv_ratio", "queries", "nodes", "depth", "top_k")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its head prefilled with words and compressed vision tokens."""
        run = at.run
        key = ("specvlm-huang", self.conv_ratio, self.queries)
        head = module_of(run, key, lambda: ElasticHead(run.config.text, self.conv_ratio, self.queries))
        prompt = Prompt.of(run.target, at.prefill)
        branch = head.choose(prompt.feature_ND, prompt.vision_N)
        generator = torch.Generator().manual_seed(~run.request.seed)
        rows_RD, position_R = rows_of(prompt, head, branch, self.ratio, generator)
        draft = FeatureDraft(run.target, head.layer, head.enter, rows_RD, position_R, prompt, run.trace)
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, self.top_k), RejectionSampling())
