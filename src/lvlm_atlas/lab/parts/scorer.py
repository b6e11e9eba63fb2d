"""Dual encoders: frames, or patches of the model's own encoder, and questions in one space.

F frames, N patches, Q questions, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from lvlm_atlas.lab.parts import questions
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.photographs.scene import SIDE, labels
from lvlm_atlas.lab.tasks.task import TASKS, training_sample
from lvlm_atlas.lab.tasks.vocabulary import token_ids, vocabulary
from lvlm_atlas.lab.training.batch import normalised, shown
from lvlm_atlas.lab.training.reading import encoded
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig, VisionConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.modules.matcher import SMALL, ImageTextMatcher, MatcherConfig
from lvlm_atlas.reference.techniques.encoding.trim import matcher_config

TEXT = VisionConfig(image_size=8, patch_size=8, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=4, hidden_act="gelu")  # fmt: skip
TOWER = VisionConfig(image_size=SIDE, patch_size=8, hidden_size=96, intermediate_size=192, num_hidden_layers=4,
                     num_attention_heads=4, hidden_act="gelu")  # fmt: skip
"""Layers of the text tower; the image tower, of the shapes of the LLaVA dialect's."""
WIDTH, WORDS = 64, 24
"""Of the shared space; most tokens of a text."""
PICTURES = (("still", 12), ("needle", 2), ("burst", 2))
"""Samples of each kind in a step."""
SOFT = 8.0
"""How sharply the patches of a frame are pooled: the larger, the more its best patch says alone."""


class Contrast(Trainable):
    """A matcher, told which questions ask for what a frame shows, by a sigmoid for each pair.

    Args:
        matcher: the matcher.
        part: what is trained with it and stays; None: the matcher itself.
    """

    def __init__(self, matcher: ImageTextMatcher, part: nn.Module | None = None) -> None:
        super().__init__(part or matcher)
        self.matcher = matcher.requires_grad_()
        self.scale, self.offset = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-4.0))

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        scenes = [
            frame for kind, count in PICTURES for _ in range(count)
            for frame in training_sample(random, kind, 1).frames
        ]  # fmt: skip
        asked = [*{each: None for scene in scenes if (each := questions.on(random, scene))}]
        texts = [token_ids(*questions.prompt(random, each)) for each in asked]
        text_QP = torch.stack([self.matcher.embed_text(torch.tensor(text)) for text in texts])
        truth_FQ = torch.tensor([[float(questions.shows(scene, each)) for each in asked] for scene in scenes])
        frames_F3HW = normalised(*(scene.pixels for scene in scenes))
        logit_FQ = self.scale.exp() * self.likeness(model, frames_F3HW, normalize(text_QP, dim=-1)) + self.offset
        return binary_cross_entropy_with_logits(logit_FQ, truth_FQ, pos_weight=torch.tensor(4.0))

    def likeness(self, model: LVLM, frames_F3HW: Tensor, text_QP: Tensor) -> Tensor:  # noqa: ARG002
        """How alike frames and unit texts are (F, Q)."""
        return normalize(self.matcher.embed_frames(frames_F3HW), dim=-1) @ text_QP.mT


class PatchContrast(Contrast):
    """The same, of a frame's patches that resemble the text least."""

    def likeness(self, model: LVLM, frames_F3HW: Tensor, text_QP: Tensor) -> Tensor:
        """Minus the cosine, pooled softly over the patches of each frame."""
        patch_FNP = normalize(self.matcher.project(features(model, frames_F3HW)), dim=-1)
        return (-SOFT * patch_FNP @ text_QP.mT).logsumexp(dim=1) / SOFT


@torch.no_grad()
def features(model: LVLM, frames_F3HW: Tensor) -> Tensor:
    """What leaves the model's encoder, patches alone (F, N, D)."""
    return encoded(model, frames_F3HW).feature_TPD


class FrameScorer(PartTraining[ImageTextMatcher]):
    """The towers that rate frames."""

    summary = "the two towers of a dual encoder that rates frames by a question"
    departs = (
        "A small CLIP, its image tower begun from the model's encoder, trained by a sigmoid for each pair of a frame "
        "and a question on whether the frame shows what is asked for; papers take CLIP, BLIP or Long-CLIP as they are."
    )
    steps, pictures = 300, sum(count * (1 if kind == "still" else 8) for kind, count in PICTURES)

    def kept(self, config: Config, part: ImageTextMatcher) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {SMALL: part}

    def empty(self, config: Config) -> ImageTextMatcher:  # noqa: ARG002
        """See `PartTraining`."""
        return ImageTextMatcher(matcher_shapes(TOWER))

    def trainable(self, model: LVLM, seed: int) -> Contrast:
        """See `PartTraining`."""
        part = drawn(lambda: self.empty(model.config), seed=seed)
        if model.config.vision == TOWER:
            tower: nn.Module = model.get_submodule("dialect.vision_tower.vision_model")
            part.vision_model.load_state_dict(tower.state_dict())
        return Contrast(calmed(part))

    @torch.no_grad()
    def judged(self, model: LVLM, part: ImageTextMatcher, samples: int) -> Mapping[str, float]:  # noqa: ARG002
        """Shares of samples whose best frame is the one asked for, of 8 (`needle`, `burst`) or 4 (`images`)."""
        shares = {}
        for name in ("needle", "burst", "images"):
            task, found, asked = TASKS[name], 0, 0
            for number in range(samples):
                sample = task.sample(number)
                question = sample.turns[0].question
                if question[0] != "which":
                    continue
                text = torch.tensor(token_ids(*questions.prompt_of(len(sample.frames), question)))
                score_F = part.score(normalised(*(frame.pixels for frame in sample.frames)), text)
                found += sample.turns[0].answer == (str(int(score_F.argmax()) + 1),)
                asked += 1
            shares[name] = round(found / asked, 4)
        return shares


class PatchScorer(PartTraining[ImageTextMatcher]):
    """The text tower and projections that rate patches of the model's encoder."""

    summary = "a text tower and projections that rate patches of the model's own encoder by a question"
    departs = (
        "Trained on frames as a whole, pooled over the patches that resemble the question least: the papers find that "
        "CLIP's patches resemble a text the less, the more they show of it, and here that is what is trained."
    )
    steps, pictures = 250, FrameScorer.pictures

    def suits(self, config: Config) -> bool:
        """Whether the encoder is CLIP's."""
        return isinstance(config, LVLMConfig)

    def kept(self, config: Config, part: ImageTextMatcher) -> Mapping[Hashable, nn.Module]:
        """See `PartTraining`."""
        return {matcher_config(clip(config)): part}

    def empty(self, config: Config) -> ImageTextMatcher:
        """See `PartTraining`."""
        return ImageTextMatcher(matcher_shapes(replace(clip(config), num_hidden_layers=0)))

    def trainable(self, model: LVLM, seed: int) -> PatchContrast:
        """See `PartTraining`."""
        return PatchContrast(calmed(drawn(lambda: self.empty(model.config), seed=seed)))

    @torch.no_grad()
    def judged(self, model: LVLM, part: ImageTextMatcher, samples: int) -> Mapping[str, float]:
        """Shares of samples whose best patch shows the thing, or a character of the label; and of random patches."""
        shares = dict[str, float]()
        for name in ("where", "read"):
            right, chance = 0.0, 0.0
            for number in range(samples):
                sample = TASKS[name].sample(number)
                (frame,), question = sample.frames, sample.turns[0].question
                text_P = part.embed_text(torch.tensor(token_ids(*questions.prompt_of(1, question))))
                feature_1ND = features(model, normalised(frame.pixels))
                patch_NP = normalize(part.project(feature_1ND)[0], dim=-1)
                shown_N = [labels()[at] for at in shown(frame, model.config.vision.patch_size).tolist()]
                asked = [each in ([*frame.label] if name == "read" else question[1:]) for each in shown_N]
                right += asked[int((-patch_NP @ text_P).argmax())]
                chance += sum(asked) / len(asked)
            shares |= {name: round(right / samples, 4), f"{name} by chance": round(chance / samples, 4)}
        return shares


def matcher_shapes(vision: VisionConfig) -> MatcherConfig:
    """A matcher of the lab with this image tower."""
    return MatcherConfig(
        vision=vision, text=TEXT, vocab_size=len(vocabulary()), max_position_embeddings=WORDS, projection_dim=WIDTH
    )


def clip(config: Config) -> VisionConfig:
    """The encoder of a model that has CLIP's."""
    return cast("LVLMConfig", config).vision


def calmed(part: ImageTextMatcher) -> ImageTextMatcher:
    """Embeddings of words and positions as small as those that the model begins with."""
    with torch.no_grad():
        for name, weight in part.text_model.named_parameters():
            if "embed" in name:
                weight.mul_(0.2)
    return part
