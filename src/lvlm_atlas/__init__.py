"""LVLM Atlas: an executable knowledge base of efficient inference for large vision-language models.

>>> import lvlm_atlas
>>> atlas = lvlm_atlas.load()
>>> atlas.query("relieves:decoding/memory and training:none").ids  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from lvlm_atlas.atlas.loader import load as _load
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError, Fault, FaultsError
from lvlm_atlas.graph.knowledge import KnowledgeBase

__all__ = ["AtlasError", "Fault", "FaultsError", "KnowledgeBase", "data_root", "load"]


def load(root: Path | str | None = None) -> KnowledgeBase:
    """The knowledge base under `root`; by default the one that comes with the package.

    Raises:
        FaultsError: files have faults; the error holds them all.
    """
    return KnowledgeBase(_load(Path(root) if root is not None else None))
