"""How a part is trained: what a model keeps it as, what it begins with, the loss of a step, and how it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lvlm_atlas.lab.training.checkpoint import WEIGHTS
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.schema.record import Setting

Module = TypeVar("Module", bound=nn.Module)


class Trainable(nn.Module, ABC):
    """A part in training, with what is trained beside it and thrown away."""

    part: nn.Module
    done: float = 0.0
    """The share of its steps that are behind it, as the trainer says."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.requires_grad_()

    @abstractmethod
    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """The loss () of a step, on pictures that `random` draws."""


class PartTraining(ABC, Generic[Module]):
    """How a part is trained."""

    summary: str
    """What the part is."""
    departs: str
    """What is done otherwise than in the papers of the techniques that bring it."""
    steps: int
    """Steps of training."""
    pictures: int
    """Pictures of a step."""
    need: str | None = None
    """What a model offers with the part in it (`grown`); None: the part is a module that techniques ask for."""

    @abstractmethod
    def kept(self, config: Config, part: Module) -> Mapping[Hashable, nn.Module]:
        """What a model of these shapes keeps of the part, by key (`reference.modules.kept`)."""

    def grown(self, model: LVLM, part: Module) -> LVLM:  # noqa: ARG002
        """A model with the part in it, where that meets a need."""
        return model

    def setting(self, reference: str) -> dict[str, Setting] | None:  # noqa: ARG002
        """The setting at which a technique, `module:Class`, asks for the part; None: at any, or at none."""
        return None

    @abstractmethod
    def empty(self, config: Config) -> Module:
        """The part of a model of these shapes, its weights not trained."""

    @abstractmethod
    def trainable(self, model: LVLM, seed: int) -> Trainable:
        """The part with the weights that training begins with."""

    @abstractmethod
    def judged(self, model: LVLM, part: Module, samples: int) -> Mapping[str, float]:
        """How well it does on so many samples of each kind that were held back."""

    def suits(self, config: Config) -> bool:  # noqa: ARG002
        """Whether models of these shapes can have the part."""
        return True

    def files(self, part: Module) -> Mapping[str, bytes]:
        """What is written of it, by file, its weights in half precision."""
        from safetensors.torch import save  # noqa: PLC0415 - an extra

        tensors = {name: weight.detach().half().contiguous() for name, weight in part.state_dict().items()}
        return {WEIGHTS: save(tensors, {"format": "pt"})}

    def read(self, folder: Path, model: LVLM) -> Module:
        """The part of a model that was written to a folder, in single precision."""
        from safetensors.torch import load_file  # noqa: PLC0415

        part = self.empty(model.config)
        part.load_state_dict(load_file(folder / WEIGHTS))
        return part.to(model.device, torch.float32)
