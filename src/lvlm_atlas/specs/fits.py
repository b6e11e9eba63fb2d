"""Whether a technique can run on a model with a request, as far as their records decide it."""

from __future__ import annotations

from collections.abc import Iterable

from lvlm_atlas.needs import LACKS, cannot_give, unmet
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.technique import Technique

_PLURAL = {"image": "images", "video": "videos"}


def offers(model: Model) -> frozenset[str]:
    """Which of the needs that a model decides it meets, by the ids of the taxonomy."""
    met = {
        "cls-token": model.encoder.class_token,
        "free-patches": model.adapter.merge == 1,
        "vision-in-sequence": not model.llm.cross_layers,
        "one-position-axis": model.llm.position_axes == 1,
        "full-encoder-attention": model.encoder.full_attention_layers is None,
        "unread-encoder-layer": model.encoder.layers_needed < model.encoder.layers,
    }
    assert met.keys() == LACKS.keys()  # noqa: S101
    return frozenset(need for need, is_met in met.items() if is_met)


def problem(technique: Technique, model: Model, workload: Workload) -> str | None:
    """Why a technique cannot run on a model with a request, as a clause; None if nothing is known against it."""
    given = [name for name, there in (("image", workload.images), ("video", workload.videos)) if there] or ["text"]
    if missing := [name for name in given if name not in technique.modality]:
        return f"is for {_joined(technique.modality)}, but the request has {_joined(missing)}"
    for need in unmet(technique.needs, offers(model)):
        return f"needs `{need}`, but {model.name} {cannot_give(need)}"
    return None


def _joined(modalities: Iterable[str]) -> str:
    return " and ".join(_PLURAL.get(modality, modality) for modality in modalities)
