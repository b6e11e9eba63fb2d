"""A published configuration, read field by field; what it does not say is remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lvlm_atlas.drafts.model.defaults import DEFAULTS
from lvlm_atlas.fault import AtlasError

UNKNOWN = math.nan
"""A number that the configuration does not give. What is computed from it is unknown too, by the rules of floats."""

ACTIVATIONS = {
    "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu",
}  # fmt: skip
"""Activations by the names of transformers."""


@dataclass(frozen=True)
class Source:
    """One mapping of a configuration."""

    data: Mapping[str, Any]
    """Its keys and values."""
    place: str = ""
    """Where it stands, such as `vision_config.`."""
    file: str = "config.json"
    """The file, for messages."""
    said: list[str] = field(default_factory=list)
    """What was taken from a default, a line each; shared by all mappings of a file."""
    of: str = ""
    """The class of transformers that reads the mapping, whose defaults hold where it is short; empty: none is known."""

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def part(self, *keys: str) -> Source:
        """The mapping under the first of these keys that is there; an empty one if none is."""
        for key in keys:
            if isinstance(self.data.get(key), Mapping):
                return Source(self.data[key], f"{self.place}{key}.", self.file, self.said)
        return Source({}, f"{self.place}{keys[0]}.", self.file, self.said)

    def read_by(self, class_: str) -> Source:
        """The same mapping, read by a class whose defaults are known."""
        return replace(self, of=class_)

    def number(self, *keys: str, least: int = 1) -> Any:
        """A whole number under the first of these keys that is there, else the default of its class.

        Args:
            keys: names that the number goes by.
            least: what it must be at least.

        Returns:
            The number; `UNKNOWN` where the file does not say and there is no default.

        Raises:
            AtlasError: it is no such number.
        """
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            if isinstance(value, (list, tuple)) and value and len(set(map(str, value))) == 1:
                value = value[0]  # a square, written as its two sides
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**12:
                raise AtlasError(
                    f"{self.file}: {self.place}{key} is {value!r}; it must be a whole number of {least} or more"
                )
            return value
        return self._default(*keys, otherwise=UNKNOWN)

    def has(self, *keys: str) -> bool:
        """Whether the file or the class gives one of these. A key that is there and null is said to be nothing."""
        known = DEFAULTS.get(self.of, {})
        return any(key in self or (key in known and key not in self.data) for key in keys)

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of layers, else the default of its class; empty where there is neither.

        Raises:
            AtlasError: it is no such list.
        """
        value = self.data[key] if key in self else self._default(key, otherwise=())
        if not isinstance(value, Sequence) or not all(isinstance(n, int) and 0 <= n < 10**6 for n in value):
            raise AtlasError(f"{self.file}: {self.place}{key} is {value!r}; it must be a list of layers")
        return tuple(value)

    def truth(self, key: str, *, otherwise: bool = False) -> bool:
        """A truth value, else the default of its class, or this where that has none.

        Raises:
            AtlasError: it is none.
        """
        value = self.data.get(key)
        if value is None:
            return bool(self._default(key, otherwise=otherwise))
        if not isinstance(value, bool):
            raise AtlasError(f"{self.file}: {self.place}{key} is {value!r}; it must be true or false")
        return value

    def word(self, *keys: str) -> str:
        """A text under the first of these keys that is there, else the default of its class; empty if there is none."""
        given = next(filter(None, map(self.text, keys)), None)
        return str(self._default(*keys, otherwise="")) if given is None else given

    def text(self, key: str) -> str | None:
        """A text; None where there is none."""
        value = self.data.get(key)
        return value if isinstance(value, str) and value.strip() else None

    def _default(self, *keys: str, otherwise: Any) -> Any:
        known = DEFAULTS.get(self.of, {})
        for key in keys:
            if key in known:
                self.said.append(f"{self.place}{key} is not in {self.file}: {known[key]} is the default of {self.of}")
                return known[key]
        return otherwise
