"""A published configuration, read field by field; what it does not say is remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def part(self, *keys: str) -> Source:
        """The mapping under the first of these keys that is there; an empty one if none is."""
        for key in keys:
            if isinstance(self.data.get(key), Mapping):
                return Source(self.data[key], f"{self.place}{key}.", self.file, self.said)
        return Source({}, f"{self.place}{keys[0]}.", self.file, self.said)

    def number(self, *keys: str, default: float | None = None, of: str = "") -> Any:
        """A whole number of 1 or more, under the first of these keys that is there.

        Args:
            keys: names that the number goes by.
            default: what the class of transformers takes if the file does not say.
            of: that class.

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
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**12:
                raise AtlasError(f"{self.file}: {self.place}{key} is {value!r}; it must be a whole number of 1 or more")
            return value
        return self._default(keys[0], default, of, UNKNOWN)

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of layers; empty where there is none.

        Raises:
            AtlasError: it is no such list.
        """
        value = self.data.get(key) or ()
        if not isinstance(value, Sequence) or not all(isinstance(n, int) and 0 <= n < 10**6 for n in value):
            raise AtlasError(f"{self.file}: {self.place}{key} is {value!r}; it must be a list of layers")
        return tuple(value)

    def truth(self, key: str, *, default: bool, of: str) -> bool:
        """A truth value.

        Raises:
            AtlasError: it is none.
        """
        value = self.data.get(key)
        if value is None:
            return bool(self._default(key, default, of, default))
        if not isinstance(value, bool):
            raise AtlasError(f"{self.file}: {self.place}{key} is {value!r}; it must be true or false")
        return value

    def word(self, key: str, *, default: str, of: str) -> str:
        """A text, or what the class takes if the file does not say."""
        given = self.text(key)
        if given is None:
            self.said.append(f"{self.place}{key} is not in {self.file}: {default} is the default of {of}")
        return given or default

    def text(self, key: str) -> str | None:
        """A text; None where there is none."""
        value = self.data.get(key)
        return value if isinstance(value, str) and value.strip() else None

    def _default(self, key: str, default: Any, of: str, otherwise: Any) -> Any:
        if default is None or math.isnan(default):
            return otherwise
        self.said.append(f"{self.place}{key} is not in {self.file}: {default} is the default of {of}")
        return default
