"""Adapters of techniques that take the place of the model's own.

F frames, M vision tokens of a frame, B samples, N tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from lvlm_atlas.lab.parts.draft import KINDS, said
from lvlm_atlas.lab.parts.part_training import PartTraining, Trainable
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import TASKS, training_sample
from lvlm_atlas.lab.training import recipe
from lvlm_atlas.lab.training.batch import UNJUDGED, batch
from lvlm_atlas.lab.training.trainer import PICTURES
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.encode import encode
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.prompt import Clip
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.kept import drawn, give


class Adapting(Trainable):
    """An adapter, with which the model learns to say what it says with its own."""

    def __init__(self, part: nn.Module, kind: AdapterTraining) -> None:
        super().__init__(part)
        self.kind = kind

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """See `Trainable`."""
        kind = [*KINDS][random.choice(len(KINDS), p=[*KINDS.values()])]
        samples = [training_sample(random, kind, recipe.WORDS) for _ in range(recipe.FRAMES // PICTURES[kind])]
        ours, theirs = (each.log_softmax(-1) for each in self.kind.answers(model, samples))
        return kl_div(ours, theirs, reduction="batchmean", log_target=True)


class AdapterTraining(PartTraining[nn.Module]):
    """An adapter.

    Args:
        id_: the technique.
        technique: at the setting that is trained.
        key: what a model keeps the adapter under.
        build: makes it, from the widths of encoder and decoder.
    """

    summary = "an adapter that gives fewer vision tokens"
    departs = (
        "The adapter alone is trained, to have the model say what it says with its own adapter; encoder and decoder "
        "stay as they are. The papers train the decoder with it, and some the encoder."
    )
    steps, pictures = 300, recipe.FRAMES

    def __init__(self, id_: str, technique: Technique, key: Hashable, build: Callable[[int, int], nn.Module]) -> None:
        self.techniques = (id_,)  # type: ignore[misc]
        self._technique, self._key, self._build = technique, key, build

    def suits(self, config: Config) -> bool:
        """Whether patches are free, as in the LLaVA dialect."""
        return isinstance(config, LVLMConfig)

    def key(self, config: Config) -> Hashable:  # noqa: ARG002
        """See `PartTraining`."""
        return self._key

    def empty(self, config: Config) -> nn.Module:
        """See `PartTraining`."""
        return self._build(config.vision.hidden_size, config.text.hidden_size)

    def trainable(self, model: LVLM, seed: int) -> Adapting:
        """See `PartTraining`."""
        part = drawn(lambda: self.empty(model.config), seed=seed)
        give(model, self._key, part)
        return Adapting(part, self)

    def answers(self, model: LVLM, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits (M, C) at the tokens of answers, with the adapter that the model keeps and with its own.

        Args:
            model: the model.
            samples: with equally many frames each.
        """
        whole = batch(samples, model.config)
        theirs_BNC = said(model, whole)
        mark = model.config.placeholders[0]
        marks_N = torch.full((len(whole.frames_F3HW),), mark)
        asked = Request(frames_F3HW=whole.frames_F3HW, prompt_N=marks_N, image_token_id=mark)
        run = model.begin(asked, [self._technique])
        tokens = encode(model, Clip(whole.frames_F3HW), run.acts, Trace())
        shown = batch(samples, model.config, tokens.lengths[0])
        prompt = model.dialect.prompt(shown.ids_BN, None, [tokens])
        left = model.prefill(prompt.embed(model.language_model.model.embed_tokens)).outputs
        ours_BNC = model.language_model.logits(left.hidden_BND)
        return ours_BNC[shown.target_BN != UNJUDGED], theirs_BNC[whole.target_BN != UNJUDGED]

    @torch.no_grad()
    def judged(self, model: LVLM, part: nn.Module, samples: int) -> Mapping[str, float]:
        """Shares of the answers' tokens at which the model's likeliest is that with its own adapter, by task."""
        give(model, self._key, part)
        shares = dict[str, float]()
        for name, task in TASKS.items():
            same = list[bool]()
            for number in range(samples):
                ours, theirs = self.answers(model, [task.sample(number)])
                same += (ours.argmax(-1) == theirs.argmax(-1)).tolist()
            shares[name] = round(sum(same) / len(same), 4)
        return shares
