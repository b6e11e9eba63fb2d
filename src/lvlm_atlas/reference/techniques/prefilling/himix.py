"""HiMix: layers read keys and values of a fixed vision sequence, and run the text alone.

Paper: zhang2025himix. Code: Xuange923/HiMix, tinyllava/model/llm/modeling_files/modeling_llama.py (`LlamaAttention`,
`LlamaDecoderLayer`, `_prepare_4d_causal_attention_mask_with_cache_position_qk`) and
tinyllava/model/modeling_tinyllava.py (`prepare_inputs_labels_for_img_text`).

Departs:
1. The vision sequence is what the model's own adapter gives, of the LLM's width; the released code has no adapter, and
   projects the encoder's features in each layer.
2. The weights of norm, keys and values are random, or given; the text's are the model's own. The authors train both.

B batch, V vision tokens, T text tokens, N = V + T, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import Attention, LlmInput, Projections
from lvlm_atlas.reference.lvlm.decoder import Reading
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.modules.vision_reading import MixtureProjections, VisionReading
from lvlm_atlas.reference.ops.places import places_of


def vision_first(sequence: Sequence) -> Sequence:
    """A prompt as its layers read it: vision tokens in front, all at position 0, the text counted from 0 behind them.

    A rotation by position 0 is none, so that their keys are not turned.
    """
    vision_BV, text_BT = sequence.vision_places(), places_of(~sequence.vision_BN)
    moved = sequence.keep(torch.cat([vision_BV, text_BT], dim=1))
    seen, text = vision_BV.shape[1], text_BT.shape[1]
    position_N: Tensor = torch.arange(-seen, text, device=moved.position_BN.device).clamp(min=0)
    position_BN = position_N.to(moved.position_BN.dtype).expand_as(moved.position_BN)
    next_B = torch.full_like(moved.next_position, text)
    return replace(moved, position_BN=position_BN, origin_BN=position_BN, next_B=next_B, silent=seen)


@dataclass(frozen=True)
class HiMix(Technique):
    """The prompt with silent vision tokens in front, and projections of each layer that read them."""

    acts_at: ClassVar = ("llm-input", "projections", "attention")
    needs: ClassVar = ("modality-mask", "one-position-axis", "training-data", "vision-in-sequence")

    def begin(self, run: Run) -> Mixing:
        """What acts in a run or session."""
        text = run.config.text
        build = partial(
            VisionReading, text.hidden_size, text.num_key_value_heads, text.head_dim, eps=text.rms_norm_eps,
            bias=text.qkv_bias,
        )  # fmt: skip
        return Mixing(module_of(run, self, lambda: nn.ModuleList(build() for _ in range(text.num_hidden_layers))))


@dataclass(frozen=True)
class Mixing:
    """What reads vision tokens in each layer."""

    readings: nn.ModuleList

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with its vision tokens in front."""
        return vision_first(at.sequence)

    def exchange_projections(self, at: Projections) -> Reading:
        """The layer's own, and those of vision tokens beside them."""
        return MixtureProjections(at.own, cast("VisionReading", self.readings[at.layer]))

    def choose_blocks(self, at: Attention) -> None:
        """Nothing: the text attends to all vision tokens and to the text before it, in one softmax."""
