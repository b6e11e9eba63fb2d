"""LVLM Atlas: an executable knowledge base of efficient inference for large vision-language models.

>>> import lvlm_atlas
>>> atlas = lvlm_atlas.load()
>>> atlas.query("relieves:decoding/memory and training:none").ids  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError, Fault, FaultsError

if TYPE_CHECKING:
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.roofline.deployment import Deployment

__all__ = ["AtlasError", "Deployment", "Fault", "FaultsError", "Planner", "data_root", "load"]


def __getattr__(name: str) -> Any:
    # What a caller does not use is not imported.
    if name == "Planner":
        from lvlm_atlas.planner.planner import Planner  # noqa: PLC0415

        return Planner
    if name == "Deployment":
        from lvlm_atlas.roofline.deployment import Deployment  # noqa: PLC0415

        return Deployment
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - it takes longer than the rest of this file

        return version("lvlm-atlas")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(root: Path | str | None = None) -> KnowledgeBase:
    """The knowledge base under `root`; by default the one that comes with the package.

    Args:
        root: its folder; one with `atlas.yaml` extends another catalog.

    Raises:
        FaultsError: files have faults; the error holds them all.
        AtlasError: `atlas.yaml` names no catalog.
    """
    # Imported here, since every part of the package imports this file first.
    from lvlm_atlas.atlas.loader import load as read  # noqa: PLC0415
    from lvlm_atlas.atlas.overlay import resolved  # noqa: PLC0415
    from lvlm_atlas.graph.knowledge import KnowledgeBase  # noqa: PLC0415

    atlas = read(resolved(Path(root)) if root is not None else None)
    if root is not None:  # what comes with the package is checked
        import warnings  # noqa: PLC0415

        from lvlm_atlas.atlas.dangling import warning  # noqa: PLC0415

        if words := warning(atlas):
            warnings.warn(f"{root}: {words}", stacklevel=2)
    return KnowledgeBase(atlas)
