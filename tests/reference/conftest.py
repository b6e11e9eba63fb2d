"""What all tests of the reference share: names of tensors are held against their shapes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.shapes import checked


@pytest.fixture(autouse=True)
def _shapes_as_named() -> Iterator[None]:
    with checked():
        yield
