"""Modules of techniques that learn to have the model say with them what it says without.

N tokens, M of them answers, C vocabulary.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from lvlm_atlas.lab.parts.draft import drawn_samples, said
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
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.modules.kept import brought, drawn, give
from lvlm_atlas.schema.record import Setting


class Imitating(Trainable):
    """The modules, with which the model learns to say what it says without them."""

    def __init__(self, part: nn.Module, kind: Imitation) -> None:
        super().__init__(part)
        self.kind = kind

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        samples = drawn_samples(random, self.kind.pictures)
        ours, theirs = (each.log_softmax(-1) for each in self.kind.answers(model, samples))
        return kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Imitation(PartTraining[nn.Module]):
    """What a technique brings along at one setting.

    Args:
        summary: what it is.
        reference: the technique, `module:Class`.
        setting: its parameters; those left out have their defaults.
    """

    departs = (
        "The technique's modules alone are trained, to have the model say what it says without them; the rest of it "
        "stays as it is. The papers train the language model with them, and some the encoder."
    )
    steps, pictures = 300, recipe.FRAMES // 2

    def __init__(self, summary: str, reference: str, setting: Mapping[str, Setting]) -> None:
        self.summary, self.reference, self.at = summary, reference, dict(setting)

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

    def answers(self, model: LVLM, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits (M, C) at the tokens of answers, with the modules that the model keeps and without the technique."""
        whole = batch(samples, model.config)
        theirs_MC = said(model, whole)[whole.target_BN != UNJUDGED]
        return torch.cat([self._answers(model, each) for each in samples]), theirs_MC

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

    def _answers(self, model: LVLM, sample: Sample) -> Tensor:
        """The same (M, C) of one sample: the first question ends the prompt, what follows is read as if decoded."""
        shown = batch([sample], model.config, tokens=1)
        (ids_N,), (target_N,) = shown.ids_BN, shown.target_BN
        asked = int((target_N != UNJUDGED).nonzero()[0]) + 1
        request = Request(
            frames_F3HW=shown.frames_F3HW, prompt_N=ids_N[:asked], image_token_id=model.config.placeholders[0]
        )
        run = model.begin(request, [self.technique])
        read = model.prefill(model.prepare(run), run)
        logits_NC = torch.cat([read.logits_BC, model.step(ids_N[asked:], read.cache)])
        return logits_NC[target_N[asked - 1 :] != UNJUDGED]

    def _equip(self, model: LVLM, part: nn.Module) -> None:
        for key, module in self.kept(model.config, part).items():
            give(model, key, module)

    def _brought(self, config: Config) -> Mapping[Hashable, nn.Module]:
        """What the technique asks a model of these shapes for, in the order in which it does."""
        model = fill(LVLM.empty(config), seed=0, dtype=torch.float32, device="cpu")
        model.run(
            Request(
                frames_F3HW=torch.zeros(1, 3, SIDE, SIDE), prompt_N=torch.tensor(token_ids(*opening(1), ASK)),
                image_token_id=config.placeholders[0], max_new_tokens=1,
            ), self.technique,
        )  # fmt: skip
        return brought(model)
