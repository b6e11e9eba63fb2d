"""What a technique can need that depends on the model, by the taxonomy's ids: one table for planner and references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LACKS: Mapping[str, str] = {
    "cls-token": "its encoder has no class token",
    "free-patches": "its adapter joins neighbours of the patch grid",
    "vision-in-sequence": "its sequence holds no vision tokens",
    "one-position-axis": "its positions have several axes",
    "full-encoder-attention": "its encoder attends inside windows already",
    "unread-encoder-layer": "it reads what its encoder's last layer gives",
}
"""What to say of a model that does not offer a need. Other needs depend on kernels, drafts or data: no model decides
them."""

CALIBRATION = "calibration-samples"
"""The need of techniques that are fitted to a model before they run, by `calibrate`."""


def unmet(needs: Iterable[str], offers: Iterable[str]) -> tuple[str, ...]:
    """The needs that a model with these offers cannot meet, in the order given."""
    lacking = LACKS.keys() - set(offers)
    return tuple(need for need in needs if need in lacking)


def cannot_give(need: str) -> str:
    """Why a model cannot meet a need, as the end of a sentence that names the model."""
    return f"cannot give it: {LACKS[need]}"
