"""Drafts the record of a model from the configuration that its authors publish.

What the files do not say is left open, marked `FILL IN`, and named; nothing is guessed. Defaults of a configuration's
class are taken where the released code takes them, and named too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from lvlm_atlas.drafts.model import families
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.quantised import quantised
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.schema.record import ID_PATTERN

MOST_BYTE = 4 * 1024 * 1024
"""Largest file that is read; configurations take some kB."""
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16"}


@dataclass(frozen=True)
class Draft:
    """A drafted record."""

    record: dict[str, Any]
    """The record; what is not known is a text that begins with `FILL IN`."""
    open: tuple[str, ...]
    """What is left open: place and what is wanted, a line each."""
    notes: tuple[str, ...]
    """What was taken from defaults or left out, a line each."""


def known() -> list[str]:
    """The families: `model_type` of the configurations that can be drafted from."""
    return sorted(module.name for module in iter_modules(families.__path__))


def drafted(config: Path, preprocessor: Path | None = None, id_: str | None = None) -> Draft:
    """A record from a `config.json` and, if there is one, a `preprocessor_config.json`.

    Args:
        config: the file.
        preprocessor: the file that holds limits of pixels and tiles.
        id_: id of the record; None: from the name that the configuration gives itself.

    Raises:
        AtlasError: a file cannot be read, is no such configuration, or its family is not known.
    """
    source = Source(_read(config), file=config.name)
    processor = Source(_read(preprocessor) if preprocessor else {}, file=str((preprocessor or config).name))
    family = source.text("model_type") or ""
    if family not in known():
        raise AtlasError(
            f"{config}: model_type is {source.data.get('model_type')!r}, of which no record can be drafted; "
            f"{_near(family)}known families: {', '.join(known())}"
        )
    parts: Parts = import_module(f"{families.__name__}.{family}").parts(source, processor)
    record, left = _opened(_record(parts, source, _id(source, id_)))
    said = dict.fromkeys((*source.said, *processor.said, *parts.notes))
    if preprocessor is None:
        said["no --preprocessor was given: what only preprocessor_config.json says is left open"] = None
    return Draft(record, tuple(left), tuple(said))


def _near(family: str) -> str:
    """`did you mean …? ` where a known family is near."""
    hint = suggestion(family, known())
    return f"{hint} " if hint.endswith("?") else ""


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTE:
            raise AtlasError(f"{path} has more than {MOST_BYTE} bytes; give a model's config.json")
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as error:
        raise AtlasError(f"{path}: the file cannot be read: {error.strerror}; give a model's config.json") from None
    except UnicodeDecodeError:
        raise AtlasError(f"{path}: the file is not UTF-8 text; give a model's config.json") from None
    except json.JSONDecodeError as error:
        raise AtlasError(f"{path}:{error.lineno}:{error.colno}: this is no JSON: {error.msg}; correct it") from None
    except (RecursionError, ValueError):
        raise AtlasError(f"{path}: this is no configuration: it nests too deep or holds endless numbers") from None
    if not isinstance(data, dict):
        raise AtlasError(f"{path}:1:1: the file holds no mapping; give a model's config.json")
    return data


def _id(source: Source, given: str | None) -> str:
    name = source.text("_name_or_path") or ""
    id_ = given or re.sub(r"[^a-z0-9.]+", "-", name.rstrip("/").rpartition("/")[2].lower()).strip("-.")
    if id_ and not given:
        source.said.append(f"the id is taken from _name_or_path, {name!r}; --id gives another")
    if not id_:
        id_ = f"{(source.text('model_type') or '').replace('_', '-')}-draft"
        source.said.append(f"the configuration names no model, so the id is {id_!r}; --id gives another")
    if not re.fullmatch(ID_PATTERN, id_) or len(id_) > 64:
        raise AtlasError(f"{id_!r} is no id; give --id with lower-case words joined by '-' or '.', such as my-model-7b")
    return id_


def _record(parts: Parts, source: Source, id_: str) -> dict[str, Any]:
    """The record in the order of the schema; None and UNKNOWN stand for what is left open."""
    facts = {"source": f"config.json; {parts.code}", "verified": "config"}
    holders = (source, source.part("text_config"), source.part("thinker_config"))
    dtype = next(filter(None, (each.text(key) for each in holders for key in ("torch_dtype", "dtype"))), None)
    image, params = parts.image
    tokens: dict[str, Any] = {"image": {"rule": image, "params": dict(params)}}
    if parts.video:
        tokens["video"] = _video(*parts.video)
    if parts.video_by:
        tokens["video_by"] = {name: _video(*each) for name, each in parts.video_by.items()}
    counted = (parts.vision_parameters, parts.adapter_parameters, parts.llm_parameters)
    active = {} if parts.llm_active is None else {"llm_active": parts.llm_active}
    return {
        "id": id_,
        "name": None,
        "hf_id": None,  # `_name_or_path` is often that of another checkpoint
        "year": None,
        "dtype": _DTYPES.get(dtype or ""),
        **({"weight_dtype": types} if (types := quantised(source)) else {}),
        "vision": {**parts.vision, **facts},
        "adapter": {**parts.adapter, **facts},
        "llm": {**parts.llm, **facts},
        "injection": {"type": parts.injection, "where": parts.where, "verified": "code"},
        "params": {
            "vision": counted[0], "adapter": counted[1], "llm": counted[2], "total": sum(counted), **active,
            "source": "Counted from the dimensions above: weights, biases, norms and embeddings.",
            "verified": "config",
        },
        "tokens": {**tokens, "formula": parts.formula, "examples": None, **facts},
    }  # fmt: skip


def _video(rule: str, arguments: Mapping[str, Any], sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {"rule": rule, "params": dict(arguments), "sampling": dict(sampling)}


WANTED = {
    "name": "its name", "hf_id": "its repository on the hub, such as owner/name", "year": "its year of release",
    "dtype": "the type of the released weights, fp16 or bf16", "vision.name": "the name of the encoder",
    "llm.name": "the name of the language model", "tokens.examples": "worked examples from a source other than this",
    "tokens.video.sampling.max_frames": "how many frames are read at most, and `min_frames` if there is a least",
}  # fmt: skip
"""What is wanted at places that files often leave open."""


def _opened(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record with everything unknown marked, and a line for each mark."""
    left: list[str] = []

    def marked(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return {key: marked(item, f"{place}.{key}" if place else key) for key, item in value.items()}
        if isinstance(value, list):
            return [marked(item, place) for item in value]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            wanted = WANTED.get(place, "what the files do not say")
            left.append(f"{place}: {wanted}")
            return f"FILL IN {wanted}"
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return marked(dict(record), ""), left
