"""Types of weights, part by part: what `--weight-dtype` says, and how many bytes the parts of a model take."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline.deployment import BITS, Deployment, dtype_named
from lvlm_atlas.roofline.kind import Place, places
from lvlm_atlas.roofline.model import Llm, Model

PARTS = ("encoder", "adapter", "llm", "embedding", "head", "other")
"""Parts whose weights may have types of their own. The matrices of the LLM's layers are `llm`; `other` are its norms,
biases and routers."""
NAMED = PARTS[:-1]
"""Parts that can be given a type."""
SCHEMES: Mapping[str, str] = {"awq": "int4-g128", "gptq": "int4-g128", "nvfp4": "fp4-g16", "mxfp4": "fp4-g32"}
"""Formats of quantised checkpoints by name."""
_GROUPED = re.compile(r"([A-Za-z0-9]+)(?:-g([0-9]{1,5})(?:-s([0-9]{1,3}))?)?", re.ASCII)
_SCALE_BITS = 16
"""Bits of the scale of a group of integers; a packed zero point comes on top."""
_SMALL_SCALE_BITS = 8
"""Bits of the scale of a group in FP4: E4M3 (NVFP4) or E8M0 (MXFP4), without zero point."""
_BLOCK_SCALE_BITS = 32
"""Bits of the scale of a square block in FP8, whose side the group is."""


@dataclass(frozen=True, slots=True)
class NumberType:
    """A type of numbers, and the group that shares a scale."""

    dtype: str
    """Its short name."""
    group: int | None = None
    """Numbers that share a scale, or the side of a block in FP8; None: scales are too few to count."""
    group_bit: int | None = None
    """Bits of scale and zero point of a group; None: as common formats of the type have them."""
    scale_bit: float = 0.0
    """Bits of scales on a number where no group says how many."""

    @property
    def bits(self) -> float:
        """Bits of a number, its part of the scale included."""
        bits, group = BITS[self.dtype], self.group
        if group is None:
            return bits + self.scale_bit
        if self.group_bit is not None:
            return bits + self.group_bit / group
        if self.dtype == "fp8":
            return bits + _BLOCK_SCALE_BITS / group**2
        return bits + (_SMALL_SCALE_BITS if self.dtype == "fp4" else _SCALE_BITS + bits) / group

    @property
    def byte(self) -> float:
        """Bytes of a number, its part of the scale included."""
        return self.bits / 8

    def __str__(self) -> str:
        group = "" if self.group is None else f"-g{self.group}"
        return f"{self.dtype}{group}" + ("" if self.group_bit is None else f"-s{self.group_bit}")


def number_type(text: str, what: str = "type of numbers") -> NumberType:
    """The type that a text such as `bf16`, `int4-g128` or, with 32 bits of scales a group, `int4-g64-s32` names.

    Args:
        text: the text.
        what: what it is the type of, for messages.

    Raises:
        AtlasError: there is no such type, or groups of it have no scales.
    """
    text = SCHEMES.get(text.strip().lower(), text.strip())
    match = _GROUPED.fullmatch(text)
    if not match:
        raise AtlasError(
            f"{what} is {text!r}; give a type such as bf16, or one with scales of groups such as int4-g128"
        )
    dtype = dtype_named(match[1])
    if match[2] is None:
        return NumberType(dtype)
    group = int(match[2])
    if BITS[dtype] > 8:
        raise AtlasError(f"{what} is {text!r}, but {dtype} has no scales of groups; give {dtype}")
    if group < 1:
        raise AtlasError(f"{what} is {text!r}; give a group of 1 number or more, such as {dtype}-g128")
    return NumberType(dtype, group, int(match[3]) if match[3] else None)


@dataclass(frozen=True, slots=True)
class Weights:
    """The type of each part of a model."""

    types: Mapping[str, NumberType]
    """By part, all of `PARTS`."""
    of_all: bool
    """Whether one type was given for all weights, norms and biases included, as no released checkpoint has it."""

    def byte(self, operator: str) -> float:
        """Bytes of a weight that an operator such as `llm.query` reads."""
        part = _PART_OF.get(operator) or operator.partition(".")[0]
        return self.types[part].byte

    def __str__(self) -> str:
        distinct = {part: self.types[part] for part in NAMED if self.types[part] != self.types["other"]}
        if not distinct:
            return f"{self.types['other']}"
        return ", ".join([*(f"{part} {type_}" for part, type_ in distinct.items()), f"the rest {self.types['other']}"])


_PART_OF = {"llm.output": "head", "llm.router": "other"}
"""Operators that read another part's weights than their names begin with."""


def weights_byte(types: Weights, model: Model) -> dict[str, float]:
    """Bytes of the weights of each of `PARTS`."""
    counts = parameters_by_part(model)
    return {part: counts[part] * types.types[part].byte for part in PARTS}


def as_released(types: Weights) -> str:
    """How a released checkpoint would have what was given for all weights, as `--weight-dtype` takes it."""
    return "awq" if types.types["llm"] == NumberType("int4") else f"llm={types.types['llm']}"


def weights_of(deployment: Deployment, model: Model) -> Weights:
    """The types of a model's weights as a deployment has them.

    Raises:
        AtlasError: as of `given_types`.
    """
    runtime, text = deployment.runtime, deployment.weight_dtype or model.weight_dtype
    if runtime is None:
        return weights(text, model)
    return weights(text, model, wide=frozenset(runtime.wide_parts), scale_bit=runtime.scale_bit)


def weights(
    text: str | None, model: Model, *, wide: frozenset[str] = frozenset(), scale_bit: float = 0.0
) -> Weights:  # fmt: skip
    """The types that a text gives the weights of a model.

    Args:
        text: as `given_types` reads it; None: the model's released type.
        model: the model, whose released type the other parts keep.
        wide: parts that a runtime leaves in the released type where one narrower is given for all weights: `encoder`,
            `adapter`, and `output` with the embeddings.
        scale_bit: bits of scales that it adds to such weights of 4 bits or fewer.

    Raises:
        AtlasError: as of `given_types`.
    """
    released = NumberType(dtype_named(model.dtype))
    given = given_types(text) if text else {}
    if isinstance(given, NumberType):
        narrow = given.bits < released.bits
        if not narrow or not (wide or scale_bit):
            return Weights(dict.fromkeys(PARTS, given), of_all=narrow)
        kept = {part for part in PARTS if {"head": "output", "embedding": "output"}.get(part, part) in wide} | {"other"}
        quantised = replace(given, scale_bit=scale_bit) if given.bits <= 4 else given
        return Weights({part: released if part in kept else quantised for part in PARTS}, of_all=False)
    if model.llm.tied and (one := given.get("embedding") or given.get("head")):  # one matrix
        given = {**given, "embedding": one, "head": one}
    return Weights({part: given.get(part, released) for part in PARTS}, of_all=False)


def given_types(text: str) -> NumberType | dict[str, NumberType]:
    """The type of all weights that a text gives, or those of some parts.

    Args:
        text: a type such as `fp8` for all weights; one with scales of groups such as `int4-g128`, or a name of
            `SCHEMES`, for the matrices of the LLM's layers alone, as released checkpoints have them; or types of parts
            such as `llm=int4-g128,encoder=fp8`, joined by commas or pluses.

    Raises:
        AtlasError: there is no such type or part, or a part is named twice.
    """
    if "=" not in text:
        type_ = number_type(text, "weight_dtype")
        return type_ if type_.group is None else {"llm": type_}
    given: dict[str, NumberType] = {}
    for pair in re.split(r"[,+]", text):
        part, equals, name = (each.strip() for each in pair.partition("="))
        if not equals:
            raise AtlasError(f"weight_dtype {text!r}: {pair!r} names no part; write such as llm=int4-g128,head=bf16")
        for each in ("encoder", "adapter") if part == "vision" else (part,):
            if each not in NAMED:
                raise AtlasError(f"weight_dtype {text!r}: no part {part!r}; {suggestion(part, [*NAMED, 'vision'])}")
            if each in given:
                raise AtlasError(f"weight_dtype {text!r}: {each} has two types; leave one out")
            given[each] = number_type(name, f"weight_dtype of {part}")
    return given


def weights_spelled(text: str) -> str:
    """The same text with short names and pluses, so that two spellings of one are equal.

    Raises:
        AtlasError: as of `given_types`.
    """
    given = given_types(text)
    if isinstance(given, NumberType):
        return str(given)
    return "+".join(f"{part}={type_}" for part, type_ in given.items())


def parameters_by_part(model: Model) -> dict[str, float]:
    """Parameters of each of `PARTS`."""
    llm = model.llm
    table = llm.vocab * llm.hidden
    embedding = table + llm.layer_vocab * llm.layers * llm.layer_input
    head = 0 if llm.tied else table
    matrices = min(_matrices(llm), llm.parameters - embedding - head)
    return {
        "encoder": model.encoder.parameters,
        "adapter": model.adapter.parameters,
        "llm": matrices,
        "embedding": embedding,
        "head": head,
        "other": llm.parameters - embedding - head - matrices,
    }


@lru_cache(maxsize=256)
def _matrices(llm: Llm) -> float:
    """Parameters in the matrices of all layers, routers left out."""
    kinds = Counter(places(llm)).items()
    return sum(count * (_attention(llm, place) + _mlp(llm, place)) for place, count in kinds)


def _attention(llm: Llm, place: Place) -> float:
    """Parameters in the matrices of a layer's attention."""
    if place.linear and llm.linear:
        return llm.hidden * (llm.linear.inner + llm.linear.value_heads * llm.linear.value_dim)
    if llm.latent is None:
        heads = llm.heads_at(place.wide)
        keys = 0 if place.borrows else heads.projections * heads.kv_heads
        return llm.hidden * heads.head_dim * ((2 + llm.output_gate) * llm.heads + keys)
    latent, through = llm.latent, llm.latent.q_lora_rank
    query = llm.heads * (latent.nope_dim + latent.rope_dim)
    attention = through * (llm.hidden + query) if through else llm.hidden * query
    attention += llm.hidden * (latent.kv_lora_rank + latent.rope_dim)
    attention += latent.kv_lora_rank * llm.heads * (latent.nope_dim + latent.v_dim)
    return attention + llm.heads * latent.v_dim * llm.hidden


def _mlp(llm: Llm, place: Place) -> float:
    """Parameters in the matrices of a layer's MLP or experts, and in those of its input beside the hidden states."""
    experts, beside = llm.experts, 3 * llm.hidden * llm.layer_input
    if place.dense or experts is None:
        return 3 * llm.hidden * llm.intermediate_at(place.borrows) + beside
    return 3 * llm.hidden * experts.intermediate * (experts.routed + experts.shared) + beside
