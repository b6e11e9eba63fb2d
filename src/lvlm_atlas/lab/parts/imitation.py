"""Modules of techniques that learn to have the model say with them what it says without.

N tokens, M of them answers, C vocabulary.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from lvlm_atlas.lab.parts.draft import KINDS, drawn_samples, kl_divergence, said
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.photographs.scene import SIDE
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.tasks.vocabulary import ASK, token_ids
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, batch, opening
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.modules.kept import brought, drawn, give
from lvlm_atlas.schema.record import Setting

SEEDS = 2**31
"""Seeds of requests that training draws from."""


class Penalised(Protocol):
    """What acts in a run, and says what is to be added to the loss."""

    penalty: Tensor


def request_on(frames_F3HW: Tensor, config: Config) -> Request:
    """A request on frames that asks nothing in particular."""
    prompt_N = torch.tensor(token_ids(*opening(len(frames_F3HW)), ASK))
    return Request(frames_F3HW=frames_F3HW, prompt_N=prompt_N, image_token_id=config.placeholders[0], max_new_tokens=1)


class Imitating(Trainable):
    """The modules, with which the model learns to say what it says without them."""

    def __init__(self, part: nn.Module, kind: Imitation) -> None:
        super().__init__(part)
        self.kind = kind

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        samples = drawn_samples(random, self.kind.pictures, self.kind.kinds)
        return self.kind.loss(model, samples, int(random.integers(SEEDS)))


RELAXED = "Where the technique chooses, training goes through a relaxation of the choice."
"""What departs further where it does."""


class Imitation(PartTraining[nn.Module]):
    """What a technique brings along at one setting.

    Args:
        summary: what it is.
        reference: the technique, `module:Class`.
        setting: its parameters; those left out have their defaults.
        relaxed: the class that stands in for the technique's in training, `module:Class`, where gradients do not reach
            its modules through a choice that it makes; what acts is `Penalised`.
        frames: pictures of a request in which it asks for its modules.
        kinds: how often a step shows pictures of a kind.
        steps: steps of training; None: those of the class.
    """

    departs = (
        "The technique's modules alone are trained, to have the model say what it says without them; the rest of it "
        "stays as it is. The papers train the language model with them, and some the encoder."
    )
    steps, pictures = 300, recipe.FRAMES // 2

    def __init__(
        self, summary: str, reference: str, setting: Mapping[str, Setting], relaxed: str | None = None,
        frames: int = 1, kinds: Mapping[str, float] = KINDS, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.summary, self.reference, self.at = summary, reference, dict(setting)
        self.relaxed, self.frames, self.kinds = relaxed, frames, kinds
        self.steps = steps or type(self).steps
        if relaxed:
            self.departs = f"{RELAXED} {self.departs}"

    @property
    def technique(self) -> Technique:
        """The technique at that setting."""
        made: Technique = pkgutil.resolve_name(self.reference)(**self.at)
        return made

    def setting(self, reference: str) -> dict[str, Setting] | None:
        """See `PartTraining`."""
        return self.at if reference == self.reference else None

    def suits(self, config: Config) -> bool:
        """Whether patches are free, as in the LLaVA dialect."""
        return isinstance(config, LVLMConfig)

    def kept(self, config: Config, part: nn.Module) -> Mapping[Hashable, nn.Module]:
        """See `PartTraining`."""
        keys = [*self._brought(config)]
        return {keys[0]: part} if len(keys) == 1 else dict(zip(keys, part.children(), strict=True))

    def empty(self, config: Config) -> nn.Module:
        """See `PartTraining`."""
        first, *others = self._brought(config).values()
        return nn.ModuleList([first, *others]) if others else first

    def trainable(self, model: LVLM, seed: int) -> Imitating:
        """See `PartTraining`."""
        part = drawn(lambda: self.empty(model.config), seed=seed)
        self._equip(model, part)
        return Imitating(part, self)

    def loss(self, model: LVLM, samples: Sequence[Sample], seed: int) -> Tensor:
        """How far the model is with the modules that it keeps from what it says without, and penalties.

        Args:
            model: the model.
            samples: what it is asked.
            seed: of what is drawn by chance.
        """
        if not self.relaxed:
            return kl_divergence(*self.answers(model, samples))
        relaxed = pkgutil.resolve_name(self.relaxed)(**self.at)
        read = [self.read_answer(model, each, relaxed, (seed + at) % SEEDS) for at, each in enumerate(samples)]
        acting = [cast("Penalised", run.acts.at(relaxed.acts_at[0])[0]) for _, run in read]
        distance = kl_divergence(torch.cat([logits_MC for logits_MC, _ in read]), self.said(model, samples))
        return distance + torch.stack([each.penalty for each in acting]).mean()

    def answers(self, model: LVLM, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits (M, C) at the tokens of answers, with the modules that the model keeps and without the technique."""
        ours = [self.read_answer(model, each, self.technique)[0] for each in samples]
        return torch.cat(ours), self.said(model, samples)

    def said(self, model: LVLM, samples: Sequence[Sample]) -> Tensor:
        """The same (M, C) without the technique."""
        whole = batch(samples, model.config)
        return said(model, whole)[whole.target_BN != UNJUDGED]

    @torch.no_grad()
    def judged(self, model: LVLM, part: nn.Module, samples: int) -> Mapping[str, float]:
        """Shares of the answers' tokens at which the model's likeliest is that without the technique, by task."""
        self._equip(model, part)
        shares = dict[str, float]()
        for name, task in TASKS.items():
            same = list[bool]()
            for number in range(samples):
                ours, theirs = self.answers(model, [task.sample(number)])
                same += (ours.argmax(-1) == theirs.argmax(-1)).tolist()
            shares[name] = round(sum(same) / len(same), 4)
        return shares

    def read_answer(self, model: LVLM, sample: Sample, technique: Technique, seed: int = 0) -> tuple[Tensor, Run]:
        """Logits (M, C) at the tokens of a sample's answers with a technique, and the run.

        The first question ends the prompt; what follows is read as if it were decoded.
        """
        shown = batch([sample], model.config, tokens=1)
        (ids_N,), (target_N,) = shown.ids_BN, shown.target_BN
        asked = int((target_N != UNJUDGED).nonzero()[0]) + 1
        request = Request(
            frames_F3HW=shown.frames_F3HW,
            prompt_N=ids_N[:asked],
            image_token_id=model.config.placeholders[0],
            seed=seed,
        )
        run = model.begin(request, [technique])
        read = model.prefill(model.prepare(run), run)
        logits_NC = torch.cat([read.logits_BC, model.step(ids_N[asked:], read.cache)])
        return logits_NC[target_N[asked - 1 :] != UNJUDGED], run

    def _equip(self, model: LVLM, part: nn.Module) -> None:
        for key, module in self.kept(model.config, part).items():
            give(model, key, module)

    def _brought(self, config: Config) -> Mapping[Hashable, nn.Module]:
        """What the technique asks a model of these shapes for, in the order in which it does."""
        model = fill(LVLM.empty(config), seed=0, dtype=torch.float32, device="cpu")
        model.run(request_on(torch.zeros(self.frames, 3, SIDE, SIDE), config), self.technique)
        return brought(model)
