"""A depth head: what is pasted on a photograph stands before it.

F frames, N patches.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.photographs.scene import Scene, scene
from lvlm_atlas.lab.training.batch import normalised, shown
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.techniques.encoding.tosa import DepthHead


class Far(Trainable):
    """A head, told which patches show nothing but the photograph."""

    part: DepthHead

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        scenes = [scene(random, training=True) for _ in range(Depth.pictures)]
        feature_FND, far_FN = first_features(model, scenes)
        return binary_cross_entropy_with_logits(self.part.linear(feature_FND)[..., 0], far_FN)


@torch.no_grad()
def first_features(model: LVLM, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What the encoder's first layer makes of patches (F, N, D), and 1 where they show nothing but the photograph."""
    seen: list[Tensor] = []

    def look(layer: int, _layers: int, patches: Patches) -> Patches:
        if layer == 0:
            seen.append(patches.hidden_FND[:, patches.prefix :])
        return patches

    model.dialect.patches(normalised(*(each.pixels for each in scenes)), Trace(), look)
    far_FN = torch.stack([shown(each, model.config.vision.patch_size) == 0 for each in scenes])
    return seen[0], far_FN.float()


class Depth(PartTraining[DepthHead]):
    """The depth head."""

    summary = "a head that tells from the encoder's first layer how far away a patch is"
    departs = "Two depths alone: what was put on a photograph, and that; the paper takes a sensor or a network."
    steps, pictures = 150, 16

    def suits(self, config: Config) -> bool:
        """Whether the encoder is CLIP's, whose patches ToSA may merge."""
        return isinstance(config, LVLMConfig)

    def kept(self, config: Config, part: DepthHead) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {DepthHead: part}

    def empty(self, config: Config) -> DepthHead:
        """See `PartTraining`."""
        return DepthHead(config.vision.hidden_size)

    def trainable(self, model: LVLM, seed: int) -> Far:
        """See `PartTraining`."""
        torch.manual_seed(seed)
        return Far(self.empty(model.config))

    @torch.no_grad()
    def judged(self, model: LVLM, part: DepthHead, samples: int) -> Mapping[str, float]:
        """The share of pairs of a patch before and one behind, drawn from all scenes, that it puts in that order."""
        random = np.random.default_rng(7)
        scenes = [scene(random, training=False) for _ in range(samples)]
        feature_FND, far_FN = first_features(model, scenes)
        order = part.linear(feature_FND)[..., 0].flatten().argsort().argsort().double()
        far = far_FN.flatten().bool()
        count = int(far.sum())
        right = (float(order[far].sum()) - count * (count - 1) / 2) / (count * int((~far).sum()))
        return {"order": round(right, 4)}
