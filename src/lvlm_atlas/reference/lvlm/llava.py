"""The LLaVA-1.5 dialect: CLIP ViT, MLP adapter, one position axis.

B batch, F frames, N tokens, V vision tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.prompt import Clip, Prompt, Seen, expand, places_in_text, same_size
from lvlm_atlas.reference.lvlm.vision import VisionTower


class Projector(nn.Module):
    """The adapter: linear, activation, linear."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision.hidden_size, config.text.hidden_size, bias=config.projector_bias)
        self.linear_2 = nn.Linear(config.text.hidden_size, config.text.hidden_size, bias=config.projector_bias)
        self.act = ACTIVATIONS[config.projector_hidden_act]

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D_v) → (F, N, D)."""
        out: Tensor = self.linear_2(self.act(self.linear_1(hidden_FND)))
        return out


class Llava(nn.Module):
    """What is LLaVA's own between pixels and decoder; see `lvlm_atlas.reference.lvlm.dialect.Dialect`."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config)
        self.adapter = Projector(config)

    def clips(self, pixel_values: Tensor | None = None) -> tuple[Clip, ...]:
        """See `Dialect`: frames (F, 3, H, W) of all images at once."""
        if pixel_values is None:
            return ()
        side = self.config.vision.image_size
        if pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values must be (F, 3, {side}, {side}), got {tuple(pixel_values.shape)}")
        return (Clip(pixel_values),)

    def stills(self, clips: Seq[Clip]) -> Tensor:
        """See `Dialect`."""
        return same_size([clip.frames_F3HW for clip in clips])

    def clip(self, request: Request) -> Clip:
        """See `Dialect`."""
        return Clip(request.frames_F3HW)

    @property
    def offers(self) -> frozenset[str]:
        """See `Dialect`."""
        return frozenset({"cls-token", "free-patches", "vision-in-sequence"})

    def patches(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """See `Dialect`: frames of another size are resized to the tower's."""
        side = self.config.vision.image_size
        if frames_F3HW.shape[-2:] != (side, side):
            frames_F3HW = functional.interpolate(frames_F3HW, (side, side), mode="bicubic", antialias=True)
        out: Patches = self.vision_tower(frames_F3HW, trace, between, attending)
        return out

    def features(self, patches: Patches) -> Tensor:
        """See `Dialect`: without the class token, unless the configuration keeps it."""
        if self.config.vision_feature_select_strategy == "full":
            return patches.hidden_FND
        return patches.hidden_FND[:, patches.prefix :]

    def seen(self, tokens_TND: Tensor, patches: Patches, clip: Clip) -> Seen:  # noqa: ARG002
        """See `Dialect`: positions do not depend on the patches."""
        return Seen(tokens_TND)

    def expand(self, request: Request, seen: Seen) -> Tensor:
        """See `Dialect`."""
        frames, tokens = seen.tokens_TND.shape[:2]
        return expand(request.prompt_N, request.image_token_id, [tokens] * frames)

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, seen: Seq[Seen]) -> Prompt:
        """See `Dialect`."""
        flat = [each.tokens_TND.flatten(0, 1) for each in seen]
        vision_VD = torch.cat(flat) if flat else torch.empty(0)
        is_vision_BN = ids_BN == self.config.image_token_id
        position_BN = places_in_text(ids_BN, real_BN)
        spans = tuple(length for each in seen for length in each.span_lengths)
        return Prompt(ids_BN, is_vision_BN, vision_VD, position_BN, real_BN, spans)
