"""Parts of trained models, as they lie beside these: written with a record of how they came about, and found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from lvlm_atlas.atlas.trained import FOLDER, PART, records
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.parts.trainings import TRAININGS
from lvlm_atlas.lab.training.checkpoint import WEIGHTS, Checkpoint, Share, Trained, origin, write_files
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.modules.kept import forget, give, taken
from lvlm_atlas.schema.record import Id, Setting


class Part(Trained):
    """How a part was trained, and how well it does on pictures that were held back."""

    kind: Id
    """What it is."""
    checkpoint: Id
    """The model that it was trained for."""
    model: str
    """Hash of that model's weights."""
    summary: str
    """What it is, in words."""
    departs: str
    """What was done otherwise than in the papers."""
    held_back: dict[str, Share]
    """How well it does on them; what is counted, its training says."""


@dataclass(frozen=True)
class Equipment:
    """The parts of a model, ready to be given to it."""

    model: LVLM
    parts: Mapping[Any, tuple[Part, nn.Module]]
    """Modules that techniques ask for, by what the model keeps them under."""
    grown: Mapping[str, tuple[Part, LVLM]]
    """The model with a part in it, by the need that this meets."""

    def model_for(self, needs: Iterable[str]) -> LVLM:
        """The model that techniques with such needs run on."""
        return next((self.grown[need][1] for need in needs if need in self.grown), self.model)

    def equip(self, model: LVLM) -> None:
        """Let one of these models keep these parts, and no others."""
        forget(model)
        for key, (_, module) in self.parts.items():
            give(model, key, module)

    def used(self, model: LVLM) -> list[Part]:
        """The parts that are in the model, or that something has asked it for since."""
        asked = taken(model)
        used = [part for part, grown in self.grown.values() if grown is model]
        used += [part for key, (part, _) in self.parts.items() if key in asked]
        return [*{part.id: part for part in used}.values()]

    def settings(self, reference: str) -> list[dict[str, Setting]]:
        """The settings at which a technique, `module:Class`, asks for one of these parts."""
        kinds = dict.fromkeys(part.kind for part, _ in self.parts.values())
        found = [TRAININGS[kind].setting(reference) for kind in kinds]
        return [each for each in found if each is not None]


def write(root: Path, checkpoint: Checkpoint, name: str, part: nn.Module, about: Mapping[str, Any]) -> Path:
    """Write a part of a model under `root`, with its record.

    Args:
        root: the root.
        checkpoint: the model.
        name: its kind.
        part: the part.
        about: the fields of its record that are not known here.
    """
    training = TRAININGS[name]
    files = training.files(part)
    record = Part(
        id=f"{checkpoint.id}-{name}", kind=name, checkpoint=checkpoint.id, model=checkpoint.sha256,
        summary=training.summary, departs=training.departs,
        steps=training.steps, pictures=training.steps * training.pictures,
        **origin(part, files), **about,
    )  # fmt: skip
    return write_files(root, files, PART, record)


def known(root: Path, checkpoint: Checkpoint) -> dict[str, Part]:
    """The parts of a model that lie under `root`, by kind.

    Raises:
        AtlasError: one of them was trained for another model of that name.
    """
    found = _records(root, checkpoint)
    for part in found.values():
        if part.model != checkpoint.sha256:
            raise AtlasError(
                f"{root / FOLDER / part.id / PART}: was trained for a {checkpoint.id} with other weights, "
                f"{part.model[:8]}…, than are there now, {checkpoint.sha256[:8]}…; train it anew: "
                f"lvlm-atlas lab train {checkpoint.dialect} --seed {checkpoint.seed} --part {part.kind}"
            )
    return found


def lacking(root: Path, checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Of kinds those that a model lacks, or has from other weights or from another number of steps."""
    found = _records(root, checkpoint)
    return [
        name for name in names
        if name not in found or (found[name].model, found[name].steps) != (checkpoint.sha256, TRAININGS[name].steps)
    ]  # fmt: skip


def _records(root: Path, checkpoint: Checkpoint) -> dict[str, Part]:
    found = map(Part.model_validate, records(root, PART).values())
    return {part.kind: part for part in found if part.checkpoint == checkpoint.id}


def equipment(root: Path, checkpoint: Checkpoint, model: LVLM) -> Equipment:
    """The parts of a model that is loaded.

    Raises:
        AtlasError: as in `known`, or the weights of one are not those of its record.
    """
    parts, grown = dict[Any, tuple[Part, nn.Module]](), dict[str, tuple[Part, LVLM]]()
    for name, part in known(root, checkpoint).items():
        folder, training = root / FOLDER / part.id, TRAININGS[name]
        if sha256((folder / WEIGHTS).read_bytes()).hexdigest() != part.sha256:
            raise AtlasError(f"{folder / WEIGHTS}: is not what {PART} beside it says; restore it, or train it anew")
        module = training.read(folder, model)
        parts |= {key: (part, each) for key, each in training.kept(model.config, module).items()}
        if training.need:
            grown[training.need] = part, training.grown(model, module)
    return Equipment(model, parts, grown)
