"""What tests of the lab share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lvlm_atlas.lab.curves import curve
from lvlm_atlas.lab.photographs.collection import collection
from pictures import write_pictures


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pictures of noise in place of the photographs; nothing that was drawn from them stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    collection.cache_clear()
    write_pictures()
    yield
    for each in (collection, curve.model_of, curve.equipment_of, curve.sat_of):
        each.cache_clear()
