"""LVLM Atlas: an executable knowledge base of efficient inference for large vision-language models.

>>> import lvlm_atlas
>>> atlas = lvlm_atlas.load()
>>> atlas.query("relieves:decoding/memory and training:none").ids  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from lvlm_atlas.atlas.root import data_root
    from lvlm_atlas.fault import AtlasError, Fault, FaultsError
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.roofline.deployment import Deployment

__all__ = ["AtlasError", "Deployment", "Fault", "FaultsError", "Planner", "data_root", "load"]

_MODULES = {
    "AtlasError": "fault", "Deployment": "roofline.deployment", "Fault": "fault", "FaultsError": "fault",
    "Planner": "planner.planner", "data_root": "atlas.root",
}  # fmt: skip
"""Where what this package offers is defined; what a caller does not use is not imported."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"lvlm_atlas.{_MODULES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - it takes longer than the rest of this file

        return version("lvlm-atlas")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(root: Path | str | None = None) -> KnowledgeBase:
    """The knowledge base under `root`; by default the one that comes with the package.

    Args:
        root: its folder; one with `atlas.yaml` extends another catalog.

    Raises:
        FaultsError: files have faults; the error holds them all.
        AtlasError: `atlas.yaml` names no catalog.
    """
    # Imported here, since every part of the package imports this file first.
    from pathlib import Path  # noqa: PLC0415

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
