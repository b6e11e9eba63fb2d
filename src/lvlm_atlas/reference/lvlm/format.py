"""What a published format is, and how values of a config.json are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.reference.lvlm.config import Config

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """One `model_type`."""

    config: Callable[[Json], Config]
    """The model's shapes.

    Raises:
        ValueError: the configuration asks for what the reference does not do.
        KeyError, TypeError: a value is missing or of another kind.
    """
    names: tuple[tuple[str, str], ...]
    """Beginnings of a tensor's published name and what stands there in the reference; the first that fits counts."""
    ignored: tuple[str, ...] = ()
    """Ends of names of tensors that the reference computes itself."""

    def name(self, published: str) -> str | None:
        """The reference's name of a tensor; None where it has none by that name."""
        for theirs, ours in self.names:
            if published.startswith(theirs):
                return ours + published.removeprefix(theirs)
        return None


def only(raw: Json, key: str, *supported: object) -> Any:
    """The value of `key`, which may be absent: then the first of those supported.

    Raises:
        ValueError: another value.
    """
    value = raw.get(key)
    value = supported[0] if value is None else value
    if value not in supported:
        raise ValueError(f"{key} {value!r} is not supported; supported: {', '.join(map(str, supported))}")
    return value


def rotary(raw: Json, theta: float, *types: str) -> Json:
    """What a text configuration says of its rotary embedding, in the older spelling or the newer.

    Raises:
        ValueError: it scales its frequencies.
    """
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    only({"rope_type": rope.get("rope_type", rope.get("type"))}, "rope_type", "default", *types)
    rope.setdefault("rope_theta", raw.get("rope_theta", theta))
    return rope


def end_tokens(*ids: int | list[int] | None) -> tuple[int, ...]:
    """The first of several statements that says something."""
    for said in ids:
        if said is not None:
            return tuple(said) if isinstance(said, list) else (said,)
    return ()
