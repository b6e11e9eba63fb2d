"""The LLaVA-1.5 dialect: CLIP ViT, MLP adapter, one position axis.

B batch, F frames, N tokens, V vision tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.points import Stack
from lvlm_atlas.reference.lvlm.prompt import Prompt, places_in_text
from lvlm_atlas.reference.lvlm.states import Patches
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

    def clips(self, pixel_values: Tensor | None = None) -> tuple[Tensor, ...]:
        """Frames (F, 3, H, W) of all images, which the tower takes at once.

        Raises:
            ValueError: the pixels have another shape.
        """
        if pixel_values is None:
            return ()
        side = self.config.vision.image_size
        if pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values must be (F, 3, {side}, {side}), got {tuple(pixel_values.shape)}")
        return (pixel_values,)

    def patches(
        self, frames_F3HW: Tensor, stack: Stack, on_layer: Callable[[int], None], on_read: Callable[[int], None]
    ) -> Patches:
        """What the tower makes of frames; those of another size are resized to its own."""
        side = self.config.vision.image_size
        if frames_F3HW.shape[-2:] != (side, side):
            frames_F3HW = functional.interpolate(frames_F3HW, (side, side), mode="bicubic", antialias=True)
        out: Patches = self.vision_tower(frames_F3HW, stack, on_layer, on_read)
        return out

    def features(self, patches: Patches) -> Tensor:
        """What the adapter gets (F, N, D_v): without the class token, unless the configuration keeps it."""
        if self.config.vision_feature_select_strategy == "full":
            return patches.hidden_FND
        return patches.hidden_FND[:, patches.prefix :]

    def expand(self, prompt_N: Tensor, vision: Seq[Tensor]) -> Tensor:
        """Token ids (1, N) with each placeholder repeated for its frame's vision tokens.

        Raises:
            ValueError: the prompt has not one placeholder a frame.
        """
        is_image_N = prompt_N == self.config.image_token_id
        placeholders, frames = int(is_image_N.sum()), sum(len(vision_FND) for vision_FND in vision)
        if placeholders != frames:
            raise ValueError(f"the prompt has {placeholders} image placeholders for {frames} frames; give one a frame")
        repeat_N = torch.ones_like(prompt_N)
        repeat_N[is_image_N] = torch.tensor([len(v) for vision_FND in vision for v in vision_FND], dtype=torch.long)
        return prompt_N.repeat_interleave(repeat_N)[None]

    def collapse(self, ids_N: Tensor) -> Tensor:
        """The inverse for the ids of a published processor: one placeholder a frame."""
        is_image_N = ids_N == self.config.image_token_id
        tokens = self.config.vision.patches + (self.config.vision_feature_select_strategy == "full")
        first_N = (is_image_N.cumsum(0) - 1) % tokens == 0
        return ids_N[~is_image_N | first_N]

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, vision: Seq[Tensor]) -> Prompt:
        """The assembled prompt.

        Args:
            ids_BN: token ids, a placeholder a vision token.
            real_BN: False where a token is padding.
            vision: vision tokens (F, N, D) of each clip.
        """
        flat = [vision_FND.flatten(0, 1) for vision_FND in vision]
        vision_VD = torch.cat(flat) if flat else torch.empty(0)
        is_vision_BN = ids_BN == self.config.image_token_id
        return Prompt(ids_BN, is_vision_BN, vision_VD, places_in_text(ids_BN, real_BN), real_BN)
