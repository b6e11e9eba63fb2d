"""A draft: a model of the same words and a quarter of the size, which learns what the model would say.

F frames, P patches of a frame, N tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.photographs.scene import labels
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import TASKS, training_sample
from lvlm_atlas.lab.tasks.vocabulary import ASK, token_ids
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, Batch, batch
from lvlm_atlas.lab.training.checkpoint import pretrained_files
from lvlm_atlas.lab.training.reading import encoded, logits, sequence
from lvlm_atlas.lab.training.shapes import smaller
from lvlm_atlas.lab.training.trainer import PICTURES
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.modules.draft_model import DRAFT

SHARE = 0.25
"""Of the model's numbers, the most that the draft has."""
ENCODER_LAYERS = 2
"""Layers of the encoder, which begin as the model's own first ones."""
KINDS = {"still": 0.4, "chart": 0.1, "caption": 0.2, "images": 0.1, "needle": 0.1, "burst": 0.1}
"""How often a step shows pictures of a kind."""
LOOKING = 0.15
"""Share of the steps in which it learns to see alone: to tell what each patch shows."""


class Distilled(Trainable):
    """A draft, which learns the model's distributions at the tokens of answers."""

    part: LVLM

    def __init__(self, part: LVLM) -> None:
        super().__init__(part)
        self.tell = nn.Linear(part.config.vision.hidden_size, len(labels()))

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        shown = drawn_batch(model, random)
        frames = encoded(self.part, shown.frames_F3HW)
        weight = torch.ones(len(labels()))
        weight[0] = recipe.BACKGROUND
        loss = cross_entropy(self.tell(frames.feature_TPD).flatten(0, 1), shown.shown_TP.flatten(), weight)
        if self.done < LOOKING:
            return loss
        ours = logits(self.part, sequence(self.part, shown, frames))
        return loss + divergence(ours, said(model, shown), shown)


def divergence(ours_BNC: Tensor, theirs_BNC: Tensor, shown: Batch) -> Tensor:
    """How far a draft's distributions are from the model's at the tokens of answers, see `kl_divergence`."""
    answers_BN = shown.target_BN != UNJUDGED
    return kl_divergence(ours_BNC[answers_BN], theirs_BNC[answers_BN])


def kl_divergence(ours_MC: Tensor, theirs_MC: Tensor) -> Tensor:
    """Kullback's and Leibler's divergence () of distributions from the model's, mean over tokens, of their logits."""
    ours, theirs = (each.log_softmax(-1) for each in (ours_MC, theirs_MC))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


def agreement(model: LVLM, samples: int, said_of: Callable[[Batch], tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Shares of tokens at which a draft's likeliest is the model's, by task with answers of several words.

    Of answers, their first tokens left out, which follow from the prompt: drafts begin behind them.

    Args:
        model: the model.
        samples: held-back samples of each task.
        said_of: what draft and model say at each place of a batch, logits (B, N, C) each.
    """
    shares = dict[str, float]()
    for name, task in TASKS.items():
        same, answers = list[bool](), 0
        for number in range(samples):
            shown = batch([task.sample(number)], model.config)
            drafted_BN = (shown.target_BN != UNJUDGED) & (shown.ids_BN != token_ids(ASK)[0])
            ours, theirs = (each[drafted_BN].argmax(-1) for each in said_of(shown))
            same += (ours == theirs).tolist()
            answers += int((shown.ids_BN == token_ids(ASK)[0]).sum())
        if len(same) > answers:  # else nothing but the ends of answers
            shares[name] = round(sum(same) / len(same), 4)
    return shares


def drawn_samples(random: np.random.Generator, pictures: int, kinds: Mapping[str, float] = KINDS) -> list[Sample]:
    """Samples of one kind to train on, of so many pictures together."""
    kind = [*kinds][random.choice(len(kinds), p=[*kinds.values()])]
    return [training_sample(random, kind, recipe.WORDS) for _ in range(pictures // PICTURES[kind])]


def drawn_batch(model: LVLM, random: np.random.Generator) -> Batch:
    """A batch to train on."""
    return batch(drawn_samples(random, recipe.FRAMES), model.config)


def said(model: LVLM, shown: Batch) -> Tensor:
    """What a model says at each place, logits (B, N, C)."""
    with torch.no_grad():
        return logits(model, sequence(model, shown, encoded(model, shown.frames_F3HW)))


class Draft(PartTraining[LVLM]):
    """The draft."""

    summary = "a draft of a quarter of the model's size"
    departs = (
        "Begins with the first layers of the model's encoder and is trained on the model's distributions at the tokens "
        "of right answers, which most of its own are; papers draw answers from the model, and begin from a small model."
    )
    steps, pictures = 700, recipe.FRAMES

    def kept(self, config: Config, part: LVLM) -> Mapping[Hashable, nn.Module]:  # noqa: ARG002
        """See `PartTraining`."""
        return {DRAFT: part}

    def empty(self, config: Config) -> LVLM:
        """See `PartTraining`."""
        vision = {"num_hidden_layers": ENCODER_LAYERS}
        text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1}  # fmt: skip
        return LVLM.empty(smaller(config, vision, text))

    def trainable(self, model: LVLM, seed: int) -> Distilled:
        """See `PartTraining`."""
        draft = fill(self.empty(model.config), seed=seed, dtype=torch.float32, device="cpu")
        theirs = dict(model.named_parameters())
        with torch.no_grad():
            for name, weight in draft.named_parameters():
                if name in theirs and theirs[name].shape == weight.shape and not name.startswith("language_model"):
                    weight.copy_(theirs[name])
                elif "embed" in name and weight.dim() < 3:
                    weight.mul_(0.2)
        torch.manual_seed(seed)
        return Distilled(draft)

    @torch.no_grad()
    def judged(self, model: LVLM, part: LVLM, samples: int) -> Mapping[str, float]:
        """Shares of drafted tokens that are the model's, by task; see `agreement`."""
        return agreement(model, samples, lambda shown: (said(part, shown), said(model, shown)))

    def files(self, part: LVLM) -> Mapping[str, bytes]:
        """See `PartTraining`: the published format."""
        return pretrained_files(part)

    def read(self, folder: Path, model: LVLM) -> LVLM:
        """See `PartTraining`."""
        return LVLM.from_pretrained(folder, dtype=torch.float32, device=model.device)
