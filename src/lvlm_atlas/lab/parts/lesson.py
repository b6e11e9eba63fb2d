"""How a part is trained: what a model keeps it as, what it begins with, the loss of a step, and how it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.model import LVLM


class Pupil(nn.Module):
    """A part in training, with what is trained beside it and thrown away."""

    part: nn.Module

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.requires_grad_()

    def forward(self, model: LVLM, random: np.random.Generator) -> Tensor:
        """The loss () of a step, on pictures that `random` draws."""
        raise NotImplementedError


class Lesson(ABC):
    """How a part is trained."""

    summary: ClassVar[str]
    """What the part is."""
    departs: ClassVar[str]
    """What is done otherwise than in the papers of the techniques that bring it."""
    techniques: ClassVar[tuple[str, ...]] = ()
    """Those techniques among them whose entries want training."""
    steps: ClassVar[int]
    """Steps of training."""
    pictures: ClassVar[int]
    """Pictures of a step."""

    @abstractmethod
    def key(self, config: Config) -> Hashable:
        """What a model of these shapes keeps the part under (`reference.modules.kept`)."""

    @abstractmethod
    def empty(self, config: Config) -> nn.Module:
        """The part of a model of these shapes, its weights not trained."""

    @abstractmethod
    def pupil(self, model: LVLM, seed: int) -> Pupil:
        """The part with the weights that training begins with."""

    @abstractmethod
    def judged(self, model: LVLM, part: nn.Module, samples: int) -> Mapping[str, float]:
        """How well it does on so many samples of each kind that were held back."""

    def files(self, part: nn.Module) -> Mapping[str, bytes]:
        """What is written of it, by file: the weights, in half precision, first."""
        from safetensors.torch import save  # noqa: PLC0415 - an extra

        tensors = {name: weight.detach().half().contiguous() for name, weight in part.state_dict().items()}
        return {"model.safetensors": save(tensors, {"format": "pt"})}

    def read(self, folder: Path, config: Config, device: str) -> nn.Module:
        """The part that was written to a folder, in single precision."""
        from safetensors.torch import load_file  # noqa: PLC0415

        part = self.empty(config)
        part.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
        return part.to(device, torch.float32)
