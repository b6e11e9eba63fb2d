"""Dynamic-LLaVA: small predictors say which vision tokens go on, and which generated tokens deep layers cache.

Paper: huang2025dynamicllava (abstract); code: Osilly/dynamic_llava, llava/model/language_model/
dynamic_modeling_llama.py (`VisionPredictor`, `TextPredictor`, `DynamicLlamaModel.forward`), cache_utils.py
(`DynamicCachePlus`), custom_transformer_layer.py (`SelfTransformerEncoderBlock`).

Symbols: sparse_layer l → `sparse_layer`, vision_keep_rate → `vision_keep_rate`, d_model → `width`,
use_output_text_predictor → `output_text_predictor`; 8 heads, 2 layers and MLPs of 4 · `width` as in the code.

Departs:
1. The weights of both predictors are random unless trained ones are given, so that what they keep means nothing; the
   authors train them together with the LLM, through hard Gumbel-softmax masks.
2. Decoding with a cache; without one the code drops generated tokens from the whole sequence at l in every step.
3. All vision tokens of a prompt are rated together, wherever they stand; the code has one span of one image.
4. Of equal scores the earlier token stays; the code's `argsort` leaves that open.
5. Drafted tokens are judged once they are accepted. Until then those behind them see them, as the code's own step sees
   its token.
6. Beside another technique that acts between LLM layers it is refused: the rate is of the tokens that entered the LLM.
   What else evicts from the cache does so once it is known which new tokens are cached at all.
7. The predictor of the question's tokens, off by default in the code, is not here.

B batch, V vision tokens, K kept, M tokens that settle, D width of the LLM, C of the predictor, G key-value heads,
S entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import CacheStep, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal

HEADS, BLOCKS = 8, 2


class Block(nn.Module):
    """Pre-norm attention among all tokens, and an MLP of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BVC: Tensor) -> Tensor:
        """(B, V, C) → (B, V, C)."""
        heads = self.qkv(self.norm1(x_BVC)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x_BVC = x_BVC + self.proj(attend(*heads).transpose(1, 2).flatten(2))
        out: Tensor = x_BVC + self.fc2(functional.gelu(self.fc1(self.norm2(x_BVC))))
        return out


def narrowed(width: int) -> list[nn.Module]:
    """An MLP from the predictor's width to two logits, which halves it twice on the way."""
    return [
        nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width // 4), nn.GELU(), nn.Linear(width // 4, 2),
    ]  # fmt: skip


class VisionPredictor(nn.Module):
    """Two logits for each vision token, keep and drop, from its own state and the mean over all of them."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.GELU())
        self.blocks = nn.Sequential(*(Block(width) for _ in range(BLOCKS)))
        self.out = nn.Sequential(*narrowed(width))

    def forward(self, x_BVD: Tensor) -> Tensor:
        """(B, V, D) → (B, V, 2)."""
        out: Tensor = self.out(with_mean(self.blocks(self.down(x_BVD))))
        return out


class TextPredictor(nn.Module):
    """Two logits for each generated token, keep and drop, from its own state."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.GELU(), *narrowed(width))

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, D) → (B, 2)."""
        out: Tensor = self.out(x_BD)
        return out


def with_mean(x_BVC: Tensor) -> Tensor:
    """The first half of the channels as they are, the second replaced by its mean over the tokens."""
    local_BVc, global_BVc = x_BVC.chunk(2, dim=2)
    return torch.cat([local_BVc, global_BVc.mean(dim=1, keepdim=True).expand_as(global_BVc)], dim=2)


def keep_likeliest(logit_BV2: Tensor, vision_keep_rate: float) -> Tensor:
    """Ranks (B, K), ascending, of the int(rate · V) tokens whose first logit stands out most from the second."""
    keep = int(logit_BV2.shape[1] * vision_keep_rate)
    return top_places(logit_BV2.float().log_softmax(dim=-1)[..., 0], keep)


def is_cached(logit_B2: Tensor) -> Tensor:
    """True (B,) where the first logit is the greater one."""
    return logit_B2[:, 0] > logit_B2[:, 1]


@dataclass(frozen=True)
class DynamicLlava(Technique):
    """Prunes vision tokens before layer `sparse_layer`, and from there on evicts generated tokens that do not matter.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `width` is no multiple of 8.
    """

    sparse_layer: int = 2
    """The first layer that runs on the kept tokens; the predictors read what enters it."""
    vision_keep_rate: float = 0.2
    """Share of the vision tokens kept."""
    output_text_predictor: bool = True
    """Whether generated tokens are judged, too."""
    width: int = 512
    """Width of the predictors."""

    acts_at: ClassVar = ("llm-layer", "cache-step")
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence", "training-data")
    withholds: ClassVar = ("equal-frames",)
    admits: ClassVar = True

    def __post_init__(self) -> None:
        self.expect_at_least(1, "sparse_layer")
        self.expect_shares("vision_keep_rate")
        if self.width < HEADS:
            raise ValueError(f"width must be at least {HEADS}, got {self.width}")
        if self.width % HEADS:
            raise Refusal(f"width must be a multiple of {HEADS}, the heads of the predictor, got {self.width}")

    def begin(self, run: Run) -> Sparsifying:
        """What acts in a run, with the predictors that its model keeps.

        Raises:
            Refusal: the LLM has no layer of that index, so that nothing would ever be pruned, or another technique may
                drop tokens between its layers.
        """
        expect_alone(run, self, "Dynamic-LLaVA keeps a share of the tokens that entered the LLM")
        last, hidden = run.config.text.num_hidden_layers - 1, run.config.text.hidden_size
        if self.sparse_layer > last:
            raise Refusal(f"sparse_layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.sparse_layer}")
        vision = module_of(run, (VisionPredictor, self.width), lambda: VisionPredictor(hidden, self.width))
        text = None
        if self.output_text_predictor:
            text = module_of(run, (TextPredictor, self.width), lambda: TextPredictor(hidden, self.width))
        return Sparsifying(self, vision, text)


@dataclass
class Sparsifying:
    """Dynamic-LLaVA in one run or session."""

    setting: DynamicLlava
    vision: VisionPredictor
    text: TextPredictor | None
    """None: generated tokens are not judged."""
    settled: dict[int, Tensor] = field(default_factory=dict)
    """Of the tokens that settle now, by place in the text, those that not all rows cache: True (B,) where one does."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer vision tokens from layer `sparse_layer` on; position ids are kept."""
        sequence, setting = at.sequence, self.setting
        if at.layer != setting.sparse_layer:
            return sequence
        place_BV = sequence.vision_places()
        if not place_BV.shape[1]:
            return sequence
        return self.pruned(sequence, self.vision(take(sequence.hidden_BND, place_BV)))

    def pruned(self, sequence: Sequence, logit_BV2: Tensor) -> Sequence:
        """The vision tokens that the predictor's logits let stay."""
        return sequence.keep_vision(keep_likeliest(logit_BV2, self.setting.vision_keep_rate))

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at what stays: of the generated tokens that settle now those that the predictor keeps."""
        text, first = self.text, self.setting.sparse_layer
        if text is None or at.prompt or at.layer < first:
            return None
        if at.layer == first:
            cached = {place: is_cached(text(state_BD)) for place, state_BD in at.entered.items()}
            all_M = torch.stack([*cached.values()]).all(dim=1).tolist()
            self.settled = {place: each for (place, each), all_ in zip(cached.items(), all_M, strict=True) if not all_}
        if not self.settled:
            return None
        keep_BGS = torch.ones_like(at.held.vision_BGS)
        for place, cached_B in self.settled.items():
            keep_BGS &= (at.held.index_BGS != place) | cached_B[:, None, None]
        return keep_BGS
