"""Writes a trained model in its published format, with a record of how it came about, and finds such models again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field
from torch import nn

from lvlm_atlas.atlas.trained import FOLDER, MODEL, records
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import replace_file
from lvlm_atlas.lab.photographs.sources import sources
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training.shapes import vision_tokens
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig, WindowLVLMConfig
from lvlm_atlas.reference.lvlm.formats import FORMATS
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.schema.record import Id, Record

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""Where trained models lie under a root, and what a folder of one holds."""
QWEN_VISION = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads",
               "fullatt_block_indexes": "full_attention_layers"}  # fmt: skip
"""What the published format of Qwen2.5-VL calls fields of ours."""
Share = Annotated[float, Field(ge=0, le=1)]


class Trained(Record):
    """How something was trained."""

    id: Id
    """The folder's name."""
    seed: int
    """Of its first weights and of all that it was shown."""
    parameters: int
    """How many numbers it has."""
    steps: int
    """Steps of training."""
    pictures: int
    """Pictures that these showed."""
    sha256: str
    """Hash of the weights' file."""
    data: str
    """Digest of what its pictures are made of."""
    licences: dict[str, str]
    """Packages of these pictures, and the licences of what is used of them."""
    samples: int
    """Held-back samples of each kind that it was judged by."""


class Checkpoint(Trained):
    """How a model was trained, and how well it answers on pictures that were held back."""

    dialect: Literal["llava", "qwen2_5_vl"]
    """Name of its shapes."""
    vision_tokens: int
    """Of a picture of the lab."""
    layers: int
    """Of its LLM."""
    accuracy: dict[str, Share]
    """Of each task."""
    blind: dict[str, Share]
    """The same where all pictures are grey."""
    downsampled: dict[str, Share]
    """The same where all pictures have half their resolution."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it is good enough at for them to say anything; those of others are not run on it."""
        return tuple(name for name, task in TASKS.items() if self.accuracy.get(name, 0.0) >= task.least)


def write(root: Path, id_: str, model: LVLM, about: dict[str, Any]) -> Path:
    """Write a model under `root`, in half precision, with its record.

    Args:
        root: the root.
        id_: what it is called.
        model: the model.
        about: the fields of its record that are not known here.
    """
    files = pretrained_files(model)
    record = Checkpoint(
        id=id_, vision_tokens=vision_tokens(model.config), layers=model.config.text.num_hidden_layers,
        **origin(model, files), **about,
    )  # fmt: skip
    return write_files(root, files, MODEL, record)


def origin(module: nn.Module, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of a record that follow from what was trained, the files it is written to, and the pictures."""
    return {
        "parameters": sum(weight.numel() for weight in module.parameters()),
        "sha256": sha256(files[WEIGHTS]).hexdigest(), "data": sources().digest,
        "licences": {name: package.licence for name, package in sources().packages.items()},
    }  # fmt: skip


def write_files(root: Path, files: Mapping[str, bytes], name: str, record: Trained) -> Path:
    """Write files, and a record of that name beside them, into the folder of what was trained, and return that."""
    folder = root / FOLDER / record.id
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        replace_file(folder / file, content)
    replace_file(folder / name, yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, width=120))
    return folder


def pretrained_files(model: LVLM) -> dict[str, bytes]:
    """What a folder in a model's published format holds, by file: its weights in half precision, and its shapes."""
    from safetensors.torch import save  # noqa: PLC0415 - an extra

    raw = published(model.config)
    names = [(ours, theirs) for theirs, ours in FORMATS[raw["model_type"]].names]
    tensors = {_renamed(name, names): weight.detach().half().contiguous() for name, weight in model.named_parameters()}
    return {WEIGHTS: save(tensors, {"format": "pt"}), CONFIG: f"{json.dumps(raw, indent=2)}\n".encode()}


def known(root: Path) -> dict[str, Checkpoint]:
    """The trained models under `root`.

    Raises:
        AtlasError: there is none.
    """
    found = {id_: Checkpoint.model_validate(record) for id_, record in records(root, MODEL).items()}
    if not found:
        raise AtlasError(f"{root / FOLDER}: holds no trained model; work in a checkout, or `lvlm-atlas lab train`")
    return found


def load(root: Path, checkpoint: Checkpoint, device: str = "cpu") -> LVLM:
    """A trained model.

    Raises:
        AtlasError: its weights are not those of the record.
    """
    folder = root / FOLDER / checkpoint.id
    if sha256((folder / WEIGHTS).read_bytes()).hexdigest() != checkpoint.sha256:
        raise AtlasError(f"{folder / WEIGHTS}: is not what {MODEL} beside it says; restore it, or train it anew")
    return LVLM.from_pretrained(folder, dtype=torch.float32, device=device)


def published(config: Config) -> dict[str, Any]:
    """What a published config.json says of these shapes.

    Raises:
        TypeError: no published form is known here.
    """
    ends = {"eos_token_id": list(config.eos_token_ids)}
    match config:
        case LVLMConfig():
            return {
                "model_type": "llava",
                "vision_config": {"model_type": "clip_vision_model", **asdict(config.vision)},
                "text_config": {"model_type": "llama", **asdict(config.text), **ends},
                "image_token_index": config.image_token_id,
                **ends,
                "vision_feature_layer": config.vision_feature_layer,
            }
        case WindowLVLMConfig():
            vision = asdict(config.vision)
            for theirs, ours in QWEN_VISION.items():
                vision[theirs] = vision.pop(ours)
            rope = {"type": "mrope", "mrope_section": list(config.text.rope_sections)}
            return {
                "model_type": "qwen2_5_vl",
                "vision_config": vision | {"tokens_per_second": config.tokens_per_second},
                "text_config": asdict(config.text) | {"rope_scaling": rope, **ends},
                "image_token_id": config.image_token_id,
                "video_token_id": config.video_token_id,
                **ends,
            }
    raise TypeError(f"no published form is known here of {type(config).__name__}")


def _renamed(name: str, names: list[tuple[str, str]]) -> str:
    return next(theirs + name.removeprefix(ours) for ours, theirs in names if name.startswith(ours))
