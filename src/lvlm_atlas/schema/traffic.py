"""Requests that a server was seen to get: lengths and images as a source published their distributions."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator

from lvlm_atlas.schema.record import Id, Record, Source, Text

Share = Annotated[float, Field(gt=0, le=1)]
Quantiles = Annotated[
    tuple[tuple[Annotated[float, Field(ge=0, le=100)], Annotated[int, Field(ge=0, le=10**7)]], ...],
    Field(min_length=2),
]
"""Per cent of the requests, and the tokens that so many do not exceed; straight lines in between."""


class Sort(Record):
    """Requests of one sort."""

    name: Text
    """What the source calls them."""
    share: Share = 1.0
    """Their share of all."""
    images: tuple[tuple[Annotated[int, Field(ge=0, le=1000)], Share], ...] = ()
    """Numbers of images, each with its share of these requests; none: text alone."""
    text_tokens: Quantiles
    """Text of the prompt."""
    output_tokens: Quantiles
    """Tokens of the answer."""

    @field_validator("text_tokens", "output_tokens")
    @classmethod
    def _rises(cls, quantiles: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        if any(a >= c or b > d for (a, b), (c, d) in pairwise(quantiles)):
            raise ValueError("does not rise; give per cents in ascending order, each with no fewer tokens")
        if (quantiles[0][0], quantiles[-1][0]) != (0, 100):
            raise ValueError("does not reach from 0 to 100 per cent; give the least and the most too")
        return quantiles

    @field_validator("images")
    @classmethod
    def _is_whole(cls, images: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        if images and abs(sum(share for _, share in images) - 1) > 1e-6:
            raise ValueError("has shares that do not add up to 1; correct them")
        return images


class Traffic(Record):
    """Requests of one source. Lengths are drawn apart: what they say of each other is not here."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its name."""
    description: Text
    """Whose requests they are, and how the numbers were read."""
    source: Source
    """Where they were published."""
    requests: int = Field(ge=1, le=10**9)
    """How many requests it counts."""
    sorts: tuple[Sort, ...] = Field(min_length=1)
    """Sorts of requests."""

    @field_validator("sorts")
    @classmethod
    def _are_all(cls, sorts: tuple[Sort, ...]) -> tuple[Sort, ...]:
        if abs(sum(each.share for each in sorts) - 1) > 1e-6:
            raise ValueError("has shares that do not add up to 1; correct them")
        return sorts
