"""An encoder's last layer, which the model does not read: CLIP's, as LLaVA leaves it out.

F frames, Q questions, N patches, D width, P width of the space that frames and texts share.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lvlm_atlas.lab.parts.part_training import PartTraining
from lvlm_atlas.lab.parts.scorer import Contrast, FrameScorer, calmed, clip, matcher_shapes
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training.batch import normalised, shown
from lvlm_atlas.lab.training.reading import encoded
from lvlm_atlas.reference.lvlm.ahead import unchanged
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.vision import Layer
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher
from lvlm_atlas.reference.techniques.encoding.llava_prumerge import look

LAYERS = "dialect.vision_tower.vision_model.encoder.layers"


class LayerContrast(Contrast):
    """The layer, whose class token is told which questions ask for what a frame shows."""

    part: Layer

    def likeness(self, model: LVLM, frames_F3HW: Tensor, text_QP: Tensor) -> Tensor:
        """The cosine (F, Q) of the class token behind the layer and unit texts."""
        with torch.no_grad():
            entered = encoded(model, frames_F3HW).patches
        left = self.part(entered, unchanged, lambda _entries: None)
        return normalize(self.matcher.project(left.hidden_FND[:, 0]), dim=-1) @ text_QP.mT


class LastLayer(PartTraining[Layer]):
    """The layer."""

    summary = "a last layer of the encoder, whose output the model does not read"
    departs = (
        "One layer on an encoder that stays as it is, trained by a sigmoid for each pair of a frame and a question on "
        "whether the frame shows what is asked for; CLIP trains all layers together, on pairs of pictures and texts."
    )
    steps, pictures = FrameScorer.steps, FrameScorer.pictures
    need = "unread-encoder-layer"

    def suits(self, config: Config) -> bool:
        """Whether the encoder is CLIP's, and all of its layers are read."""
        return isinstance(config, LVLMConfig) and config.encoder_layers == config.vision.num_hidden_layers

    def kept(self, config: Config, part: Layer) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """Nothing: see `grown`."""
        return {}

    def grown(self, model: LVLM, part: Layer) -> LVLM:
        """A model that has the layer too and answers as before."""
        config = model.config
        assert isinstance(config, LVLMConfig)  # noqa: S101
        depth = config.vision.num_hidden_layers
        vision = replace(config.vision, num_hidden_layers=depth + 1)
        taller = LVLM.empty(replace(config, vision=vision, vision_feature_layer=-2))
        layer = {f"{LAYERS}.{depth}.{name}": weight for name, weight in part.state_dict().items()}
        taller.load_state_dict(model.state_dict() | layer, assign=True)
        return taller.eval().requires_grad_(requires_grad=False)

    def empty(self, config: Config) -> Layer:
        """See `PartTraining`."""
        return Layer(clip(config))

    def trainable(self, model: LVLM, seed: int) -> LayerContrast:
        """See `PartTraining`."""
        matcher = drawn(
            lambda: ImageTextMatcher(matcher_shapes(replace(clip(model.config), num_hidden_layers=0))), seed=seed
        )
        return LayerContrast(calmed(matcher), drawn(lambda: self.empty(model.config), seed=seed))

    @torch.no_grad()
    def judged(self, model: LVLM, part: Layer, samples: int) -> Mapping[str, float]:
        """Shares of samples whose patch of most attention shows something; and of all patches."""
        taller, config = self.grown(model, part), clip(model.config)
        last = config.num_hidden_layers
        shares = dict[str, float]()
        for name in ("where", "read", "chart"):
            best, chance = 0.0, 0.0
            for number in range(samples):
                (frame,) = TASKS[name].sample(number).frames
                attention_1N, _, _ = look(encoded(taller, normalised(frame.pixels)).patches, last, self.summary)
                shows_N = shown(frame, config.patch_size) != 0
                best += float(shows_N[attention_1N[0].argmax()])
                chance += float(shows_N.float().mean())
            shares |= {name: round(best / samples, 4), f"{name} by chance": round(chance / samples, 4)}
        return shares
