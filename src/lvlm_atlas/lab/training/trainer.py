"""One training run: step by step, resumable, the same for the same seed.

F frames, P patches, D width, B samples, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lvlm_atlas.lab.photographs.scene import labels
from lvlm_atlas.lab.tasks.frames import FRAMES as VIDEO_FRAMES
from lvlm_atlas.lab.tasks.frames import IMAGES
from lvlm_atlas.lab.tasks.task import training_sample
from lvlm_atlas.lab.training import interrupted, recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, Batch, batch
from lvlm_atlas.lab.training.optimisers import Optimisers
from lvlm_atlas.lab.training.reading import encoded, logits, sequence
from lvlm_atlas.lab.training.shapes import grid, patch_order, vision_tokens
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.weights import fill

PICTURES = {
    "still": 1,
    "chart": 1,
    "count": 1,
    "caption": 1,
    "images": IMAGES,
    "needle": VIDEO_FRAMES,
    "burst": VIDEO_FRAMES,
}
"""Frames of a sample of each kind."""


@dataclass
class Trainer:
    """A model in training.

    Args:
        config: its shapes.
        seed: of its first weights and of all that it is shown.
        kept: the file that a run is kept in, and goes on from.
    """

    config: Config
    seed: int
    kept: Path
    step: int = field(init=False, default=0)
    model: LVLM = field(init=False)
    tell: nn.Linear = field(init=False)
    """From the encoder's features to what a patch shows."""
    place: nn.Linear = field(init=False)
    """From the same to the row and the column in which it lies."""

    def __post_init__(self) -> None:
        self.model = fill(LVLM.empty(self.config), seed=self.seed, dtype=torch.float32, device="cpu")
        torch.manual_seed(self.seed)
        self.tell = nn.Linear(self.config.vision.hidden_size, len(labels()))
        self.place = nn.Linear(self.config.vision.hidden_size, 2 * grid(self.config))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.requires_grad_()
                if "embed" in name and weight.dim() < 3:
                    weight.mul_(0.2)  # one is as large as what a patch or token says
        heads = (*self.tell.parameters(), *self.place.parameters())
        self._optimisers = Optimisers(self.model.named_parameters(), heads)
        if state := interrupted.kept(self.kept):
            self._resume(state)

    def run(self) -> Iterator[tuple[int, float, float]]:
        """Train to the end; yields the step and the two losses after each, of answers and of patches."""
        while self.step < recipe.total():
            losses = self._one(recipe.phase_of(self.step))
            self.step += 1
            if self.step % interrupted.SAVE_EVERY == 0 or self.step == recipe.total():
                self._keep()
            yield self.step, *losses

    def _one(self, phase: recipe.Phase) -> tuple[float, float]:
        random = np.random.default_rng((self.seed, self.step))
        whole = vision_tokens(self.config)
        index_FK = _some(random, whole) if phase.sparse and random.random() < phase.sparse else None
        shown = self._shown(random, phase, whole if index_FK is None else index_FK.shape[1])
        with torch.enable_grad():
            feature_TPD, answers = self._forward(shown, index_FK, language=phase.language)
            told = self.tell(feature_TPD).flatten(0, 1)
            weight = torch.ones(told.shape[-1])
            weight[0] = recipe.BACKGROUND
            patches = cross_entropy(told, shown.shown_TP.flatten(), weight)
            places = self._placed(feature_TPD) if phase.placed else 0.0
            (answers + patches + phase.placed * places).backward()
        self._optimisers.step(recipe.rate_share(self.step))
        return float(answers.detach()), float(patches.detach())

    def _shown(self, random: np.random.Generator, phase: recipe.Phase, tokens: int) -> Batch:
        kinds = [*phase.kinds]
        kind = kinds[random.choice(len(kinds), p=[*phase.kinds.values()])]
        samples = [training_sample(random, kind, recipe.WORDS) for _ in range(recipe.FRAMES // PICTURES[kind])]
        return batch(samples, self.config, tokens)

    def _forward(self, shown: Batch, index_FK: Tensor | None, *, language: bool) -> tuple[Tensor, Tensor]:
        """The encoder's features, and the loss of the answers; that is 0 where the encoder alone is trained.

        Args:
            shown: frames and words.
            index_FK: the vision tokens of each frame that the language model gets; None: all.
            language: whether the whole model is trained.
        """
        frames = encoded(self.model, shown.frames_F3HW)
        if not language:
            return frames.feature_TPD, torch.zeros(())
        told = logits(self.model, sequence(self.model, shown, frames, index_FK))
        answers = cross_entropy(told.flatten(0, 1), shown.target_BN.flatten(), ignore_index=UNJUDGED)
        return frames.feature_TPD, answers

    def _placed(self, feature_TPD: Tensor) -> Tensor:
        """The loss of rows and columns."""
        side, order_P = grid(self.config), patch_order(self.config)
        told = self.place(feature_TPD).unflatten(-1, (2, side)).flatten(0, 2)
        place_P2 = torch.stack([order_P // side, order_P % side], dim=-1)
        return cross_entropy(told, place_P2.expand(len(feature_TPD), -1, -1).flatten())

    def _keep(self) -> None:
        interrupted.keep(self.kept, {
            "step": self.step, "model": self.model.state_dict(), "tell": self.tell.state_dict(),
            "place": self.place.state_dict(), "optimisers": self._optimisers.state(),
        })  # fmt: skip

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.tell.load_state_dict(state["tell"])
        self.place.load_state_dict(state["place"])
        self._optimisers.load(state["optimisers"])


def _some(random: np.random.Generator, tokens: int) -> Tensor:
    """Equally many places (F, K) among the vision tokens of each frame of a step, ascending."""
    kept = round(tokens * random.uniform(recipe.LEAST_KEPT, 1.0))
    order_FN = random.random((recipe.FRAMES, tokens)).argsort(-1)
    return torch.from_numpy(order_FN[:, :kept].copy()).sort(-1).values
