"""The numbers of records, each with the least and the most that it may be."""

from typing import Annotated

from pydantic import Field

from lvlm_atlas.limits import MOST_COUNT, MOST_LAYER, MOST_PIXEL, MOST_WIDTH

Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
"""A number of things of which there is at least one."""

Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]
"""Of a hidden state, a head, or a vocabulary."""

Depth = Annotated[int, Field(ge=1, le=MOST_LAYER)]
"""A number of layers."""

Layers = tuple[Annotated[int, Field(ge=0, le=MOST_LAYER)], ...]
"""Layers by index, from 0."""

Side = Annotated[int, Field(ge=1, le=MOST_PIXEL)]
"""A side of an image in pixels or patches."""

Pair = tuple[Side, Side]

Positive = Annotated[float, Field(gt=0, le=1e21)]
"""A number above 0 that a run printed."""
