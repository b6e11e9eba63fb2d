"""Reads published checkpoints: config.json and safetensors, one shard open at a time.

Every fault of a folder is one ValueError, with what was found and what is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.format import Format, end_tokens
from lvlm_atlas.reference.lvlm.formats import FORMATS
from lvlm_atlas.reference.lvlm.weights import assign

Model = TypeVar("Model", bound=nn.Module)

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MOST_JSON_BYTE = 64 * 2**20
"""Largest JSON file that is read; the index of a model of 700 GB takes 10 MB."""
_LAYER = re.compile(
    r"(?P<part>language_model|dialect\.vision_tower)\.(?:\w+\.)*?(?:layers|blocks)\.(?P<index>\d{1,9})\."
)
SHOWN = 5
"""Names that an error lists."""


def read_config(folder: Path) -> Config:
    """The shapes that a folder's config.json and, for the end tokens, generation_config.json state.

    Raises:
        ValueError: a file cannot be read, or asks for what the reference does not do.
    """
    raw = _json(folder / "config.json")
    format_ = _format(folder, raw)
    try:
        config = format_.config(raw)
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{folder / 'config.json'}: a value is missing or of the wrong kind: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    if (folder / "generation_config.json").is_file():
        file = folder / "generation_config.json"
        try:
            stop_ids = end_tokens(_json(file).get("eos_token_id"), list(config.eos_token_ids))
            config = replace(config, eos_token_ids=stop_ids)
        except ValueError as error:
            raise ValueError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    return config


def require_layers(config: Config, folder: Path) -> None:
    """Hold the layers that a configuration states against the names of the tensors, before anything is built.

    Raises:
        ValueError: they differ, or a file cannot be read.
    """
    format_ = _format(folder, _json(folder / "config.json"))
    last: dict[str, int] = {}
    for published in _index(folder) or (name for name, _, _ in _tensors(folder, "cpu")):
        found = _LAYER.match(format_.name(published) or "")
        if found:
            last[found["part"]] = max(int(found["index"]), last.get(found["part"], -1))
    stated = {"language_model": config.text.num_hidden_layers, "dialect.vision_tower": config.vision.num_hidden_layers}
    for part, layers in stated.items():
        if part in last and last[part] + 1 != layers:
            name = "language model" if part == "language_model" else "encoder"
            raise ValueError(
                f"{folder / 'config.json'}: {layers} layers of the {name}, but the tensors are of {last[part] + 1}"
            )


def load(model: Model, folder: Path, *, dtype: torch.dtype | None, device: torch.device | str) -> Model:
    """Give a model of the meta device the folder's weights, tensor by tensor, and return it.

    Raises:
        ValueError: no safetensors; a tensor is missing, unexpected or has another shape.
    """
    format_ = _format(folder, _json(folder / "config.json"))
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters(remove_duplicate=False)}
    alias = _shared(model)
    loaded: set[str] = set()
    unexpected: list[str] = []
    misshapen: list[str] = []
    for published, shape, read in _tensors(folder, device):
        name = format_.name(published)
        if name not in wanted:
            unexpected += [] if published.endswith(format_.ignored) else [published]
        elif shape != wanted[name]:
            misshapen.append(f"{published} {shape}, not {wanted[name]}")
        elif alias.get(name, name) not in loaded:  # a shared tensor may be written twice
            loaded.add(alias.get(name, name))
            assign(model, alias.get(name, name), read().to(device=device, dtype=dtype))
    missing = sorted({alias.get(name, name) for name in wanted} - loaded) if not misshapen else []
    faults = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}" + (", …" if len(names) > SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ValueError(f"{folder}: the tensors do not fit the configuration: {'; '.join(faults)}")
    for module in model.modules():
        tie: Callable[[], None] | None = getattr(module, "tie", None)
        if tie:
            tie()
    return model


def _format(folder: Path, raw: dict[str, Any]) -> Format:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise ValueError(
            f"{folder / 'config.json'}: model_type {kind!r} is not supported; supported: {', '.join(FORMATS)}"
        )
    return FORMATS[kind]


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_JSON_BYTE:
            raise ValueError(f"{path.stat().st_size} bytes, more than {MOST_JSON_BYTE}")
        raw = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply for a configuration") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; give a folder with a published model") from None
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(raw).__name__}")
    return raw


def _index(folder: Path) -> dict[str, str] | None:
    """The shard of each tensor, by its published name; None where the folder has no index."""
    if not (folder / INDEX).is_file():
        return None
    shards = _json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{folder / INDEX}: has no weight_map")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: weight_map names {name!r}, no plain name of a safetensors file")
    return shards


def _shards(folder: Path) -> Sequence[Path]:
    index = _index(folder)
    if index is not None:
        return [folder / name for name in sorted(set(index.values()))]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise ValueError(f"{folder}: holds neither {SINGLE} nor {INDEX}; other formats are not read, convert them")


def _tensors(folder: Path, device: torch.device | str) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """Name, shape and a reader of every tensor; a shard is closed before the next is opened."""
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(
            "reading a checkpoint needs safetensors; install it with: pip install 'lvlm-atlas[transformers]', in a "
            "checkout '.[transformers]'"
        ) from None
    for shard in _shards(folder):
        try:
            with safe_open(shard, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    shape = tuple(file.get_slice(name).get_shape())
                    yield name, shape, partial(file.get_tensor, name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{shard}: cannot be read as safetensors: {error}") from None


def _shared(model: nn.Module) -> dict[str, str]:
    """For each further name of a shared tensor the first."""
    first: dict[int, str] = {}
    alias: dict[str, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if id(weight) in first:
            alias[name] = first[id(weight)]
        first.setdefault(id(weight), name)
    return alias
